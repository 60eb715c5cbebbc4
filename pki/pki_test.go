package pki

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"crypto/x509"
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

	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	waittest.Main(tidied{m}, goleak.Find)
}

// tidied are the tests, and the end of what they share.
type tidied struct{ *testing.M }

func (m tidied) Run() int {
	defer func() {
		if j := javaRuns.Load(); j != nil {
			j.stop()
		}
		for _, dir := range nssStores.dirs {
			os.RemoveAll(dir)
		}
	}()
	return m.M.Run()
}

// sealer seals with AES-GCM.
type sealer struct{ aead cipher.AEAD }

func newSealer(t testing.TB) Sealer {
	t.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return sealer{aead}
}

func (s sealer) Seal(plain []byte) ([]byte, error) {
	return s.aead.Seal(nil, nil, plain, nil), nil
}

func (s sealer) Unseal(sealed []byte) ([]byte, error) {
	return s.aead.Open(nil, nil, sealed, nil)
}

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now().Truncate(time.Second)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type miss struct {
	client netip.Addr
	name   string
}

// house is a CA on an in-memory tree, with a server that serves its certificates.
type house struct {
	t      testing.TB
	tree   *treetest.Mem
	clock  *clock
	ca     *CA
	cfg    Config
	mu     sync.Mutex
	known  map[string]bool
	misses []miss
}

var enabled = []string{"registry.k8s.io", "docker.io", "registry-1.docker.io", "dl.k8s.io"}

func testSpec(c *clock) Spec {
	return Spec{CRLURL: "http://casemate.internal/crl/", Domain: "casemate.internal", Node: "n1",
		Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Now: c.now}
}

// build makes a CA from a Spec that edit may change, and opens it.
func build(t testing.TB, edit func(*Spec, *Config)) *house {
	t.Helper()
	return raise(t, edit, Init)
}

// raise is build with another Init.
func raise(
	t testing.TB, edit func(*Spec, *Config), found func(context.Context, Tree, Sealer, Spec, []string) error,
) *house {
	t.Helper()
	h := &house{t: t, tree: treetest.New(t), clock: newClock(),
		known: map[string]bool{"casemate.internal": true, "127.0.0.1": true, "n1.casemate.internal": true}}
	for _, n := range enabled {
		h.known[n] = true
	}
	spec := testSpec(h.clock)
	h.cfg = Config{
		Tree: h.tree, Sealer: newSealer(t), Dir: filepath.Join(t.TempDir(), "leaves"), Domain: spec.Domain, Node: "n1",
		Addrs: spec.Addrs,
		Known: h.isKnown, Miss: h.missed, CRLURL: "http://casemate.internal/crl/",
		Log: slog.New(slog.NewTextHandler(logTo{t}, nil)), Now: h.clock.now,
	}
	if edit != nil {
		edit(&spec, &h.cfg)
	}
	if err := found(t.Context(), h.tree, h.cfg.Sealer, spec, enabled); err != nil {
		t.Fatal(err)
	}
	h.open()
	t.Cleanup(func() { h.ca.Close() })
	return h
}

func (h *house) open() {
	h.t.Helper()
	ca, err := Open(h.t.Context(), h.cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.ca = ca
}

// reopen is a restart of the daemon.
func (h *house) reopen() {
	h.t.Helper()
	h.ca.Close()
	h.open()
}

func (h *house) isKnown(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known[name]
}

func (h *house) know(names ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range names {
		h.known[n] = true
	}
}

func (h *house) unknow(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.known, name)
}

func (h *house) missed(client netip.Addr, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.misses = append(h.misses, miss{client, name})
}

type logTo struct{ t testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// handshake makes a TLS handshake over loopback, as a client that trusts roots and asks for name ("" for none), and
// returns what the server sent.
func (h *house) handshake(roots []byte, name string) ([]*x509.Certificate, error) {
	h.t.Helper()
	return handshake(h.t, h.ca.TLSConfig(), roots, name, h.clock.now)
}

func handshake(t testing.TB, server *tls.Config, roots []byte, name string, now func() time.Time) ([]*x509.Certificate,
	error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		served <- tls.Server(conn, server).HandshakeContext(context.Background())
	}()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	cfg := &tls.Config{RootCAs: pool, ServerName: name, Time: now, NextProtos: []string{"h2", "http/1.1"}}
	if name == "" {
		cfg.ServerName = "127.0.0.1" // Go sends no SNI for an address
	}
	conn, err := tls.Dial("tcp", ln.Addr().String(), cfg)
	if err != nil {
		<-served
		return nil, err
	}
	defer conn.Close()
	if err := <-served; err != nil {
		t.Errorf("server: %v", err)
	}
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("negotiated %q, want http/1.1", p)
	}
	return conn.ConnectionState().PeerCertificates, nil
}

func TestHandshakeByName(t *testing.T) {
	h := build(t, nil)
	for _, name := range []string{"registry.k8s.io", "registry-1.docker.io", "casemate.internal",
		"n1.casemate.internal", "", "127.0.0.1"} {
		certs, err := h.handshake(h.ca.Roots(), name)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if len(certs) != 4 {
			t.Errorf("%q: %d certificates sent, want leaf, intermediate, root and policy", name, len(certs))
		}
	}
}

func TestUnknownNameIsAMiss(t *testing.T) {
	h := build(t, nil)
	_, err := h.handshake(h.ca.Roots(), "update.example.com")
	if err == nil || !strings.Contains(err.Error(), "remote error: tls: unrecognized name") {
		t.Errorf("got %v, want the alert unrecognized_name", err)
	}
	if want := (miss{netip.MustParseAddr("127.0.0.1"), "update.example.com"}); !slices.Contains(h.misses, want) {
		t.Errorf("misses %v, want %v", h.misses, want)
	}
	if n := len(h.ca.leaves.ready); n != 0 {
		t.Errorf("%d certificates were made for an unknown name", n)
	}
}
