package pki

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sync/singleflight"
)

// leaves are this node's certificates for the names that it answers for. certmagic makes keys and requests, stores,
// renews and holds the certificates; what it asks for a certificate is us (Issue). When that happens is decided here
// and not by certmagic's on-demand mode, for three reasons: its wait lists are one per process and by name, so that two
// CAs in one process mix up; it retries inside the handshake, for minutes; and it knows expiry as the only reason to
// renew, by the system's clock.
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
	ready  map[string]*leaf  // what handshakes may get of certmagic's cache, by name; at most maxLeaves
	said   map[string]string // by name: why it has no certificate
	wg     sync.WaitGroup    // calls in flight; added to while mu is held and the CA is open
}

// maxLeaves bounds what a wrong Config.Known could do to memory and disk.
const maxLeaves = 4096

// leaf is a certificate of certmagic's cache that was checked when it came there.
type leaf struct {
	cert *tls.Certificate // its Leaf is set
	hash string           // certmagic's name for it
	*above
}

// issuerKey is how certmagic calls us in its storage.
const issuerKey = "casemate"

func openLeaves(c *CA) (*leaves, error) {
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificate directory: %w", err)
	}
	l := &leaves{ca: c, files: openFiles(c.cfg.Dir, c.log), ready: map[string]*leaf{}, said: map[string]string{}}
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
	f, err := l.load(name)
	if err == nil && l.usable(f) {
		l.keep(name, f)
		return f, nil
	}
	made, merr := l.renew(name)
	if err == nil {
		l.drop(name, f)
	}
	return made, merr
}

// renew makes a new leaf for name and puts it in the place of the old one.
func (l *leaves) renew(name string) (*leaf, error) {
	if err := l.permitted(name); err != nil { // before a key is made for nothing
		return nil, fmt.Errorf("the intermediate is not for it: %w", err)
	}
	// Where nothing is stored, that obtains the first one.
	if err := l.magic.RenewCertSync(l.ctx, name, true); err != nil {
		return nil, err
	}
	f, err := l.load(name)
	if err != nil {
		return nil, err
	}
	l.keep(name, f)
	return f, nil
}

// load brings the stored leaf of name into certmagic's cache, and checks it as a client would.
func (l *leaves) load(name string) (*leaf, error) {
	m, err := l.magic.CacheManagedCertificate(l.ctx, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.ca.log.Warn("stored certificate is damaged", "name", name, "err", err)
		}
		return nil, err
	}
	f := &leaf{cert: &m.Certificate, hash: m.Hash()}
	s, err := l.ca.current()
	if err == nil {
		f.above, err = s.verify(f.cert, name, l.ca.now())
	}
	if err != nil {
		l.drop(name, f)
		return nil, err
	}
	copy(f.cert.Certificate[1:], f.chain) // one copy for all leaves, in certmagic's cache as well
	return f, nil
}

// keep lets handshakes have f in the place of the name's leaf of before.
func (l *leaves) keep(name string, f *leaf) {
	l.mu.Lock()
	old := l.ready[name]
	l.ready[name] = f
	l.mu.Unlock()
	l.drop(name, old)
}

// drop removes a leaf from certmagic's cache, unless it is the one that handshakes get.
func (l *leaves) drop(name string, f *leaf) {
	if now := l.lookup(name); f != nil && (now == nil || now.hash != f.hash) {
		l.cache.Remove([]string{f.hash})
	}
}

// IssuerKey implements certmagic.Issuer.
func (l *leaves) IssuerKey() string { return issuerKey }

// Issue implements certmagic.Issuer: it signs a request that certmagic made for one name.
func (l *leaves) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	s, err := l.ca.current()
	if err != nil {
		return nil, err
	}
	names := slices.Clone(csr.DNSNames)
	for _, ip := range csr.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			names = append(names, a.Unmap().String())
		}
	}
	cert, err := l.ca.signLeaf(s.issuer, csr.PublicKey, names, leafLife)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: append(pemOf(cert), s.chain...)}, nil
}

// above is what is sent behind a leaf, from its intermediate up. It was verified.
type above struct {
	root   string // ID of the root that the leaf verifies by
	chain  [][]byte
	listed bool   // the intermediate says where it would be revoked
	behind []byte // what is sent behind the intermediate

	// For leaves verified later, up to the anchor.
	signer   *x509.CertPool // the leaf's signer alone
	limits   []constraints
	from, to time.Time // all are valid
}

// maxAbove bounds the chains that a snapshot remembers. One is in use; stored leaves have older ones.
const maxAbove = 64

// verify checks a certificate as a client does that trusts what we hand out; it prefers the newest root.
//
// The first leaf below a chain is verified with all that is above it. Of the next ones the signature, the dates and the
// name are verified, the name by the constraints of every certificate above: what is left are the signatures above, the
// path lengths and the key usages, which are the same for all.
func (s *snapshot) verify(cert *tls.Certificate, name string, now time.Time) (*above, error) {
	if len(cert.Certificate) < 2 {
		return nil, errors.New("chain without an intermediate")
	}
	chain := cert.Certificate[1:]
	known := sha256.Sum256(bytes.Join(chain, nil))
	s.mu.Lock()
	up := s.verified[known]
	s.mu.Unlock()
	opts := x509.VerifyOptions{DNSName: hostInCert(name), CurrentTime: now}
	if up != nil && onlyFor(cert.Leaf, name) && !now.Before(up.from) && !now.After(up.to) {
		opts.Roots = up.signer
		if _, err := cert.Leaf.Verify(opts); err != nil {
			return nil, err
		}
		return up, allowsAll(up.limits, name)
	}
	up = &above{chain: chain, behind: bytes.Join(chain[1:], nil)}
	opts.Intermediates = x509.NewCertPool()
	var certs []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
		opts.Intermediates.AddCert(c)
	}
	up.listed = len(certs[0].CRLDistributionPoints) > 0
	if certs[0].Equal(s.root.signer) { // an enterprise's that signs leaves itself
		up.behind = bytes.Join(chain, nil)
	}
	authorities := []*authority{s.root}
	if s.old != nil {
		authorities = append(authorities, s.old)
	}
	var err error
	for _, a := range authorities {
		opts.Roots = x509.NewCertPool()
		opts.Roots.AddCert(a.anchor)
		var ways [][]*x509.Certificate
		if ways, err = cert.Leaf.Verify(opts); err != nil {
			continue
		}
		up.root = a.ref.ID
		// What an enterprise's certificates permit may be written in ways that our constraints do not know.
		if way := ways[0][1:]; !a.ref.Enterprise && way[0].Equal(certs[0]) {
			s.remember(known, up, way)
		}
		return up, nil
	}
	return nil, err
}

// remember spares leaves below the same chain its verification. way is what the chain was verified by: from the
// leaf's signer up to the anchor.
func (s *snapshot) remember(known [sha256.Size]byte, up *above, way []*x509.Certificate) {
	up.signer = x509.NewCertPool()
	up.signer.AddCert(way[0])
	up.from, up.to = way[0].NotBefore, way[0].NotAfter
	for _, c := range way {
		up.limits = append(up.limits, constraintsOf(c))
		up.to = earlier(up.to, c.NotAfter)
		if c.NotBefore.After(up.from) {
			up.from = c.NotBefore
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verified == nil || len(s.verified) >= maxAbove {
		s.verified = map[[sha256.Size]byte]*above{}
	}
	s.verified[known] = up
}

// onlyFor reports that a certificate is for one name and nothing else.
func onlyFor(cert *x509.Certificate, name string) bool {
	return len(cert.DNSNames)+len(cert.IPAddresses) == 1 && len(cert.EmailAddresses)+len(cert.URIs) == 0 &&
		cert.VerifyHostname(hostInCert(name)) == nil
}

// hostInCert writes an address as VerifyOptions.DNSName wants it.
func hostInCert(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return "[" + name + "]"
	}
	return name
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

// sweep removes the files of names that are not known any more and were not asked for since the start, and what
// versions of before have left in the directory.
func (l *leaves) sweep() {
	known := func(n string) bool { return n == l.ca.domain || l.ca.cfg.Known != nil && l.ca.cfg.Known(n) }
	keys, _ := l.files.List(l.ctx, certs, false)
	for _, key := range keys {
		name := path.Base(key)
		// certmagic writes the colons of an address as dashes.
		a, err := netip.ParseAddr(strings.ReplaceAll(name, "-", ":"))
		if !known(name) && (err != nil || !known(a.String())) {
			_ = l.files.Delete(l.ctx, key) // or with the next sweep
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
	return due(f.cert.Leaf.NotBefore, f.cert.Leaf.NotAfter, now) && earlier(now.Add(leafLife), s.issuer.end).After(
		f.cert.Leaf.NotAfter)
}

func (l *leaves) forget(name string) {
	l.mu.Lock()
	f := l.ready[name]
	delete(l.ready, name)
	l.mu.Unlock()
	l.drop(name, f)
	_ = l.files.Delete(l.ctx, certmagic.StorageKeys.CertsSitePrefix(issuerKey, name)) // or with the next sweep
}
