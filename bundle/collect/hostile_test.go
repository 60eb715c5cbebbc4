package collect

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"casemate/bundle/collect/transport"
)

// internet is the network of a test: behind a proxy every host leads to it, and each is a registry and a web server
// over TLS. It misbehaves by rules, so that a report about a registry or proxy costs a test one line.
type internet struct {
	server, proxy *httptest.Server
	tunnels       sync.WaitGroup

	mu    sync.Mutex
	hosts map[string]*upstream // registries by host
	files map[string]string    // by host and path
	rules []*rule
	asked []string // "METHOD host/path", "CONNECT host:port"
}

// rule is one way to misbehave, written as "METHOD PATTERN EFFECT…". METHOD is * for any but CONNECT, PATTERN a regular
// expression found in host/path ("CONNECT" is the proxy's, with host:port). The first rule that matches a request
// counts. The effects:
//
//	404              this status instead, with no body that says anything
//	html             a page of HTML instead, with status 200 unless one stands there too
//	json=TEXT        this JSON instead
//	flip             the right answer with one wrong byte
//	cut              half of the right answer, then the connection breaks
//	hangup           no answer at all
//	no=HEADER        the right answer without this header
//	set=HEADER:TEXT  with this header
//	once, times=N    only for the first requests of each method and address
type rule struct {
	method          string
	pattern         *regexp.Regexp
	flip, cut, hang bool
	replace         bool
	body, mediaType string
	without         []string
	with            [][2]string
	times           int
	used            map[string]int
	status          int
}

func newInternet(t *testing.T, rules ...string) *internet {
	t.Helper()
	in := &internet{hosts: map[string]*upstream{}, files: map[string]string{}}
	in.server = httptest.NewUnstartedServer(in)
	in.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	in.server.StartTLS()
	in.proxy = httptest.NewServer(http.HandlerFunc(in.connect))
	t.Cleanup(func() { in.server.Close(); in.proxy.Close(); in.tunnels.Wait() })
	in.misbehave(t, rules...)
	return in
}

// options are quick ones for a collector whose only way out is the proxy.
func (in *internet) options(t *testing.T) Options {
	t.Helper()
	opt := quick(t)
	transport := transport.New()
	at, err := url.Parse(in.proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport.Proxy = http.ProxyURL(at)
	// The server has one certificate for all hosts.
	transport.TLSClientConfig = &tls.Config{
		RootCAs:    in.server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
		ServerName: "example.com",
	}
	opt.Transport = transport
	return opt
}

// at is the registry of a host, to put things into.
func (in *internet) at(host string) *upstream {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.hosts[host] == nil {
		in.hosts[host] = &upstream{
			host:    host,
			handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)),
		}
	}
	return in.hosts[host]
}

// serve answers for a URL.
func (in *internet) serve(address, content string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.files[strings.TrimPrefix(address, "https://")] = content
}

// misbehave adds rules before those that are there.
func (in *internet) misbehave(t *testing.T, rules ...string) {
	t.Helper()
	var list []*rule
	for _, s := range rules {
		r, err := parseRule(s)
		if err != nil {
			t.Fatalf("rule %q: %v", s, err)
		}
		list = append(list, r)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.rules = append(list, in.rules...)
}

// count is how many requests matched "METHOD host/path".
func (in *internet) count(form string) (n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, a := range in.asked {
		if regexp.MustCompile(form).MatchString(a) {
			n++
		}
	}
	return n
}

func parseRule(s string) (*rule, error) {
	words := strings.Fields(s)
	if len(words) < 3 {
		return nil, fmt.Errorf("METHOD PATTERN EFFECT…")
	}
	r := &rule{method: words[0], used: map[string]int{}, mediaType: "text/plain"}
	var err error
	if r.pattern, err = regexp.Compile(words[1]); err != nil {
		return nil, err
	}
	for _, w := range words[2:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "html":
			r.replace, r.body, r.mediaType = true, "<!DOCTYPE html>\n<html><body>Please log "+
				"in</body></html>\n", "text/html; charset=utf-8"
		case "json":
			r.replace, r.body, r.mediaType = true, value, "application/json"
		case "flip":
			r.flip = true
		case "cut":
			r.cut = true
		case "hangup":
			r.hang = true
		case "no":
			r.without = append(r.without, value)
		case "set":
			name, text, _ := strings.Cut(value, ":")
			r.with = append(r.with, [2]string{name, text})
		case "once":
			r.times = 1
		case "times":
			if r.times, err = strconv.Atoi(value); err != nil {
				return nil, err
			}
		default:
			if r.status, err = strconv.Atoi(w); err != nil {
				return nil, fmt.Errorf("no effect is called %q", w)
			}
			r.replace = true
		}
	}
	return r, nil
}

// find is the rule for a request, nil if it is answered as it should be.
func (in *internet) find(method, at string) *rule {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.asked = append(in.asked, method+" "+at)
	for _, r := range in.rules {
		if r.method != method && (r.method != "*" || method == http.MethodConnect) || !r.pattern.MatchString(at) {
			continue
		}
		key := method + " " + at
		if r.used[key]++; r.times == 0 || r.used[key] <= r.times {
			return r
		}
	}
	return nil
}

// right is the answer that the request should have.
func (in *internet) right(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	at := r.Host + r.URL.RequestURI()
	in.mu.Lock()
	content, isFile := in.files[at]
	in.mu.Unlock()
	switch {
	case isFile:
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	case strings.HasPrefix(r.URL.Path, "/v2/"):
		in.at(r.Host).handler.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
	return w
}

func (in *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bad := in.find(r.Method, r.Host+r.URL.Path)
	if bad == nil {
		bad = &rule{}
	}
	if bad.hang {
		hangUp()
	}
	var answer *httptest.ResponseRecorder
	if bad.replace {
		answer = httptest.NewRecorder()
		answer.Header().Set("Content-Type", bad.mediaType)
		answer.WriteHeader(cmp.Or(bad.status, http.StatusOK))
		answer.Body.WriteString(bad.body)
	} else {
		answer = in.right(r)
	}
	body := slices.Clone(answer.Body.Bytes())
	if bad.flip && len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	for key, values := range answer.Result().Header {
		w.Header()[key] = values
	}
	for _, h := range bad.with {
		w.Header().Set(h[0], h[1])
	}
	if r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	for _, h := range bad.without {
		w.Header()[http.CanonicalHeaderKey(h)] = nil
	}
	w.WriteHeader(answer.Code)
	if r.Method == http.MethodHead {
		return
	}
	if bad.cut {
		w.Write(body[:len(body)/2])
		http.NewResponseController(w).Flush()
		hangUp()
	}
	w.Write(body)
}

// connect is the proxy (RFC 9110, 9.3.6).
func (in *internet) connect(w http.ResponseWriter, r *http.Request) {
	if bad := in.find(r.Method, r.Host); bad != nil || r.Method != http.MethodConnect {
		status := http.StatusMethodNotAllowed
		if bad != nil {
			status = bad.status
		}
		http.Error(w, "the proxy says no", status)
		return
	}
	to, err := net.Dial("tcp", in.server.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		to.Close()
		return
	}
	pipe := func(dst net.Conn, src io.Reader) {
		defer from.Close()
		defer to.Close()
		io.Copy(dst, src)
	}
	in.tunnels.Go(func() { pipe(from, to) })
	in.tunnels.Go(func() { pipe(to, buffered) })
}

// TestInternet checks the basis of the other tests: each effect works, and only as often as specified.
func TestInternet(t *testing.T) {
	in := newInternet(
		t,
		"GET a.example/status 503 once",
		"GET a.example/html html",
		"GET a.example/json json={}",
		"GET a.example/flip flip",
		"GET a.example/cut cut",
		"* a.example/hangup hangup",
		"GET a.example/headers no=Last-Modified set=ETag:\"x\"",
		"CONNECT refused.example 403",
	)
	for _, p := range []string{"status", "html", "json", "flip", "cut", "headers"} {
		in.serve("https://a.example/"+p, "right")
	}
	c := &http.Client{Transport: in.options(t).Transport}
	defer c.CloseIdleConnections()
	for _, tt := range []struct{ address, want string }{
		{"https://a.example/status", "503 "}, {"https://a.example/status", "200 right"}, {"https://a.example/html",
			"200 <!DOCTYPE html>"}, {"https://a.example/json", "200 {}"},
		{"https://a.example/flip", "200 rifht"}, {"https://a.example/cut", "200 ri unexpected EOF"},
		{"https://a.example/hangup", "EOF"}, {"https://a.example/headers", "200 right \"x\""},
		{"https://refused.example/", "403"}, {"https://a.example/none", "404 404 page not found"},
	} {
		got := ""
		resp, err := c.Get(tt.address)
		if err != nil {
			got = err.Error()
		} else {
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			got = fmt.Sprintf("%d %s", resp.StatusCode, b)
			if err != nil {
				got += " " + err.Error()
			}
			if e := resp.Header.Get("ETag"); e != "" {
				got += " " + e
			}
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.address, got, tt.want)
		}
	}
	if n := in.count(`^GET a\.example/status$`); n != 2 {
		t.Errorf("%d requests were counted", n)
	}
}
