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
	"net"
	"net/netip"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sync/singleflight"
)

// leaves are this node's certificates for the names that it answers for. certmagic makes keys and requests, keeps the
// files and renews; what it asks for a certificate is us (Issue). When to do so is decided here and not by certmagic's
// on-demand mode, for three reasons: its wait lists are one per process and by name, so that two CAs in one process mix
// up; it retries inside the handshake, for minutes; and it knows expiry as the only reason to renew, by the system's
// clock.
type leaves struct {
	ca     *CA
	magic  *certmagic.Config
	cache  *certmagic.Cache
	files  *files
	flight singleflight.Group

	ctx  context.Context // ends with close
	stop context.CancelFunc

	mu     sync.RWMutex
	closed bool
	ready  map[string]*leaf  // by name; at most maxLeaves
	said   map[string]string // by name: why it has no certificate
	wg     sync.WaitGroup    // calls in flight; added to under mu while not closed
}

// maxLeaves bounds what a wrong Config.Known could do to memory and disk.
const maxLeaves = 4096

// leaf is a certificate that was checked when it was loaded.
type leaf struct {
	cert *tls.Certificate
	hash string // certmagic's name for it
	root string // ID of the root that it verifies by
	// listed means that its intermediate says where it would be revoked.
	listed bool
	// behind is what is sent behind the intermediate, DER.
	behind []byte
}

const issuerKey = "casemate"

func openLeaves(c *CA) (*leaves, error) {
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificate directory: %w", err)
	}
	l := &leaves{ca: c, files: newFiles(c.cfg.Dir, c.log), ready: map[string]*leaf{}, said: map[string]string{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	log := zapLogger(c.log)
	l.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return l.magic, nil },
		// Renewal and OCSP are not driven by certmagic's tickers: never, in a process's life.
		RenewCheckInterval: 10 * 365 * day, OCSPCheckInterval: 10 * 365 * day,
		Logger: log,
	})
	l.magic = certmagic.New(l.cache, certmagic.Config{
		RenewalWindowRatio:  1.0 / 3,
		Issuers:             []certmagic.Issuer{l},
		KeySource:           certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Storage:             l.files,
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		DisableARI:          true,
		DisableStorageCheck: true,
		Logger:              log,
	})
	return l, nil
}

func (l *leaves) close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	l.mu.Unlock()
	l.stop()
	l.wg.Wait()
	l.files.flush()
	l.cache.Stop()
}

// enter reports that the leaves are open, and keeps close waiting until l.wg.Done.
func (l *leaves) enter() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return false
	}
	l.wg.Add(1)
	return true
}

// get is tls.Config.GetCertificate. A name that is not known is answered with the alert unrecognized_name (RFC 6066,
// 3), which crypto/tls sends when there is neither a certificate nor an error.
func (l *leaves) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := l.name(hello)
	if name == "" {
		return nil, nil
	}
	f := l.lookup(name)
	if l.usable(f) {
		return f.cert, nil
	}
	if !l.enter() {
		return nil, net.ErrClosed
	}
	// One issuance for all who wait. It goes on when one of them hangs up.
	type result struct {
		leaf *leaf
		err  error
	}
	ctx := hello.Context()
	if ctx == nil {
		ctx = l.ctx // only a hello that crypto/tls did not make has none
	}
	done := make(chan result, 1)
	go func() {
		defer l.wg.Done()
		v, err, _ := l.flight.Do(name, func() (any, error) { return l.obtain(name) })
		got, _ := v.(*leaf)
		done <- result{got, err}
	}()
	select {
	case r := <-done:
		l.say(name, r.err)
		if r.err == nil {
			return r.leaf.cert, nil
		}
		select {
		case l.ca.kick <- struct{}{}:
		default:
		}
		if l.timely(f) {
			return f.cert, nil // below the old root: better than nothing
		}
		return nil, fmt.Errorf("certificate for %s: %w", name, r.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// say logs that a name has no certificate, once and not at every handshake.
func (l *leaves) say(name string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.mu.Lock()
	news := l.said[name] != text
	if text == "" || len(l.said) >= maxLeaves {
		delete(l.said, name)
	} else {
		l.said[name] = text
	}
	l.mu.Unlock()
	if err != nil && news {
		l.ca.log.Error("no certificate", "name", name, "err", err)
	}
}

// name returns the known name that the client means, "" if it is not known. A client that names nothing means the
// address that it connected to, and gets the domain's certificate if that address is not known (a router may have
// changed it) or not permitted.
func (l *leaves) name(hello *tls.ClientHelloInfo) string {
	cfg := l.ca.cfg
	if cfg.Known == nil {
		return ""
	}
	if hello.ServerName == "" {
		if hello.Conn != nil {
			if ap, err := netip.ParseAddrPort(hello.Conn.LocalAddr().String()); err == nil {
				if a := ap.Addr().Unmap().WithZone("").String(); cfg.Known(a) && l.permitted(a) == nil {
					return a
				}
			}
		}
		return l.ca.domain
	}
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if a, err := netip.ParseAddr(name); err == nil && a.Zone() == "" {
		name = a.Unmap().String()
	} else if !validHost(name) {
		// What is no host name is no miss either: it is a scanner.
		l.ca.log.Debug("server name is not a host name", "name", fmt.Sprintf("%.80q", hello.ServerName))
		return ""
	}
	if cfg.Known(name) {
		return name
	}
	if cfg.Miss != nil && hello.Conn != nil {
		if ap, err := netip.ParseAddrPort(hello.Conn.RemoteAddr().String()); err == nil {
			cfg.Miss(ap.Addr().Unmap(), name)
		}
	}
	return ""
}

func (l *leaves) permitted(name string) error {
	s, err := l.ca.current()
	if err != nil {
		return err
	}
	return s.issuer.allows(name)
}

func (l *leaves) lookup(name string) *leaf {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.ready[name]
}

// timely reports whether there is a leaf and it is valid now.
func (l *leaves) timely(f *leaf) bool {
	now := l.ca.now()
	return f != nil && !now.Before(f.cert.Leaf.NotBefore) && !now.After(f.cert.Leaf.NotAfter)
}

// usable reports whether all clients accept the leaf now: it is valid, below the root in use, and what is sent with
// it is what leads to that root now. One below the old root of an overlap is replaced before it is sent, because
// only the new one's chain suits clients that trust either; and one of an overlap that has ended, because its cross
// certificate leads verifiers that do not search the wrong way.
func (l *leaves) usable(f *leaf) bool {
	if !l.timely(f) {
		return false
	}
	s, err := l.ca.current()
	return err != nil || f.root == s.state.Root.ID && bytes.Equal(f.behind, s.sent)
}

// obtain returns a usable leaf for name: that of an earlier run, or a new one.
func (l *leaves) obtain(name string) (*leaf, error) {
	if f := l.lookup(name); l.usable(f) {
		return f, nil
	}
	l.mu.RLock()
	full := l.ready[name] == nil && len(l.ready) >= maxLeaves
	l.mu.RUnlock()
	if full {
		return nil, fmt.Errorf("%d certificates are the most that a node keeps: disable names", maxLeaves)
	}
	f, err := l.fromFiles(name)
	if err == nil && l.usable(f) {
		l.keep(name, f)
		return f, nil
	}
	made, rerr := l.renew(name)
	if old := l.lookup(name); err == nil && (old == nil || old.hash != f.hash) {
		l.cache.Remove([]string{f.hash})
	}
	return made, rerr
}

// renew makes a new leaf for name and puts it in the place of the old one.
func (l *leaves) renew(name string) (*leaf, error) {
	err := l.permitted(name) // before a key is made for nothing
	if err != nil {
		return nil, fmt.Errorf("the intermediate is not for it: %w", err)
	}
	if l.files.Exists(l.ctx, certmagic.StorageKeys.SiteMeta(issuerKey, name)) {
		err = l.magic.RenewCertSync(l.ctx, name, true)
	} else {
		err = l.magic.ObtainCertSync(l.ctx, name)
	}
	if err != nil {
		return nil, err
	}
	f, err := l.fromFiles(name)
	if err != nil {
		return nil, err
	}
	l.keep(name, f)
	return f, nil
}

// fromFiles loads the stored leaf of name and checks it as a client would.
func (l *leaves) fromFiles(name string) (*leaf, error) {
	m, err := l.magic.CacheManagedCertificate(l.ctx, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			// Torn or foreign files: away with them, a new certificate costs nothing.
			l.ca.log.Warn("stored certificate is damaged", "name", name, "err", err)
			_ = l.files.Delete(l.ctx, certmagic.StorageKeys.CertsSitePrefix(issuerKey, name))
		}
		return nil, err
	}
	cert := m.Certificate
	f := &leaf{cert: &cert, hash: m.Hash()}
	s, err := l.ca.current()
	if err == nil {
		f.root, err = s.verify(cert.Certificate, name, l.ca.now())
	}
	var up *x509.Certificate
	if err == nil {
		up, err = x509.ParseCertificate(cert.Certificate[1]) // verify has seen it
	}
	if err != nil {
		l.cache.Remove([]string{f.hash})
		return nil, err
	}
	f.listed, f.behind = len(up.CRLDistributionPoints) > 0, bytes.Join(cert.Certificate[2:], nil)
	if up.Equal(s.root.signer) { // an enterprise's that signs leaves itself
		f.behind = bytes.Join(cert.Certificate[1:], nil)
	}
	return f, nil
}

func (l *leaves) keep(name string, f *leaf) {
	l.mu.Lock()
	old := l.ready[name]
	l.ready[name] = f
	l.mu.Unlock()
	if old != nil && old.hash != f.hash {
		l.cache.Remove([]string{old.hash})
	}
}

// verify checks a chain as a client does that trusts what we hand out; it prefers the newest root.
func (s *snapshot) verify(chain [][]byte, name string, now time.Time) (root string, err error) {
	var certs []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return "", err
		}
		certs = append(certs, c)
	}
	if len(certs) < 2 {
		return "", errors.New("chain without an intermediate")
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	for _, anchor := range s.anchors() {
		roots := x509.NewCertPool()
		roots.AddCert(anchor)
		if _, err = certs[0].Verify(x509.VerifyOptions{DNSName: hostInCert(name), Roots: roots, Intermediates: between, CurrentTime: now}); err != nil {
			continue
		}
		if anchor.Equal(s.root.anchor) {
			return s.root.ref.ID, nil
		}
		return s.old.ref.ID, nil
	}
	return "", err
}

// hostInCert writes an address as VerifyOptions.DNSName wants it.
func hostInCert(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return "[" + name + "]"
	}
	return name
}

// IssuerKey names the directory in certmagic's storage.
func (l *leaves) IssuerKey() string { return issuerKey }

// Issue is certmagic's Issuer: it signs a request that certmagic made for one name.
func (l *leaves) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	s, err := l.ca.current()
	if err != nil {
		return nil, err
	}
	names := append([]string{}, csr.DNSNames...)
	for _, ip := range csr.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			names = append(names, a.Unmap().String())
		}
	}
	cert, err := l.ca.signLeaf(s.issuer, csr.PublicKey, names, leafLife)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, c := range append([]*x509.Certificate{cert}, s.issuer.chain...) {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return &certmagic.IssuedCertificate{Certificate: out.Bytes()}, nil
}

// maintain renews leaves that are due, and forgets those of names that are not known any more.
func (l *leaves) maintain(ctx context.Context) error {
	if !l.enter() {
		return net.ErrClosed
	}
	defer l.wg.Done()
	l.mu.RLock()
	names := make([]string, 0, len(l.ready))
	for n := range l.ready {
		names = append(names, n)
	}
	l.mu.RUnlock()
	var errs error
	for _, n := range names {
		if ctx.Err() != nil {
			return errs
		}
		if n != l.ca.domain && (l.ca.cfg.Known == nil || !l.ca.cfg.Known(n)) {
			l.forget(n)
			continue
		}
		if f := l.lookup(n); f == nil || !l.due(f) {
			continue
		}
		if _, err, _ := l.flight.Do(n, func() (any, error) { return l.renew(n) }); err != nil {
			errs = errors.Join(errs, fmt.Errorf("certificate for %s: %w", n, err))
		}
	}
	l.sweep()
	return errs
}

// sweep removes the files of names that are not known any more and were not asked for since the start.
func (l *leaves) sweep() {
	dirs, err := l.files.List(l.ctx, certmagic.StorageKeys.CertsPrefix(issuerKey), false)
	if err != nil {
		return
	}
	for _, dir := range dirs {
		name := path.Base(dir)
		// certmagic writes the colons of an address as dashes.
		known := func(n string) bool { return n == l.ca.domain || l.ca.cfg.Known != nil && l.ca.cfg.Known(n) }
		if a, err := netip.ParseAddr(strings.ReplaceAll(name, "-", ":")); !known(name) && (err != nil || !known(a.String())) {
			_ = l.files.Delete(l.ctx, dir)
		}
	}
}

// due reports that a leaf should be replaced, and that a new one would be better.
func (l *leaves) due(f *leaf) bool {
	s, err := l.ca.current()
	if err != nil {
		return false
	}
	if !l.usable(f) || !f.listed && len(s.issuer.cert.CRLDistributionPoints) > 0 {
		return true
	}
	now := l.ca.now()
	return due(f.cert.Leaf.NotBefore, f.cert.Leaf.NotAfter, now) && earlier(now.Add(leafLife), s.issuer.end).After(f.cert.Leaf.NotAfter)
}

func (l *leaves) forget(name string) {
	l.mu.Lock()
	f := l.ready[name]
	delete(l.ready, name)
	l.mu.Unlock()
	if f != nil {
		l.cache.Remove([]string{f.hash})
		_ = l.files.Delete(l.ctx, certmagic.StorageKeys.CertsSitePrefix(issuerKey, name))
	}
}
