package clients

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// clock is one second later each time.
type clock struct{ t time.Time }

func (c *clock) now() time.Time {
	c.t = c.t.Add(time.Second)
	return c.t
}

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func open(t *testing.T, cfg Config) *Book {
	t.Helper()
	if cfg.File == "" {
		cfg.File = filepath.Join(t.TempDir(), "clients.json")
	}
	if cfg.Now == nil {
		cfg.Now = (&clock{begin}).now
	}
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listed returns the clients as lines.
func listed(t *testing.T, b *Book) string {
	t.Helper()
	list, err := b.List()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range list {
		line := fmt.Sprint(c.Client, " ", strings.Join(c.Protocols, ","), " ", strings.Join(c.Programs, ","), " ",
			c.Enrolled)
		if c.Address != "" {
			line += " at " + c.Address
		}
		if e := c.LastError; e != nil {
			line += fmt.Sprintf(" [%s %d]", e.What, e.Code)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// request is a request over TLS for content.
func request(from string, status int) Request {
	return Request{Client: addr(from), TLS: true, Content: true, Agent: "containerd/v2.1.0", Status: status,
		What: func() string { return "GET https://quay.io/v2/: " + fmt.Sprint(status) }}
}

// TestList: what is recorded of a client is merged into one entry, and survives a restart.
func TestList(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "clients.json"), Node: "n1"}
	b := open(t, cfg)
	b.Asked(addr("10.0.0.9"))
	b.Asked(addr("10.0.0.1"))
	b.Requested(request("10.0.0.1", 200))
	b.Requested(Request{Client: addr("::ffff:10.0.0.1"), Agent: "curl/8.5", Status: 404,
		What: func() string { return "GET http://x/\x1b[1m\u202e" }})
	b.Asked(addr("2001:db8::"))
	b.Requested(request("2001:db8::7", 200))
	b.Requested(request("2001:db8::8", 500))
	b.Failed(addr("10.0.0.8"), DNS, "DNS git.example A: no such name here")
	b.Handshake(addr("10.0.0.7"))
	b.Untrusting(addr("10.0.0.6"), "remote error: tls: unknown certificate authority")
	b.Asked(netip.Addr{})
	const want = "10.0.0.6 https  no [TLS handshake: remote error: tls: unknown certificate authority 0]\n" +
		"10.0.0.7 https  unknown\n" +
		"10.0.0.8 dns  unknown [DNS git.example A: no such name here 0]\n" +
		"2001:db8::/64 dns,https containerd/v2.1.0 yes at 2001:db8::8 [GET https://quay.io/v2/: 500 500]\n" +
		"10.0.0.1 dns,http,https containerd/v2.1.0,curl/8.5 yes [GET http://x/?[1m? 404]\n" +
		"10.0.0.9 dns  unknown"
	if got := listed(t, b); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := b.notes.WriteDisk(); err != nil {
		t.Fatal(err)
	}
	again := open(t, cfg)
	if got := listed(t, again); got != want {
		t.Errorf("after a restart: got\n%s\nwant\n%s", got, want)
	}
	list, err := again.List()
	if err != nil {
		t.Fatal(err)
	}
	c := list[4]
	if !c.First.Equal(begin.Add(2*time.Second)) || !c.Last.Equal(begin.Add(4*time.Second)) ||
		!slices.Equal(c.Nodes, []string{"n1"}) {
		t.Errorf("got %+v", c)
	}
}

// TestOddFile: what is no client in a book is left out, and a damaged file does not keep a node from starting.
func TestOddFile(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "clients.json")}
	for text, want := range map[string]string{
		`{"clients":[{"client":"x"},{"client":"10.0.0.0/8","protocols":["dns"]},{"client":"10.0.0.1"},
		 {"client":"10.0.0.2","protocols":["odd","http"],"address":"::1","programs":["<b>","curl/8"]}]}`: "10.0.0.2 " +
			"http curl/8 unknown",
		`{"clients":[`: "",
	} {
		if err := os.WriteFile(cfg.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := listed(t, open(t, cfg)); got != want {
			t.Errorf("%s: got %q", text, got)
		}
	}
}

// TestNodes: every node sees the others' clients, merged.
func TestNodes(t *testing.T) {
	tree := treetest.New(t)
	now := (&clock{begin}).now
	one := open(t, Config{Node: "one", Tree: tree, Now: now})
	two := open(t, Config{Node: "two", Tree: tree, Now: now})
	one.Requested(request("10.0.0.1", 200))
	two.Untrusting(addr("10.0.0.1"), "bad certificate")
	two.Requested(Request{Client: addr("10.0.0.1"), Agent: "curl/8"})
	two.Asked(addr("10.0.0.2"))
	for _, b := range []*Book{one, two} {
		if err := b.notes.WriteTree(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const want = "10.0.0.2 dns  unknown\n" +
		"10.0.0.1 http,https containerd/v2.1.0,curl/8 no [TLS handshake: bad certificate 0]"
	for _, b := range []*Book{one, two} {
		if got := listed(t, b); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", b.cfg.Node, got, want)
		}
		list, err := b.List()
		if err != nil || len(list[1].Nodes) != 2 || !list[1].First.Before(list[1].Last) {
			t.Errorf("%s: %+v %v", b.cfg.Node, list[1], err)
		}
	}
}

// TestPublished: a client that goes on as before is published every quarter of an hour, something new at once.
func TestPublished(t *testing.T) {
	at := begin
	b := open(t, Config{Now: func() time.Time { return at }})
	version := func() uint64 {
		_, v := b.snapshot(true)
		return v
	}
	last := version()
	for _, step := range []struct {
		what  string
		do    func()
		wants bool
	}{
		{"a new client", func() { b.Requested(request("10.0.0.1", 200)) }, true},
		{"the same again", func() { b.Requested(request("10.0.0.1", 200)) }, false},
		{"an error", func() { b.Requested(request("10.0.0.1", 404)) }, true},
		{"another protocol", func() { b.Asked(addr("10.0.0.1")) }, true},
		{"the same again", func() { b.Asked(addr("10.0.0.1")) }, false},
		{"the same, later", func() { at = at.Add(quiet + time.Second); b.Asked(addr("10.0.0.1")) }, true},
	} {
		step.do()
		if v := version(); (v != last) != step.wants {
			t.Errorf("%s: published: %v", step.what, v != last)
		} else {
			last = v
		}
	}
}

// TestFlood: forged questions do not displace clients with a connection, and a network with many addresses loses its
// own. The published part has something of each network.
func TestFlood(t *testing.T) {
	b := open(t, Config{Max: 40, MaxHeard: 20})
	honest := []string{"10.0.0.1", "10.0.1.1", "2001:db8:1::1"}
	for _, a := range honest {
		b.Requested(request(a, 200))
	}
	b.Asked(addr("10.9.9.9"))
	for i := range 1000 { // of DNS, each from an address of one network
		b.Asked(netip.AddrFrom4([4]byte{10, 6, 6, byte(i)}))
	}
	if got := listed(t, b); !strings.Contains(got, "10.9.9.9 ") {
		t.Errorf("a network with many addresses displaces a client that asks DNS:\n%s", got)
	}
	for i := range 1000 { // each from a network of its own
		b.Asked(netip.AddrFrom4([4]byte{10, byte(7 + i>>8), byte(i), 1}))
	}
	for i := range 1000 { // connections of one network
		b.Requested(request(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 2, byte(i >> 8), byte(i), 15: 1}).String(),
			404))
	}
	got := listed(t, b)
	for _, a := range honest {
		if !strings.Contains(got, strings.Replace(a, "::1", "::/64", 1)+" ") {
			t.Errorf("%s was displaced:\n%s", a, got)
		}
	}
	if n := strings.Count(got, "\n") + 1; n > 60 {
		t.Errorf("%d clients, want at most 60", n)
	}
	sure, heard := b.sure.list(false), b.heard.list(false)
	if len(sure) != 23 || len(heard) != 20 || sure[3].Client == sure[0].Client {
		t.Errorf("%d with a connection, %d without", len(sure), len(heard))
	}
	for _, r := range sure[:4] { // the newest of each of the four networks
		if n := strings.Count(r.Client, "2001:db8:2"); n > 0 && r.Client != sure[0].Client {
			t.Errorf("two of one network come first: %s", r.Client)
		}
	}
	for i, s := range []*shelf{b.sure, b.heard} {
		most := []int{20, 10}[i]
		for net, n := range s.networks {
			if n.order.Len() > most || n.order.Len() == 0 {
				t.Errorf("%s has %d clients", net, n.order.Len())
			}
		}
	}
}

// TestPublishedSize: the copy in the tree is bounded, whatever clients send.
func TestPublishedSize(t *testing.T) {
	b := open(t, Config{})
	for i := range 6000 {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}).String()
		for j := range 10 {
			q := request(from, 404)
			q.Agent = strings.Repeat("a", 60) + fmt.Sprint("/", j)
			q.What = func() string { return strings.Repeat("\"", 1000) }
			b.Requested(q)
		}
		b.Asked(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 1}))
	}
	f, _ := b.snapshot(true)
	data, err := json.Marshal(f)
	if err != nil || len(f.Clients) != publishLimit || len(data) > 2<<20 {
		t.Errorf("%d clients in %d bytes, %v", len(f.Clients), len(data), err)
	}
	all, _ := b.snapshot(false)
	if len(all.Clients) != maxClients+maxHeard {
		t.Errorf("%d clients", len(all.Clients))
	}
}

func TestJudge(t *testing.T) {
	first, then := begin, begin.Add(time.Hour)
	for _, c := range []struct {
		evidence
		protocols, want, why string
	}{
		{evidence{}, DNS, Unknown, "it asks for names only"},
		{evidence{}, HTTP, Unknown, "plain http only"},
		{evidence{}, HTTPS, Unknown, "no content"},
		{evidence{Fetched: first}, HTTPS, Unknown, "it has fetched the root"},
		{evidence{Trusted: first, Fetched: then}, HTTPS, Yes, "it gets content over TLS, so"},
		{evidence{Untrusting: then}, HTTPS, No, "does not trust the bastions' root"},
		{evidence{Untrusting: then, Fetched: first}, HTTPS, No, "does not trust"},
		{evidence{Trusted: first, Untrusting: then}, HTTPS, No, "earlier ones succeeded"},
		{evidence{Trusted: then, Untrusting: first}, HTTPS, Yes, "an earlier handshake has failed"},
	} {
		got, why := c.judge([]string{DNS, c.protocols})
		if got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%+v: %s, %s", c.evidence, got, why)
		}
	}
}

func TestProgram(t *testing.T) {
	for agent, want := range map[string]string{
		"":                  "",
		"containerd/v2.1.0": "containerd/v2.1.0",
		"docker/27.1 go/go1.22 os/linux arch/amd64 UpstreamClient(Docker-Client/27)": "docker/27.1",
		"crane/0.20 go-containerregistry/0.20":                                       "crane/0.20",
		"Debian APT-HTTP/1.3 (2.6.1)":                                                "APT-HTTP/1.3",
		"libdnf (Fedora Linux 42; server; Linux.x86_64)":                             "libdnf",
		"Go-http-client/1.1":                                                         "Go-http-client/1.1",
		"ansible-httpget":                                                            "ansible-httpget",
		"(comment) late/1":                                                           "",
		"<script>/1 good/2":                                                          "good/2",
		"\x1b[1m/1":                                                                  "",
		strings.Repeat("a", 65):                                                      "",
		strings.Repeat("a/", 900):                                                    "",
		"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0":                      "Firefox/128.0",
		"Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126 Safari/537.36 Edg/126.0": "Edg/126.0",
		"Mozilla/5.0 (compatible)": "Mozilla/5.0",
	} {
		if got := program(agent); got != want {
			t.Errorf("%q: %q, want %q", agent, got, want)
		}
	}
}

// FuzzProgram: whatever a client sends, what is stored of it is short and of harmless signs, and stays itself.
func FuzzProgram(f *testing.F) {
	f.Add("containerd/v2.1.0", "GET https://x/")
	f.Add("Mozilla/5.0 (X11) Firefox/1", "\x1b")
	f.Fuzz(func(t *testing.T, agent, what string) {
		p := program(agent)
		if len(p) > maxProgram || strings.ContainsAny(p, "<>&\"' \x1b") || program(p) != p {
			t.Errorf("%q: %q", agent, p)
		}
		if c := clean(what); len(c) > maxWhat || clean(c) != c {
			t.Errorf("%q: %q", what, c)
		}
	})
}
