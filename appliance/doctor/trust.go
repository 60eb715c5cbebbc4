package doctor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bundles are the files where Go looks for the system's roots, in order: it reads the first that exists (crypto/x509,
// root_linux.go).
var bundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem", "/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"}

// loadTrust reads the node's trust store like Go programs do.
func (r *run) loadTrust() {
	r.bundle = r.env("SSL_CERT_FILE")
	for _, f := range bundles {
		if _, err := os.Stat(filepath.Join(r.cfg.Root, f)); err == nil && r.bundle == "" {
			r.bundle = f
		}
	}
	if r.cfg.Root == "/" {
		if pool, err := x509.SystemCertPool(); err == nil {
			r.trust = pool
		}
	} else {
		r.trust = x509.NewCertPool()
		for _, f := range append([]string{r.bundle}, r.glob("/etc/ssl/certs/*.pem")...) {
			text, _ := r.read(f)
			r.trust.AppendCertsFromPEM([]byte(text))
		}
	}
	if r.trust == nil {
		r.trust = x509.NewCertPool() // nil would mean the host's trust store
	}
	if r.bundle == "" {
		r.bundle = "none found"
	}
}

// env returns a variable of the environment; the last one wins.
func (r *run) env(name string) (value string) {
	for _, e := range r.cfg.Env {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			value = v
		}
	}
	return value
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// visit is one TLS handshake: an endpoint and a name.
type visit struct {
	d    *endpoint
	name string
}

// checkTrust checks that the certificate chain of every name verifies with the roots of the node's trust store.
func (r *run) checkTrust(ctx context.Context, c *Check) {
	r.loadTrust()
	var lacking []string
	for _, root := range r.roots {
		if !holds(r.trust, root) {
			lacking = append(lacking, fingerprint(root))
		}
	}
	switch {
	case len(r.roots) > 0 && len(lacking) == len(r.roots):
		c.fail("unknown-authority", values{"detail": strings.Join(lacking, ", "), "file": r.bundle})
	case lacking != nil:
		c.warn("new-root", values{"detail": strings.Join(lacking, ", "), "file": r.bundle})
	default:
		text, ok := r.read(r.bundle)
		inFile := parseCerts([]byte(text))
		if ok && slices.ContainsFunc(r.roots, func(root *x509.Certificate) bool {
			return !slices.ContainsFunc(inFile, root.Equal)
		}) {
			c.warn("bundle-lacks", values{"file": r.bundle})
		}
	}

	// Each name is tried at one bastion, in turn, and the first name at every bastion: a certificate is issued when
	// its name is first requested, and all bastions have the same CA.
	var visits []visit
	names, open := r.asked(), r.open()
	for i, n := range names {
		if d := r.owner(n); d == nil {
			visits = append(visits, visit{open[i%len(open)], n})
		} else if d.https == nil {
			visits = append(visits, visit{d, n})
		}
	}
	for i, d := range open {
		if len(names) > 0 && i > 0 {
			visits = append(visits, visit{d, names[0]})
		}
	}
	var f findings
	left := each(ctx, len(visits), parallel, func(i int) {
		v := visits[i]
		if id, detail := r.handshake(ctx, v.d, v.name); id != "" && !(id == "unknown-authority" && lacking != nil) {
			f.add(id, v.d.addr.String()+"\x00"+detail, v.name)
		}
	})
	skew := r.states["clock"] == Failed
	for key := range f.of {
		if skew && f.of[key][0] == "expired" { // the clock is the cause
			delete(f.names, key)
		}
	}
	f.report(c.fail, func(detail string, names []string) values {
		addr, detail, _ := strings.Cut(detail, "\x00")
		return values{"bastion": addr, "detail": detail, "names": some(names), "name": names[0], "file": r.bundle}
	})
	r.checkRunning(c)
	how := "verified"
	if len(c.Troubles) > 0 {
		how = "tried"
	}
	c.Text = fmt.Sprintf("%d names %s with %s%s", len(names), how, r.bundle, unbegun(left))
}

// holds reports whether a root is in the pool, whatever its validity period.
func holds(pool *x509.CertPool, root *x509.Certificate) bool {
	_, err := root.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: root.NotBefore.Add(time.Second),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// handshake connects like a client of that name. id is the trouble found, "" if none.
func (r *run) handshake(ctx context.Context, d *endpoint, name string) (id, detail string) {
	ctx, cancel := context.WithTimeout(ctx, 2*probeTime*second)
	defer cancel()
	raw, err := r.cfg.dial.to(ctx, "tcp", netip.AddrPortFrom(d.addr, r.cfg.Ports.HTTPS))
	if err != nil {
		return reachID(err), d.addr.String()
	}
	conn := tls.Client(raw, &tls.Config{ServerName: name, RootCAs: r.trust, Time: r.cfg.Now})
	defer raw.Close() // no close_notify: it would wait for a dead peer
	if err = conn.HandshakeContext(ctx); err == nil {
		return "", ""
	}
	return r.explainTLS(err)
}

// explainTLS returns the trouble that a failed handshake means.
func (r *run) explainTLS(err error) (id, detail string) {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var op *net.OpError
	detail = clip(why(err))
	switch {
	case errors.As(err, &authority):
		if errors.As(err, &verify) && r.ours(verify.UnverifiedCertificates) {
			return "unknown-authority", detail
		}
		return "other-root", detail
	case errors.As(err, &host):
		return "wrong-name", detail
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "expired", detail
	case errors.As(err, &invalid) && invalid.Reason == x509.CANotAuthorizedForThisName:
		return "constraint", detail
	case errors.As(err, &op) && op.Op == "remote error":
		return "tls-alert", detail
	case errors.Is(err, context.DeadlineExceeded), timeout(err):
		return "tls-silent", detail
	case verify != nil:
		return "other-root", detail
	}
	return "tls-broken", detail
}

// ours reports whether a chain leads to a root that the bastions report.
func (r *run) ours(chain []*x509.Certificate) bool {
	if len(chain) == 0 {
		return false
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range r.roots {
		roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: r.cfg.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// timeout reports errors caused by a deadline.
func timeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// why returns the innermost part of an error that describes what happened, without the address and the request, which
// are known.
func why(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		if op.Op == "remote error" {
			return op.Error()
		}
		return op.Err.Error()
	}
	return err.Error()
}

func asDNS(err error, into **net.DNSError) bool { return err != nil && errors.As(err, into) }

// runtimes are the programs that read the trust store only once, by their names in /proc, with their units.
var runtimes = map[string]string{"containerd": "containerd", "dockerd": "docker", "crio": "crio", "kubelet": "kubelet",
	"k3s-server": "k3s", "k3s-agent": "k3s-agent"}

// hertz is the unit of times in /proc/PID/stat; it is 100 on every architecture that Linux still has (USER_HZ,
// proc(5)).
const hertz = 100

// sources are the files from which the system's trust store is generated, usually one root each: those of the
// administrator (Debian, RHEL, SUSE), and Debian's links to them.
var sources = []string{"/usr/local/share/ca-certificates/*.crt", "/usr/local/share/ca-certificates/*/*.crt",
	"/etc/pki/ca-trust/source/anchors/*", "/etc/pki/trust/anchors/*", "/etc/ssl/certs/*.pem"}

// trustedSince returns when the last of the bastions' roots was added to the trust store, according to its source
// files, because any package that adds a root regenerates the store. Without source files it is the store's own time.
func (r *run) trustedSince() (last time.Time, ok bool) {
	info, err := os.Stat(filepath.Join(r.cfg.Root, r.bundle))
	if err != nil {
		return last, false
	}
	text, _ := r.read(r.bundle)
	inStore := parseCerts([]byte(text))
	first := make([]time.Time, len(r.roots))
	for _, pattern := range sources {
		for _, f := range r.glob(pattern) {
			name := filepath.Join(r.cfg.Root, f)
			file, err := os.Lstat(name)
			if err != nil {
				continue
			}
			text, _ := r.read(f)
			certs := parseCerts([]byte(text))
			for i, root := range r.roots {
				at := since(name, file)
				if slices.ContainsFunc(certs, root.Equal) && (first[i].IsZero() || at.Before(first[i])) {
					first[i] = at
				}
			}
		}
	}
	for i, root := range r.roots {
		if first[i].IsZero() || first[i].After(info.ModTime()) || !slices.ContainsFunc(inStore, root.Equal) {
			return info.ModTime(), true
		}
		if first[i].After(last) {
			last = first[i]
		}
	}
	return last, true
}

// checkRunning finds programs that read the trust store before it had the bastions' roots.
func (r *run) checkRunning(c *Check) {
	changed, known := r.trustedSince()
	stat, ok := r.read("/proc/stat")
	_, after, found := strings.Cut(stat, "\nbtime ")
	boot, err := strconv.ParseInt(strings.TrimSpace(firstLine(after)), 10, 64)
	if !known || !ok || !found || err != nil {
		return
	}
	var old []string
	for _, f := range r.glob("/proc/[0-9]*/comm") {
		name, _ := r.read(f)
		unit := runtimes[strings.TrimSpace(name)]
		if unit == "" || slices.Contains(old, unit) {
			continue
		}
		line, _ := r.read(filepath.Dir(f) + "/stat")
		if ticks, ok := startTicks(line); ok && time.Unix(boot+ticks/hertz, 0).Add(time.Second).Before(changed) {
			old = append(old, unit)
			c.warn("stale-trust", values{"detail": strings.TrimSpace(name), "name": unit, "file": r.bundle})
		}
	}
}

// startTicks returns field 22 of /proc/PID/stat; the name in field 2 may contain any character.
func startTicks(stat string) (int64, bool) {
	i := strings.LastIndexByte(stat, ')')
	f := strings.Fields(stat[i+1:])
	if i < 0 || len(f) < 20 {
		return 0, false
	}
	n, err := strconv.ParseInt(f[19], 10, 64)
	return n, err == nil && n >= 0
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
