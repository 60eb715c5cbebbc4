package edge

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"casemate/appliance/clientconn"
	"casemate/registry"
)

// other is a peer: forwarded requests arrive at its handler, as the cluster delivers them.
type other struct {
	t    *testing.T
	node string
	h    http.Handler
}

func (o other) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != o.node {
		return nil, fmt.Errorf("node %s does not answer", r.URL.Host)
	}
	in := httptest.NewRequest(r.Method, r.URL.RequestURI(), r.Body)
	in.Host, in.Header, in.RemoteAddr = r.Host, r.Header.Clone(), "10.0.0.11:7443"
	w := httptest.NewRecorder()
	o.h.ServeHTTP(w, in)
	return w.Result(), nil
}

// The receiving node sees a forwarded request as if the client had sent it there: its address, whether it used TLS,
// its host, and no forged headers.
func TestThePassedRequestIsTheClients(t *testing.T) {
	one, _ := testEdge(t)
	two, _ := testEdge(t)
	one.Node, two.Node = "n1", "n2"
	one.Hosts().Nodes["n2"] = true
	one.Pass = other{t, "n2", two.PassedOn()}
	one.Registry = func(w http.ResponseWriter, r *http.Request, _ registry.View) {
		node := "n2"
		if strings.Contains(r.URL.RawQuery, "n3") {
			node = "n3"
		}
		if !one.PassOn(w, r, node) {
			fmt.Fprint(w, "here")
		}
	}
	var client string
	two.Registry = func(w http.ResponseWriter, r *http.Request, v registry.View) {
		client = clientconn.AddrOf(r).String()
		var extra []string
		for name := range r.Header {
			if strings.HasPrefix(name, "Casemate") || strings.HasPrefix(name, "X-Forwarded") {
				extra = append(extra, name)
			}
		}
		fmt.Fprintf(w, "%s %s of %s at %s, plain %v, tls %v, passed %v, origin %q, says %v, %s", r.Method, r.URL.Path,
			r.RemoteAddr, r.Host, v.Plain, r.TLS != nil, v.Passed, v.Origin, extra, r.Header.Get("Authorization"))
	}
	two.Files = nil // would panic
	ask := func(h http.Handler, method, target, from string) (int, string) {
		r := httptest.NewRequest(method, target, nil)
		r.RemoteAddr = from
		r.Header.Set("Authorization", "Bearer x")
		r.Header.Set("Casemate-Client", "10.6.6.6:1")
		r.Header.Set("Casemate-Plain", "1")
		r.Header.Set("Casemate-Passed", "n7")
		r.Header.Set("X-Forwarded-For", "10.6.6.6")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const session = "/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000"
	const asClient = `tls true, passed true, origin "", says [], Bearer x`
	for _, c := range []struct {
		from, method, target, want string
	}{
		{"10.1.2.3:999", "PATCH",
			"https://gap.example/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000?_node=n2",
			"PATCH " + session + ` of 10.1.2.3:999 at gap.example, plain false, ` + asClient},
		{"[fd00::3]:999", "POST", "https://registry.gap.example/v2/a/blobs/uploads/",
			`POST /v2/a/blobs/uploads/ of [fd00::3]:999 at registry.gap.example, plain false, ` + asClient},
		{"10.1.2.3:999", "GET", "http://gap.example/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000",
			"GET " + session + ` of 10.1.2.3:999 at gap.example, plain true, ` +
				`tls false, passed true, origin "", says [], Bearer x`},
		{"10.1.2.3:999", "GET", "https://docker.io/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000",
			"GET " + session + ` of 10.1.2.3:999 at docker.io, plain false, ` +
				`tls true, passed true, origin "docker.io", says [], Bearer x`},
		{"10.1.2.3:999", "GET", "https://gap.example/v2/a/manifests/1", "nodes forward only requests of pushes"},
		{"10.1.2.3:999", "GET", "https://gap.example/v2/x/blobs/uploads/../../../../../member",
			"nodes forward only requests of pushes"},
		{"10.1.2.3:999", "GET", "https://gap.example" + session + "?n3", "here"}, // no node of this cluster
	} {
		_, got := ask(one.handler(strings.HasPrefix(c.target, "http:")), c.method, c.target, c.from)
		if !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %s\nwant %s", c.method, c.target, got, c.want)
		}
		if strings.Contains(c.want, "passed true") && !strings.HasPrefix(strings.TrimPrefix(c.from, "["), client) {
			t.Errorf("%s: limits see %s", c.from, client)
		}
	}
	// It refuses other requests, whichever node forwards them.
	for _, c := range []struct {
		target string
		want   int
	}{
		{"http://gap.example/", 404}, {"http://gap.example/metrics", 404}, {"http://gap.example/token", 404},
		{"http://files.gap.example/dl.k8s.io/x", 404}, {"http://gap.example/files/dl.k8s.io/x", 404},
		{"http://bank.example" + session, 421},
	} {
		if code, body := ask(two.PassedOn(), "GET", c.target, "10.0.0.11:7443"); code != c.want {
			t.Errorf("%s: %d %s, want %d", c.target, code, body, c.want)
		}
	}
	one.Hosts().Nodes["n3"] = true
	code, body := ask(one.handler(false), "GET", "https://gap.example"+session+"?n3", "10.1.2.3:9")
	if code != 404 || !strings.Contains(body, "BLOB_UPLOAD_UNKNOWN") {
		t.Errorf("a node that does not answer: %d %s", code, body)
	}
}
