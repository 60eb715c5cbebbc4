package egress

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

type clock struct{ at time.Time }

func (c *clock) now() time.Time { c.at = c.at.Add(time.Second); return c.at }

func open(t *testing.T, cfg Config) *Book {
	t.Helper()
	if cfg.File == "" {
		cfg.File = filepath.Join(t.TempDir(), "egress.json")
	}
	if cfg.Now == nil {
		cfg.Now = (&clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}).now
	}
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func listed(t *testing.T, b *Book, by Filter) string {
	t.Helper()
	entries, _, err := b.List(by)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range entries {
		lines = append(lines, strings.TrimSpace(fmt.Sprint(e.Client, " ", e.Kind, " ", e.Name, " ", e.Verdict, " ",
			e.Count, " ", e.Class)))
	}
	return strings.Join(lines, "\n")
}

var a, b6 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")

// TestList: uses of one name are one entry, in one spelling; filters select; a restart keeps all of it.
func TestList(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "egress.json")}
	b := open(t, cfg)
	b.Note(a, DNS, "Dl.K8s.io.", Answered, 3)
	b.Note(netip.MustParseAddr("::ffff:10.0.0.1"), DNS, "dl.k8s.io", Answered, 1)
	b.Note(a, DNS, "dl.k8s.io", Refused, 1)
	b.Note(b6, TLS, "stats.grafana.org", Refused, 1)
	half := b.cfg.Now()
	b.Note(netip.MustParseAddr("10.9.0.1"), HTTP, "bad\x1b name", Refused, 1)
	b.Note(netip.Addr{}, DNS, "nobody.example", Refused, 1)
	b.Note(a, DNS, ".", Refused, 1)
	b.Note(a, DNS, "never.example", Refused, 0)
	const bad = "10.9.0.1 http bad??name refused 1"
	want := bad + "\nfd00::/64 tls stats.grafana.org refused 1 telemetry\n" +
		"10.0.0.1 dns dl.k8s.io refused 1\n10.0.0.1 dns dl.k8s.io answered 4"
	if got := listed(t, b, Filter{}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := listed(t, b, Filter{Since: half}); got != bad {
		t.Errorf("since: got\n%s", got)
	}
	if got := listed(t, b, Filter{Clients: netip.MustParsePrefix("10.9.0.0/16")}); got != bad {
		t.Errorf("client: got\n%s", got)
	}
	if err := b.notes.WriteDisk(); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, open(t, cfg), Filter{}); got != want {
		t.Errorf("after a restart: got\n%s\nwant\n%s", got, want)
	}
	if err := os.WriteFile(cfg.File, []byte(`{"entries":[{"client":"x"},{"client":"10.0.0.1","kind":"odd"}]}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, open(t, cfg), Filter{}); got != "" {
		t.Errorf("of entries that are none: %s", got)
	}
}

// TestNodes: every node sees the others' published part.
func TestNodes(t *testing.T) {
	tree := treetest.New(t)
	one, two := open(t, Config{Node: "one", Tree: tree}), open(t, Config{Node: "two", Tree: tree})
	one.Note(a, DNS, "dl.k8s.io", Answered, 3)
	two.Note(a, DNS, "dl.k8s.io", Answered, 2)
	two.Note(a, TLS, "ocsp.example.com", Refused, 1)
	for _, b := range []*Book{one, two} {
		if err := b.notes.WriteTree(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const want = "10.0.0.1 tls ocsp.example.com refused 1 certificate status\n10.0.0.1 dns dl.k8s.io answered 5"
	for _, b := range []*Book{one, two} {
		if got := listed(t, b, Filter{}); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", b.cfg.Node, got, want)
		}
	}
}

// TestFlood: a client with many names loses its own oldest, and the published part has something of everybody.
func TestFlood(t *testing.T) {
	b := open(t, Config{Max: 100})
	b.Note(a, DNS, "honest.example", Answered, 1)
	for i := range 1000 {
		b.Note(netip.MustParseAddr("10.6.6.6"), DNS, fmt.Sprint("n", i, ".example"), Refused, 1)
	}
	for i := range 1000 { // each from an address of its own
		b.Note(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), DNS, fmt.Sprint("m", i, ".example"), Refused, 1)
	}
	for i := range 60 {
		b.Note(netip.MustParseAddr("10.6.6.6"), DNS, fmt.Sprint("k", i, ".example"), Refused, 1)
	}
	f, _ := b.snapshot(0)
	if len(f.Entries) != 100 || f.Dropped == 0 {
		t.Errorf("%d entries, %d dropped", len(f.Entries), f.Dropped)
	}
	few := open(t, Config{Max: 100})
	few.Note(a, DNS, "honest.example", Answered, 1)
	for i := range 1000 {
		few.Note(netip.MustParseAddr("10.6.6.6"), DNS, fmt.Sprint("n", i, ".example"), Refused, 1)
	}
	bounded, _ := few.snapshot(10)
	data, err := json.Marshal(bounded)
	if err != nil || len(bounded.Entries) != 10 || !strings.Contains(string(data), "honest.example") ||
		!strings.Contains(string(data), "n999.example") {
		t.Errorf("%v: %s", err, data)
	}
}

// TestForged: questions from any number of forged addresses leave what clients did over TCP, here and in the published
// part, and the newest question of each client.
func TestForged(t *testing.T) {
	b := open(t, Config{Max: 100})
	for i := range 20 {
		b.Note(a, TLS, fmt.Sprint("t", i, ".example"), Refused, 1)
		b.Note(a, DNS, fmt.Sprint("t", i, ".example"), Refused, 1)
	}
	for i := range 1000 {
		b.Note(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), DNS, fmt.Sprint("m", i, ".example"), Refused, 1)
	}
	for limit, want := range map[int]int{0: 20, 80: 20, 20: 10, 3: 2} {
		f, _ := b.snapshot(limit)
		kept := 0
		for _, e := range f.Entries {
			if e.Kind == TLS {
				kept++
			}
		}
		if limit == 0 {
			limit = 100
		}
		if kept != want || len(f.Entries) != limit {
			t.Errorf("of %d entries %d are of TLS, want %d of %d", len(f.Entries), kept, want, limit)
		}
	}
	for i := range 100 { // and over TCP a client does not push out questions
		b.Note(b6, HTTP, fmt.Sprint("h", i, ".example"), Refused, 1)
	}
	f, _ := b.snapshot(0)
	n := map[string]int{}
	for _, e := range f.Entries {
		n[e.Kind]++
	}
	if len(f.Entries) != 100 || n[DNS] < 49 {
		t.Errorf("kept %v", n)
	}
}

func TestClasses(t *testing.T) {
	for name, want := range map[string]string{
		"stats.grafana.org": Telemetry, "o1.ingest.sentry.io": Telemetry, "0.debian.pool.ntp.org": Time,
		"ntp2.example.com": Time, "ocsp.digicert.com": Certificate, "crl3.digicert.com": Certificate,
		"ocsp.example.com": Certificate, "motd.ubuntu.com": Update, "dns.google": Resolver, "dl.k8s.io": "",
		"notsentry.io": "", "captive.apple.com": Probe, "": "", "timetable.example.com": "",
	} {
		if got := classOf(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, class := range classes {
		if classOf(name) != class || name != strings.ToLower(name) {
			t.Errorf("%s is %q, want %q", name, classOf(name), class)
		}
	}
}
