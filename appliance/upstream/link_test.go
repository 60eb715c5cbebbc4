package upstream_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"casemate/cluster/treetest"
)

// TestProxies: the proxy of the environment is used in each of the forms that it may have, with its own credentials and
// none of the origin's or the client's.
func TestProxies(t *testing.T) {
	for _, c := range []struct{ name, variable, form, auth string }{ // the form has %s for the port
		{"address", "HTTPS_PROXY", "http://127.0.0.1:%s", ""},
		{"lower case", "https_proxy", "http://127.0.0.1:%s", ""},
		{"without a scheme", "HTTPS_PROXY", "127.0.0.1:%s", ""},
		{"name without a scheme", "HTTPS_PROXY", "localhost:%s", ""},
		{"with a slash", "HTTPS_PROXY", "http://127.0.0.1:%s/", ""},
		{"with a login", "HTTPS_PROXY", "http://site:secret@127.0.0.1:%s", "Basic c2l0ZTpzZWNyZXQ="},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			var asked []string
			var w *world
			proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				mu.Lock()
				asked = append(asked, r.Method+" "+r.Host)
				mu.Unlock()
				if got := r.Header.Get("Proxy-Authorization"); got != c.auth || r.Header.Get("Authorization") != "" {
					t.Errorf("the proxy got %v", r.Header)
				}
				tunnel(t, rw, w.tls.Listener.Addr().String())
			}))
			defer proxy.Close()
			addr := proxy.Listener.Addr().String()
			for _, name := range []string{"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"} {
				t.Setenv(name, "")
			}
			t.Setenv(c.variable, fmt.Sprintf(c.form, strings.TrimPrefix(addr, "127.0.0.1:")))
			w = newWorld(t)
			w.proxy.Store(&addr)
			w.internet(text("content"))
			w.want(w.get(fileHost, "/a"), 200, "content")
			if got := strings.Join(asked, ", "); got != "CONNECT "+fileHost+":443" {
				t.Errorf("the proxy was asked for %q", got)
			}
		})
	}
}

// tunnel connects a client of a proxy with an address until one of both closes.
func tunnel(t *testing.T, rw http.ResponseWriter, addr string) {
	to, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	from, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		io.Copy(to, buffered)
		to.Close()
	}()
	io.Copy(from, to)
	from.Close()
}

// TestNoProxy: what NO_PROXY names is connected to directly, the rest is not, and a proxy that refuses is named.
func TestNoProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(407) }))
	defer proxy.Close()
	addr := proxy.Listener.Addr().String()
	t.Setenv("HTTPS_PROXY", "http://"+strings.Replace(addr, "127.0.0.1", "localhost", 1))
	t.Setenv("NO_PROXY", fileHost+",.other.example.com")
	w := newWorld(t)
	w.internet(text("content"))
	w.want(w.get(fileHost, "/a"), 200, "content")
	w.proxy.Store(&addr)
	rec := w.get(cdn, "/a")
	w.want(rec, 502, "")
	if !strings.Contains(rec.Body.String(), "the proxy refuses the connection to "+cdn+":443: 407") {
		t.Errorf("got %s", rec.Body)
	}
}

// TestProxyToInside: a proxy is not asked for addresses that no origin has.
func TestProxyToInside(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		t.Errorf("the proxy was asked for %s", r.Host)
	}))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", fileHost)
	w := newWorld(t)
	for i, to := range []string{"169.254.169.254", "192.0.2.99", "10.0.0.1", "[fd00::1]", "[::ffff:169.254.169.254]",
		"100.64.0.1"} {
		w.internet(func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://"+to+"/latest", http.StatusFound)
		})
		w.want(w.get(fileHost, fmt.Sprint("/", i)), 502, "")
	}
}

// TestRedirectToInside: an origin outside does not lead into the site, one inside may, and so may every one to a host
// that an operator has named.
func TestRedirectToInside(t *testing.T) {
	for _, c := range []struct {
		name, origin, target string // addresses
		to                   string
		status               int
		says                 string
	}{
		{"outside to outside", "192.0.2.1", "192.0.2.1", foreign, 200, ""},
		{"outside to inside", "192.0.2.1", "10.1.1.1", foreign, 502, "casemate origin add " + foreign},
		{"inside to inside", "10.1.1.2", "10.1.1.1", foreign, 200, ""},
		{"inside to outside", "10.1.1.2", "192.0.2.1", foreign, 200, ""},
		{"outside to this machine", "192.0.2.1", "127.0.0.1", foreign, 502, "no origin can be"},
		{"inside to this machine", "10.1.1.2", "127.0.0.1", foreign, 502, "no origin can be"},
		{"inside to a bastion", "10.1.1.2", "192.0.2.99", foreign, 502, "own address"},
		{"outside to an address inside", "192.0.2.1", "", "10.1.1.1", 502, "leads to the private address 10.1.1.1"},
		{"outside to a named host inside", "192.0.2.1", "10.1.1.1", cdn, 302, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.names.Store(fileHost, netip.MustParseAddr(c.origin))
			if c.target != "" {
				w.names.Store(c.to, netip.MustParseAddr(c.target))
			}
			w.internet(func(rw http.ResponseWriter, r *http.Request) {
				if r.Host == fileHost {
					http.Redirect(rw, r, "https://"+c.to+"/content", http.StatusFound)
					return
				}
				io.WriteString(rw, "content")
			})
			rec := w.get(fileHost, "/a")
			w.want(rec, c.status, "")
			if c.status == 502 && w.count("GET "+c.to+"/content") != 0 {
				t.Error("it was asked for")
			}
			if c.status == 302 {
				w.want(w.get(cdn, "/content"), 200, "content")
			}
			if !strings.Contains(rec.Body.String(), c.says) {
				t.Errorf("got %s", rec.Body)
			}
		})
	}
}

// TestManyRedirects: when too many redirects are recorded no more are, and the content is served all the same.
func TestManyRedirects(t *testing.T) {
	w := newWorld(t)
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if r.Host == fileHost {
			http.Redirect(rw, r, "https://"+cdn+r.URL.Path, http.StatusFound)
			return
		}
		io.WriteString(rw, "content")
	})
	w.others.Store(9_999)
	w.want(w.get(fileHost, "/a"), 302, "")
	w.want(w.get(fileHost, "/b"), 200, "content")
	w.want(w.do(t.Context(), http.MethodHead, fileHost, "/c"), 200, "")
	if len(w.moved) != 1 {
		t.Errorf("%d redirects are recorded", len(w.moved))
	}
	w.others.Store(0)
	w.want(w.get(fileHost, "/d"), 302, "")
}

// TestSignatures: signatures that are tags (cosign's sha256-DIGEST.sig and .att) are fetched like every tag, and one
// that does not exist is asked for once.
func TestSignatures(t *testing.T) {
	w := newWorld(t)
	p := newPicture("layer")
	image := treetest.DigestOf([]byte("image"), "")
	tag := strings.Replace(image, ":", "-", 1)
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/manifests/"+tag+".sig") {
			r.URL.Path = "/v2/app/manifests/v1"
		}
		p.serve(rw, r)
	})
	for range 2 {
		w.want(w.get(site, "/v2/app/manifests/"+tag+".sig"), 200, p.manifest)
		w.want(w.get(site, "/v2/app/manifests/"+tag+".att"), 404, "")
	}
	if n := w.count("GET " + site + "/v2/app/manifests/" + tag + ".att"); n != 1 {
		t.Errorf("asked %d times for what does not exist", n)
	}
}

// TestDockerConfig: without a login of the cluster the registry gets the one in Docker's config, otherwise the
// cluster's; another registry's is never sent.
func TestDockerConfig(t *testing.T) {
	for _, c := range []struct {
		name, config string
		login        bool
		status       int
	}{
		{"none", `{}`, false, 403},
		{"the registry's", `{"auths":{"` + site + `":{"auth":"Y2k6c2VjcmV0"}}}`, false, 200},
		{"another registry's", `{"auths":{"` + cdn + `":{"auth":"Y2k6c2VjcmV0"}}}`, false, 403},
		{"the cluster's comes first", `{"auths":{"` + site + `":{"auth":"b3RoZXI6c2VjcmV0"}}}`, true, 200},
		{"no JSON", `{`, false, 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			p := newPicture("layer")
			p.user = "ci"
			w.internet(p.serve)
			if c.login {
				if err := w.up.SetLogin(t.Context(), site, "ci", "secret"); err != nil {
					t.Fatal(err)
				}
			}
			w.want(w.get(site, "/v2/app/manifests/v1"), c.status, "")
			if c.status == 200 {
				w.want(w.get(site, "/v2/app/blobs/"+treetest.DigestOf([]byte("layer"), "")), 200, "layer")
			}
		})
	}
}
