package appliance

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/admin"
	"casemate/appliance/clients"
	"casemate/appliance/egress"
	"casemate/appliance/missing"
	"casemate/appliance/setup"
	"casemate/cluster/waittest"
)

// The book of clients says of each client how it asks, whether it trusts the root, and what it did not get.
func TestWhoAsks(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	show := func() (c admin.ClientDetails) {
		t.Helper()
		n.must("GET", "clients/show?client=127.0.0.1", nil, &c)
		return c
	}
	if status, says := n.admin("GET", "clients/show?client=127.0.0.1", nil, nil); status != 404 ||
		!strings.Contains(says, "127.0.0.1 has used the bastions") {
		t.Errorf("a client that nobody has seen: %d %s", status, says)
	}
	curl := func(r *http.Request) { r.Header.Set("User-Agent", "curl/8.5.0") }
	n.do("GET", "http://n1.casemate.internal/healthz", nil, curl)
	c := show()
	if c.Enrolled != clients.Unknown || c.Why != "it asks over plain http only" || c.LastError != nil ||
		!slices.Contains(c.Programs, "curl/8.5.0") || !slices.Contains(c.Protocols, clients.HTTP) {
		t.Errorf("over http: %+v", c)
	}
	n.do("GET", "http://n1.casemate.internal/enroll", nil, curl)
	// The script is large: the client has it before the request is over.
	waittest.Until(t, "the script is noted", func() bool {
		c = show()
		return strings.Contains(c.Why, "has fetched the root")
	})
	if c.Enrolled != clients.Unknown {
		t.Errorf("with the script: %+v", c)
	}
	_, err := tls.Dial("tcp", n.Addrs().HTTPS[0].String(), &tls.Config{ServerName: "quay.io"})
	if err == nil {
		t.Fatal("a client without the root trusts it")
	}
	waittest.Until(t, "the handshake is noted", func() bool { c = show(); return c.LastError != nil })
	if c.Enrolled != clients.No || !strings.HasPrefix(c.LastError.What, "TLS handshake: ") {
		t.Errorf("without the root: %+v, %+v", c, c.LastError)
	}
	const image = "https://quay.io/v2/a/b/manifests/1"
	n.do("GET", image+"?token=secret", nil, func(r *http.Request) { r.Header.Set("User-Agent", "containerd/v2.1.0") })
	n.do("HEAD", "https://quay.io/v2/a/b/manifests/looked", nil)
	c = show()
	if c.Enrolled != clients.Yes || c.LastError.What != "GET "+image+": 404" || c.LastError.Code != 404 {
		t.Errorf("with the root: %+v, %+v", c, c.LastError)
	}
	if len(c.Missing) != 1 || c.Missing[0].Name != "quay.io/a/b:1" || c.Misses != 1 || c.Missing[0].Waiting != 1 {
		t.Errorf("misses: %d, %+v", c.Misses, c.Missing)
	}
	if !strings.Contains(c.Doctor, "/casemate") || !strings.HasSuffix(c.Doctor, "doctor 127.0.0.1 )") {
		t.Errorf("the doctor's line: %s", c.Doctor)
	}
	n.resolves("www.nowhere.example")
	waittest.Until(t, "DNS has told it", func() bool {
		c = show()
		return strings.HasPrefix(c.LastError.What, "DNS www.nowhere.example A") && slices.Contains(c.Protocols, "dns")
	})
	if !slices.ContainsFunc(c.Egress, func(e egress.Entry) bool { return e.Name == "quay.io" }) {
		t.Errorf("names: %+v", c.Egress)
	}

	// Its name is that of the operator's records or the bastions', and is looked up in the background.
	waittest.Until(t, "the name is found", func() bool { return show().Name == "n1.casemate.internal" })
	for _, bad := range []string{"", "x", "10.0.0.0/8", strings.Repeat("1", 5000)} {
		if status, says := n.admin("GET", "clients/show?client="+bad, nil, nil); status != 400 {
			t.Errorf("%.20s: %d %s", bad, status, says)
		}
	}
}

// Lists of clients come in pages, and are filtered.
func TestPagesOfClients(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	var want []string
	for i := range 25 {
		from := netip.AddrFrom4([4]byte{10, 0, byte(i), 1})
		want = append([]string{from.String()}, want...)
		n.clients.Requested(clients.Request{Client: from, TLS: true, Content: true, Status: 200,
			Agent: fmt.Sprint("tool/", i)})
	}
	n.book.Add(missing.Image, "quay.io/a/b:1", "", netip.MustParseAddr("10.0.7.1"))
	n.must("PUT", "names/worker.example.com/A", map[string]any{"values": []string{"10.0.7.1"}}, nil)
	got := pagesOf(n, "clients?limit=10&q=10.0.", 10, func(c admin.Client) string { return c.Client.Client })
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	waittest.Until(t, "the name is found", func() bool {
		var list []admin.Client
		n.must("GET", "clients?q=worker", nil, &list)
		return len(list) == 1 && list[0].Name == "worker.example.com" && list[0].Misses == 1
	})
	var list []admin.Client
	n.must("GET", "clients?q=TOOL/24", nil, &list)
	if len(list) != 1 || list[0].Client.Client != "10.0.24.1" {
		t.Errorf("by program: %+v", list)
	}
	for _, query := range []string{"limit=0", "limit=x", "limit=100000", "after=x", "q=" + strings.Repeat("x", 201)} {
		if status, says := n.admin("GET", "clients?"+query, nil, nil); status != 400 {
			t.Errorf("%.20s: %d %s", query, status, says)
		}
	}
}

// The missing book comes in pages, is filtered, and has the marks of operators.
func TestPagesOfMisses(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("quay.io/a/b:%d", i)
		want = append([]string{name}, want...)
		n.book.Note(missing.Question{Kind: missing.Image, Name: name,
			Client: netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 2)}), User: []string{"", "ada"}[i%2]})
	}
	n.book.Add(missing.File, "https://dl.k8s.io/x", "", netip.MustParseAddr("10.0.0.9"))
	name := func(l missing.Listed) string { return l.Name }
	if got := pagesOf(n, "missing?limit=10&kind=image", 10, name); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for query, count := range map[string]int{
		"kind=file": 1, "client=10.0.0.0": 13, "client=10.0.0.0/24": 26, "client=ada@": 12, "q=B:2": 6, "q=ADA": 12,
		"client=10.0.0.9&kind=image": 0,
	} {
		var list []missing.Listed
		n.must("GET", "missing?"+query, nil, &list)
		if len(list) != count {
			t.Errorf("%s: %d entries, want %d", query, len(list), count)
		}
	}
	for _, query := range []string{"kind=x", "client=x", "q=" + strings.Repeat("x", 201), "limit=5000",
		"limit=1&after=eA"} {
		if status, says := n.admin("GET", "missing?"+query, nil, nil); status != 400 {
			t.Errorf("%.20s: %d %s", query, status, says)
		}
	}

	// What is there by now is solved at once, and what is deleted is missing again.
	n.must("PUT", "files?url=https://dl.k8s.io/x", "x", nil)
	last := func() missing.Listed {
		var list []missing.Listed
		n.must("GET", "missing?limit=100", nil, &list)
		i := slices.IndexFunc(list, func(l missing.Listed) bool { return l.Kind == missing.File })
		if i < 0 || list[i].Solved && i != len(list)-1 {
			t.Fatalf("%+v", list)
		}
		return list[i]
	}
	if l := last(); !l.Solved || l.Waiting != 0 {
		t.Errorf("%+v", l)
	}
	n.must("DELETE", "files?url=https://dl.k8s.io/x", nil, nil)
	if l := last(); l.Solved || l.Waiting != 1 {
		t.Errorf("%+v", l)
	}

	// A mark is seen until it is removed, and is an event.
	mark := map[string]string{"name": "https://dl.k8s.io/x", "note": "ordered, arrives Tuesday"}
	n.must("PUT", "missing/marks", mark, nil)
	if l := last(); l.Mark == nil || l.Mark.Note != mark["note"] || l.Mark.By == "" || l.Mark.At.IsZero() {
		t.Errorf("%+v", l.Mark)
	}
	var events struct {
		Events []struct{ Verb, Object, New string }
	}
	n.must("GET", "audit?verb=missing", nil, &events)
	if len(events.Events) != 1 || events.Events[0].Object != mark["name"] || events.Events[0].New != mark["note"] {
		t.Errorf("events: %+v", events.Events)
	}
	mark["note"] = ""
	n.must("PUT", "missing/marks", mark, nil)
	if l := last(); l.Mark != nil {
		t.Errorf("%+v", l.Mark)
	}
	for _, c := range []struct {
		body   any
		status int
	}{
		{mark, 404},
		{map[string]string{"name": "nothing", "note": "x"}, 404},
		{map[string]string{"note": "x"}, 400},
		{map[string]string{"name": "quay.io/a/b:1", "note": strings.Repeat("x", 201)}, 400},
		{map[string]string{"name": "quay.io/a/b:1", "other": "x"}, 400},
	} {
		if status, says := n.admin("PUT", "missing/marks", c.body, nil); status != c.status {
			t.Errorf("%v: %d %s", c.body, status, says)
		}
	}
}

// pagesOf reads a list of the admin API page by page, and returns what of returns of its elements.
func pagesOf[T any](n *node, path string, size int, of func(T) string) (texts []string) {
	n.t.Helper()
	next := "/v1/" + path
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.Addrs().Admin)
		}}}
	for next != "" {
		resp, err := c.Get("http://admin" + next)
		if err != nil {
			n.t.Fatal(err)
		}
		var list []T
		err = json.NewDecoder(resp.Body).Decode(&list)
		resp.Body.Close()
		if err != nil || len(list) == 0 || len(list) > size {
			n.t.Fatalf("%s: %d elements, %v", next, len(list), err)
		}
		for _, v := range list {
			texts = append(texts, of(v))
		}
		link := resp.Header.Get("Link")
		next = strings.TrimPrefix(strings.TrimSuffix(link, `>; rel="next"`), "<")
	}
	return texts
}
