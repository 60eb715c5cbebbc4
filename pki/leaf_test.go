package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// fakeConn lets a handshake come from and to any address.
type fakeConn struct {
	net.Conn
	local, remote string
}

func (c fakeConn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.local))
}

func (c fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.remote))
}

func hello(sni, local string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: sni, Conn: fakeConn{local: local, remote: "10.1.2.3:5555"}}
}

func TestWhichCertificate(t *testing.T) {
	h := build(t, func(s *Spec, c *Config) {
		s.Addrs = addrs("127.0.0.1", "10.0.0.11", "fd00::11")
		c.Addrs = s.Addrs
	})
	h.know("10.0.0.11", "fd00::11", "10.0.0.99")
	for _, c := range []struct{ sni, local, want string }{
		{"registry.k8s.io", "10.0.0.11:443", "registry.k8s.io"},
		{"Registry.K8S.IO", "10.0.0.11:443", "registry.k8s.io"},
		{"registry.k8s.io.", "10.0.0.11:443", "registry.k8s.io"},
		{"", "10.0.0.11:443", "10.0.0.11"},
		{"", "[::ffff:10.0.0.11]:443", "10.0.0.11"},
		{"", "[fd00::11]:443", "fd00::11"},
		{"10.0.0.11", "127.0.0.1:443", "10.0.0.11"},
		{"", "192.168.77.1:443", "casemate.internal"}, // a router changed the address
		{"", "10.0.0.99:443", "casemate.internal"},    // known, but no intermediate permits it
	} {
		cert, err := h.ca.TLSConfig().GetCertificate(hello(c.sni, c.local))
		if err != nil || cert == nil {
			t.Errorf("%q at %s: got %v, %v", c.sni, c.local, cert, err)
			continue
		}
		if err := cert.Leaf.VerifyHostname(hostInCert(c.want)); err != nil {
			t.Errorf("%q at %s: %v", c.sni, c.local, err)
		}
		if n := len(cert.Leaf.DNSNames) + len(cert.Leaf.IPAddresses); n != 1 {
			t.Errorf("%q at %s: %d names in one certificate", c.sni, c.local, n)
		}
		if len(cert.Leaf.CRLDistributionPoints) != 1 ||
			cert.Leaf.CRLDistributionPoints[0] != "http://casemate.internal/crl/"+h.snapshot().issuer.id+".crl" {
			t.Errorf("distribution points %v", cert.Leaf.CRLDistributionPoints)
		}
	}
	// Known to us, but the intermediate does not permit it: an error, and no miss.
	h.know("ghcr.io")
	if cert, err := h.ca.TLSConfig().GetCertificate(hello("ghcr.io", "10.0.0.11:443")); cert != nil ||
		!errors.Is(err, ErrNotPermitted) {
		t.Errorf("got %v, %v, want ErrNotPermitted", cert, err)
	}
	if len(h.misses) != 0 {
		t.Errorf("misses %v", h.misses)
	}
}

// A scanner makes nothing grow: no certificate, no file; what is no host name is no miss either.
func TestScannerMakesNothingGrow(t *testing.T) {
	h := build(t, nil)
	get := h.ca.TLSConfig().GetCertificate
	for i := range 500 {
		if cert, err := get(hello(fmt.Sprintf("host-%d.example.com", i), "127.0.0.1:443")); cert != nil || err != nil {
			t.Fatalf("got %v, %v", cert, err)
		}
	}
	for _, junk := range []string{"../../etc/passwd", "a b", "*.docker.io", "x\x00y", strings.Repeat("a", 300), "..",
		"a..b", "[::1", "é.example"} {
		if cert, err := get(hello(junk, "127.0.0.1:443")); cert != nil || err != nil {
			t.Errorf("%q: got %v, %v", junk, cert, err)
		}
	}
	if len(h.misses) != 500 {
		t.Errorf("%d misses, want 500", len(h.misses))
	}
	if m := h.misses[0]; m.client != netip.MustParseAddr("10.1.2.3") || m.name != "host-0.example.com" {
		t.Errorf("miss %v", m)
	}
	h.ca.leaves.files.flush()
	files, err := os.ReadDir(h.cfg.Dir)
	if err != nil || len(files) != 0 || len(h.ca.leaves.ready) != 0 {
		t.Errorf("%d files, %d certificates (%v)", len(files), len(h.ca.leaves.ready), err)
	}
}

func TestFirstHandshakesIssueOnce(t *testing.T) {
	h := build(t, nil)
	get := h.ca.TLSConfig().GetCertificate
	serials := sync.Map{}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			cert, err := get(hello("docker.io", "127.0.0.1:443"))
			if err != nil {
				t.Error(err)
				return
			}
			serials.Store(cert.Leaf.SerialNumber.String(), true)
		})
	}
	wg.Wait()
	n := 0
	serials.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d certificates were made for one name", n)
	}
}

// Two CAs in one process, asked for the same name at once: each answers with its own. (certmagic's own waiting lists
// are one per process.)
func TestTwoCAsInOneProcess(t *testing.T) {
	a, b := build(t, nil), build(t, nil)
	var wg sync.WaitGroup
	for range 20 {
		for _, h := range []*house{a, b} {
			wg.Go(func() {
				cert, err := h.ca.TLSConfig().GetCertificate(hello("docker.io", "127.0.0.1:443"))
				if err != nil {
					t.Error(err)
				} else if _, err := h.snapshot().verify(cert, "docker.io", h.clock.now()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

// Leaves survive a restart, in files that only their owner reads, and their keys are not in the tree.
func TestLeavesAreKeptOnTheNode(t *testing.T) {
	h := build(t, func(s *Spec, c *Config) {
		s.Addrs = addrs("127.0.0.1", "fd00::11")
		c.Addrs = s.Addrs
	})
	h.know("fd00::11")
	serial := func(sni, local string) string {
		t.Helper()
		cert, err := h.ca.TLSConfig().GetCertificate(hello(sni, local))
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber.String()
	}
	name, address := serial("docker.io", "127.0.0.1:443"), serial("", "[fd00::11]:443")
	h.maintain()
	h.reopen()
	h.maintain()
	if serial("docker.io", "127.0.0.1:443") != name || serial("", "[fd00::11]:443") != address {
		t.Error("a restart made a new certificate")
	}
	files := 0
	h.ca.leaves.files.flush()
	err := filepath.WalkDir(h.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if !d.IsDir() {
			files++
		}
		return nil
	})
	if err != nil || files != 2 {
		t.Errorf("%d files, want one of each name (%v)", files, err)
	}
	// A name that is not known any more loses its file, whether or not it was asked for since the start; and what an
	// earlier version kept here goes.
	if err := os.MkdirAll(filepath.Join(h.cfg.Dir, "certificates", "casemate", "docker.io"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.unknow("docker.io")
	h.maintain()
	if n := len(h.ca.leaves.cache.AllMatchingCertificates("docker.io")); n != 0 {
		t.Errorf("certmagic keeps %d certificates of a name that is not known any more", n)
	}
	h.reopen()
	h.unknow("fd00::11")
	h.maintain()
	h.ca.leaves.files.flush()
	left, err := os.ReadDir(h.cfg.Dir)
	if err != nil || len(left) != 0 {
		t.Errorf("%d names are left (%v)", len(left), err)
	}
	if cert, err := h.ca.TLSConfig().GetCertificate(hello("docker.io", "127.0.0.1:443")); cert != nil || err != nil {
		t.Errorf("a name that is not known any more is served: %v", err)
	}
}

// A power cut tears files, a restore brings foreign ones: a new certificate is made, and its file is a good one.
func TestDamagedFiles(t *testing.T) {
	cut := func(what func(data []byte) []byte) func(*testing.T, *house, string) {
		return func(t *testing.T, _ *house, file string) { spoil(t, file, what(slurp(t, file))) }
	}
	begin := []byte("-----BEGIN CERTIFICATE-----")
	for what, damage := range map[string]func(t *testing.T, h *house, file string){
		"empty":   cut(func([]byte) []byte { return nil }),
		"rubbish": cut(func([]byte) []byte { return []byte("rubbish") }),
		"zeros":   cut(func(data []byte) []byte { return make([]byte, len(data)) }),
		"absent":  func(t *testing.T, _ *house, file string) { remove(t, file) },
		"no key":  cut(func(data []byte) []byte { return data[bytes.Index(data, begin):] }),
		"no cert": cut(func(data []byte) []byte { return data[:bytes.Index(data, begin)] }),
		"no chain": cut(func(data []byte) []byte {
			return data[:bytes.Index(data, begin)+bytes.Index(data[bytes.Index(data, begin)+1:], begin)]
		}),
		"no note":   cut(func(data []byte) []byte { return data[:bytes.LastIndexByte(data, '{')] }),
		"torn note": cut(func(data []byte) []byte { return data[:len(data)-2] }),
		"another note": cut(func(data []byte) []byte {
			return append(data[:bytes.LastIndexByte(data, '{'):bytes.LastIndexByte(data, '{')], `{"sans": 3}`...)
		}),
		"torn": cut(func(data []byte) []byte { return data[:bytes.LastIndex(data, begin)+100] }),
		"a directory": func(t *testing.T, _ *house, file string) {
			remove(t, file)
			if err := os.MkdirAll(filepath.Join(file, "below"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"another CA's": func(t *testing.T, h *house, file string) {
			o := build(t, nil)
			spoil(t, file, o.leafFile("docker.io"))
		},
		"another name's": func(t *testing.T, h *house, file string) { spoil(t, file, h.leafFile("dl.k8s.io")) },
		"another key": func(t *testing.T, h *house, file string) {
			own, other := slurp(t, file), h.leafFile("dl.k8s.io")
			spoil(t, file, append(other[:bytes.Index(other, begin)], own[bytes.Index(own, begin):]...))
		},
		"another signature": func(t *testing.T, h *house, file string) {
			block, rest := pem.Decode(slurp(t, file)[len(keyBlock(slurp(t, file))):])
			block.Bytes[len(block.Bytes)-1] ^= 1
			spoil(t, file, slices.Concat(keyBlock(slurp(t, file)), pem.EncodeToMemory(block), rest))
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := build(t, nil)
			first, err := h.handshake(h.ca.Roots(), "docker.io")
			if err != nil {
				t.Fatal(err)
			}
			h.ca.leaves.files.flush()
			damage(t, h, filepath.Join(h.cfg.Dir, "docker.io"))
			h.reopen()
			for range 2 {
				certs, err := h.handshake(h.ca.Roots(), "docker.io")
				if err != nil {
					t.Fatal(err)
				}
				if certs[0].Equal(first[0]) {
					t.Error("the damaged certificate is served")
				}
			}
			if what == "a directory" {
				return // in the way of the file
			}
			h.ca.leaves.files.flush()
			if f, err := h.ca.leaves.load("docker.io"); err != nil || !h.ca.leaves.usable(f) {
				t.Errorf("the file is not usable: %v", err)
			}
		})
		t.Run(what+", found when it is renewed", func(t *testing.T) {
			h := build(t, nil)
			if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
				t.Fatal(err)
			}
			first := h.ca.leaves.lookup("docker.io")
			h.ca.leaves.files.flush()
			damage(t, h, filepath.Join(h.cfg.Dir, "docker.io"))
			h.clock.add(21 * day)
			h.maintain()
			if h.ca.leaves.lookup("docker.io").hash == first.hash {
				t.Error("the damaged file stopped the renewal")
			}
			if n := len(h.ca.leaves.cache.AllMatchingCertificates("docker.io")); n != 1 {
				t.Errorf("certmagic keeps %d certificates of the name, want 1", n)
			}
		})
	}
}

// leafFile is the file of a leaf.
func (h *house) leafFile(name string) []byte {
	h.t.Helper()
	if _, err := h.ca.leaves.obtain(name); err != nil {
		h.t.Fatal(err)
	}
	h.ca.leaves.files.flush()
	return slurp(h.t, filepath.Join(h.cfg.Dir, name))
}

// keyBlock is what a leaf's file begins with.
func keyBlock(file []byte) []byte {
	return file[:bytes.Index(file, []byte("-----BEGIN CERTIFICATE-----"))]
}

func slurp(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func spoil(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// A disk that takes nothing does not stop handshakes, nor renewals.
func TestDiskTakesNothing(t *testing.T) {
	h := build(t, nil)
	if err := os.Mkdir(filepath.Join(h.cfg.Dir, "docker.io"), 0o700); err != nil { // in the way
		t.Fatal(err)
	}
	certs, err := h.handshake(h.ca.Roots(), "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	h.clock.add(25 * day)
	h.maintain()
	again, err := h.handshake(h.ca.Roots(), "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	if again[0].Equal(certs[0]) {
		t.Error("the leaf was not renewed")
	}
}

// The leaf is renewed in time by certmagic, with a new key, and no handshake fails meanwhile.
func TestLeafIsRenewed(t *testing.T) {
	h := build(t, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	roots := h.ca.Roots()
	if _, err := h.handshake(roots, "docker.io"); err != nil {
		t.Fatal(err)
	}
	first := h.ca.leaves.lookup("docker.io")
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := h.ca.TLSConfig().GetCertificate(hello("docker.io", "127.0.0.1:443")); err != nil {
				t.Error(err)
			}
		}
	}()
	h.clock.add(19 * day) // two thirds of 31 days are not over
	h.maintain()
	if h.ca.leaves.lookup("docker.io") != first {
		t.Error("renewed too early")
	}
	h.clock.add(2 * day)
	h.maintain()
	second := h.ca.leaves.lookup("docker.io")
	if second == first {
		t.Fatal("not renewed")
	}
	if bytes.Equal(second.cert.Leaf.RawSubjectPublicKeyInfo, first.cert.Leaf.RawSubjectPublicKeyInfo) {
		t.Error("renewed with the same key")
	}
	close(stop)
	<-done
	if n := len(h.ca.leaves.cache.AllMatchingCertificates("docker.io")); n != 1 {
		t.Errorf("certmagic keeps %d certificates of the name, want 1", n)
	}
	if _, err := h.handshake(roots, "docker.io"); err != nil {
		t.Error(err)
	}
	// Nobody asked for weeks and Run did not run: the next handshake waits for a new one.
	h.clock.add(60 * day)
	if _, err := h.handshake(roots, "docker.io"); err != nil {
		t.Error(err)
	}
}

// A handshake needs no quorum: nothing is written to the tree for it.
func TestHandshakeWithoutQuorum(t *testing.T) {
	h := build(t, nil)
	h.tree.Fail = func(string) (error, bool) {
		t.Error("a handshake wrote to the tree")
		return errors.New("no quorum"), false
	}
	for _, name := range []string{"docker.io", "registry.k8s.io", ""} {
		if _, err := h.handshake(h.ca.Roots(), name); err != nil {
			t.Error(err)
		}
	}
	h.tree.Fail = nil
}

func TestClosedCA(t *testing.T) {
	h := build(t, nil)
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.ca.Close(), h.ca.Close()); err != nil {
		t.Error(err)
	}
	if _, err := h.ca.TLSConfig().GetCertificate(hello("dl.k8s.io", "127.0.0.1:443")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

// A client that hangs up does not stop the issuance for the others.
func TestClientHangsUp(t *testing.T) {
	h := build(t, nil)
	client, server := net.Pipe()
	client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tls.Server(server, h.ca.TLSConfig()).HandshakeContext(ctx); err == nil {
		t.Error("no error")
	}
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Error(err)
	}
}

func TestTooManyLeaves(t *testing.T) {
	h := build(t, nil)
	h.ca.leaves.mu.Lock()
	for i := range maxLeaves {
		h.ca.leaves.ready[fmt.Sprint(i)] = &leaf{cert: &tls.Certificate{
			Leaf: &x509.Certificate{NotAfter: time.Now().Add(day)}}}
	}
	h.ca.leaves.mu.Unlock()
	if _, err := h.ca.leaves.obtain("docker.io"); err == nil ||
		!strings.Contains(err.Error(), "4096 certificates are the most") {
		t.Errorf("got %v", err)
	}
}

// What certmagic logs arrives in our log: its warnings and errors as such, its information as debugging.
func TestZapToSlog(t *testing.T) {
	var out bytes.Buffer
	opts := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	log := zapLogger(slog.New(slog.NewTextHandler(&out, opts))).With(zap.String("who", "x"))
	log.Info("chatter")
	log.Warn("careful", zap.Int("n", 3), zap.Duration("left", time.Second))
	log.Named("part").Error("bad", zap.Error(errFault))
	want := "level=WARN msg=careful who=x n=3 left=1s\nlevel=ERROR msg=bad who=x error=injected\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if err := log.Sync(); err != nil {
		t.Error(err)
	}
}

// certmagic's globals are left alone: other users of the module in this process would see what we set.
func TestGlobalsAreUnused(t *testing.T) {
	before := certmagic.Default
	h := build(t, nil)
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", before) != fmt.Sprintf("%+v", certmagic.Default) {
		t.Error("certmagic.Default was changed")
	}
	if len(h.ca.leaves.magic.Issuers) != 1 || h.ca.leaves.magic.OnDemand != nil {
		t.Error("certmagic could ask someone else for certificates")
	}
}

// BenchmarkGet is what a handshake costs beside the handshake.
func BenchmarkGet(b *testing.B) {
	h := build(b, nil)
	get := h.ca.TLSConfig().GetCertificate
	for b.Loop() {
		if _, err := get(hello("docker.io", "127.0.0.1:443")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNewLeaf is what the first handshake of a name costs besides.
func BenchmarkNewLeaf(b *testing.B) {
	h := build(b, nil)
	for i := 0; b.Loop(); i++ {
		if _, err := h.ca.leaves.renew(fmt.Sprintf("%d.docker.io", i)); err != nil {
			b.Fatal(err)
		}
	}
}
