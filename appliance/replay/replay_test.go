package replay

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"casemate/bundle"
	"casemate/bundle/lists"
)

const (
	sumA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// site is a server for example.com, which is found by a resolver that knows no other name but untrusted.example.
func site(t *testing.T) Config {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+sumA+`"`)
		switch {
		case r.URL.Path == "/moved":
			w.Header().Set("Location", "/f?sig=new")
			w.WriteHeader(http.StatusFound)
		case r.URL.Path == "/accept" && r.Header.Get("Accept") != "a/b", r.URL.Path == "/absent":
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Path == "/wrong-host":
			w.WriteHeader(http.StatusMisdirectedRequest)
		case r.Header.Get("If-None-Match") == `"`+sumA+`"`:
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "4")
			w.Write([]byte("text"))
		}
	}))
	t.Cleanup(s.Close)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		switch name := q.Question[0].Name; {
		case name != "example.com." && name != "untrusted.example.":
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{A: net.IPv4(127, 0, 0, 1), Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA,
				Class: dns.ClassINET, Ttl: 1}}}
		}
		w.WriteMsg(m)
	})}
	done := make(chan struct{})
	ready := make(chan struct{})
	d.NotifyStartedFunc = func() { close(ready) }
	go func() { d.ActivateAndServe(); close(done) }()
	<-ready
	t.Cleanup(func() { d.Shutdown(); <-done })
	cfg := Config{Resolver: conn.LocalAddr().String(), Roots: x509.NewCertPool()}
	cfg.Roots.AddCert(s.Certificate())
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ":443") {
			addr = s.Listener.Addr().String()
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	return cfg
}

// TestAsk: which answers are the recorded ones, and why others are not.
func TestAsk(t *testing.T) {
	cfg := site(t)
	q := func(path string, status int, edit func(*bundle.Question)) bundle.Question {
		q := bundle.Question{Method: "GET", URL: "https://example.com" + path, Status: status}
		if edit != nil {
			edit(&q)
		}
		return q
	}
	host := func(name string) func(*bundle.Question) {
		return func(q *bundle.Question) { q.URL = "https://" + name + "/f" }
	}
	var list []bundle.Question
	var want [][2]string
	for _, c := range []struct {
		q         bundle.Question
		why, cure string
	}{
		{q("/f", 200, nil), "", ""},
		{q("/f", 200, func(q *bundle.Question) { q.Method, q.Digest, q.Size = "HEAD", sumA, 4 }), "", ""},
		{q("/f", 200, func(q *bundle.Question) { q.Digest = sumB }), "the content is " + sumA, "import"},
		{q("/f", 200, func(q *bundle.Question) { q.Size = 5 }), "4 bytes, and had 5", "import"},
		{q("/f", 304, func(q *bundle.Question) { q.Held = sumA }), "", ""},
		{q("/f", 304, func(q *bundle.Question) { q.Held = sumB }), "is 200, and was 304", "import"},
		{q("/accept", 200, func(q *bundle.Question) { q.Accept = "a/b" }), "", ""},
		{q("/accept", 200, nil), "is 404, and was 200", "import"},
		{q("/absent", 404, nil), "", ""},
		{q("/f", 404, nil), "is 200, and was 404", "import"},
		{q("/moved", 302, func(q *bundle.Question) { q.Location = "https://example.com/f" }), "", ""},
		{q("/moved", 302, func(q *bundle.Question) { q.Location = "https://example.com/g" }), "led to", "import"},
		{q("/wrong-host", 200, nil), "is 421", "casemate origin add example.com"},
		{q("", 200, host("absent.example")), "does not exist in DNS", "casemate origin add absent.example"},
		{q("", 200, host("untrusted.example")), "is not trusted", "--ca"},
		{q("", 200, host("example.com:443")), "", ""},
		{q("", 200, host("example.com:8443")), "it was not asked", "transcript"},
		{q("", 200, func(q *bundle.Question) { q.URL = "http://example.com:443/" }), "it was not asked", "transcript"},
		{q("", 200, host("localhost")), "it was not asked", "transcript"},
		{q("", 200, host("x.localhost.")), "it was not asked", "transcript"},
		{q("", 200, host("169.254.169.254")), "it was not asked", "transcript"},
		{q("", 200, host("[::1]")), "it was not asked", "transcript"},
		{q("", 200, host("[fe80::1%25lo]")), "it was not asked", "transcript"},
		{q("", 200, host("127.1")), "it was not asked", "transcript"},
		{q("", 200, host("127.0.0.0x1")), "it was not asked", "transcript"},
		{q("", 200, host("2130706433")), "it was not asked", "transcript"},
		{q("", 200, host(".")), "it was not asked", "transcript"},
	} {
		list, want = append(list, c.q), append(want, [2]string{c.why, c.cure})
	}
	got, err := Ask(t.Context(), list, cfg)
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	for i, w := range want {
		if w[0] == "" {
			if next < len(got) && got[next].Question == list[i] {
				t.Errorf("%+v: %s", list[i], got[next].Why)
				next++
			}
			continue
		}
		if next == len(got) || got[next].Question != list[i] {
			t.Errorf("%+v: no difference, want %q", list[i], w[0])
			continue
		}
		if d := got[next]; !strings.Contains(d.Why, w[0]) || !strings.Contains(d.Cure, w[1]) {
			t.Errorf("%+v: %q, %q; want %q", list[i], d.Why, d.Cure, w)
		}
		next++
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Ask(ended, list, cfg); err == nil {
		t.Error("an interrupted replay has no error")
	}
}

// TestListed: what a list names is asked for as clients do, and a redirect is followed.
func TestListed(t *testing.T) {
	cfg := site(t)
	cfg.Follow = true
	wanted := &lists.Wanted{
		Images: []lists.Image{{Repository: "docker.io/library/nginx", Tag: "1", Digest: sumA},
			{Repository: "example.com/app", Tag: "2"}},
		Files: []lists.File{{URL: "https://example.com/moved", Digest: sumA},
			{URL: "https://example.com/f", Digest: sumB}, {URL: "https://example.com/absent", Digest: "sha512:00"}},
	}
	questions := Listed(wanted)
	var urls []string
	for _, q := range questions {
		urls = append(urls, q.URL)
	}
	want := []string{"https://registry-1.docker.io/v2/library/nginx/manifests/1",
		"https://registry-1.docker.io/v2/library/nginx/manifests/" + sumA, "https://example.com/v2/app/manifests/2",
		"https://example.com/moved", "https://example.com/f", "https://example.com/absent"}
	if !slices.Equal(urls, want) {
		t.Errorf("got %q", urls)
	}
	got, err := Ask(t.Context(), questions[2:], cfg)
	if err != nil || len(got) != 2 || !strings.Contains(got[0].Why, "and should be "+sumB) ||
		!strings.Contains(got[1].Why, "the answer is 404, and should be 200") {
		t.Errorf("%v: %+v", err, got)
	}
}
