package remote

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/net/publicsuffix"

	"casemate/bundle/collect/transport"
	"casemate/bundle/oci"
)

// loginKey marks the context of a login.
type loginKey struct{}

// guard sends requests to one registry, and those that its answers lead to. A registry names the server that gives
// tokens for it, which gets the password; go-containerregistry would send it anywhere, after a redirect to plain HTTP
// without TLS, and would talk to registries at private addresses without TLS.
type guard struct {
	all   *Registries
	host  string // the registry's
	inner http.RoundTripper
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	auth := req.Header.Get("Authorization")
	password := strings.HasPrefix(auth, "Basic ") || req.Method == http.MethodPost // which has it in its form
	switch {
	case req.URL.Scheme == "http" && !isLoopback(req.URL.Host) && (req.URL.Host == g.host || auth != "" || password):
		return nil, transport.ErrPlainHTTP
	case password && !g.mayGet(req.URL.Hostname()):
		return nil, &loginRefused{g.host, req.URL.Hostname()}
	}
	resp, err := g.inner.RoundTrip(req)
	if err == nil && req.Context().Value(loginKey{}) != nil { // go-containerregistry reads it to its end
		resp.Body = limited{io.LimitReader(resp.Body, oci.MaxDocument), resp.Body}
	}
	return resp, err
}

type limited struct {
	io.Reader
	io.Closer
}

// mayGet reports whether a host may get the registry's credentials.
func (g *guard) mayGet(host string) bool {
	own := hostname(g.host)
	if host == own || domain(host) != "" && domain(host) == domain(own) || g.all.Trusted != nil && g.all.Trusted(host) {
		return true
	}
	registry, err := name.NewRegistry(host)
	if err != nil {
		return false
	}
	auth, err := authn.DefaultKeychain.Resolve(registry)
	return err == nil && auth != authn.Anonymous
}

// domain returns the domain of a host that somebody can register, "" if it has none: an address, a single label.
func domain(host string) string {
	if net.ParseIP(host) != nil {
		return ""
	}
	d, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(host))
	if err != nil {
		return ""
	}
	return d
}

// loginRefused is a login that was not sent.
type loginRefused struct{ registry, host string }

func (e *loginRefused) Error() string {
	return fmt.Sprintf("registry %s wants its login to be sent to %s, which is of another domain, so it was not; if that "+
		"is right: docker login %s, and on bastions casemate origin add %s", e.registry, e.host, e.host, e.host)
}

// hostname returns a host without its port.
func hostname(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

func isLoopback(hostport string) bool {
	host := hostname(hostport)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
