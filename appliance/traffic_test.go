package appliance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"casemate/appliance/metrics"
	"casemate/appliance/series"
	"casemate/appliance/setup"
	"casemate/appliance/status"
	"casemate/appliance/totals"
	"casemate/cluster/waittest"
	"casemate/dnssrv"
)

// The lines have the counters that their names say, and each answer of DNS is in one of the first four.
func TestTrafficLines(t *testing.T) {
	values := func(lines []series.Line, counts []uint64) string {
		t.Helper()
		if len(lines) != len(counts) {
			t.Fatalf("%d lines, %d counters", len(lines), len(counts))
		}
		var text []string
		for i, l := range lines {
			text = append(text, fmt.Sprint(l.Name, "=", counts[i]))
		}
		return strings.Join(text, " ")
	}
	got := values(requestLines, requestCounts(metrics.Totals{
		Requests: map[string]uint64{"registry": 1, "files": 2, "admin": 30, "page": 40, "pages": 50, "none": 60},
		Sent:     map[string]uint64{"registry": 3, "files": 4, "admin": 70, "page": 80}, Misses: 5,
	}))
	if want := "image_requests=1 file_requests=2 image_bytes=3 file_bytes=4 misses=5"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	got = values(dnsLines, dnsCounts(dnssrv.Stats{Forwarded: 9, Answers: map[string]uint64{
		"NOERROR": 1, "NXDOMAIN": 2, "REFUSED": 3, "SERVFAIL": 4, "NOTIMP": 5, "RCODE12": 6}}))
	if want := "dns_answered=1 dns_unknown=2 dns_refused=3 dns_failed=15 dns_forwarded=9"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Requests of clients are in the series, those of operators and of the page are not; noise is no miss.
func TestTraffic(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	n.must("PUT", "files?url=https://dl.k8s.io/tool", "bytes of it", nil)
	total := func(name string) (sum uint64) {
		var r series.Report
		n.must("GET", "series?span=day", nil, &r)
		for _, s := range r.Series {
			if s.Name == name {
				for _, v := range s.Values {
					sum += v
				}
			}
		}
		return sum
	}
	for range 3 {
		n.do("GET", "https://dl.k8s.io/tool", nil)
	}
	browser := func(r *http.Request) { r.Header.Set("User-Agent", "Mozilla/5.0") }
	n.do("GET", "https://dl.k8s.io/favicon.ico", nil, browser) // noise
	n.do("GET", "https://dl.k8s.io/absent", nil)
	n.do("GET", "https://casemate.internal/", nil)
	n.do("GET", "https://casemate.internal/v1/status", nil)
	waittest.Until(t, "all requests are counted", func() bool { return total("file_requests") == 5 })
	if got := [...]uint64{total("image_requests"), total("misses"), total("image_bytes")}; got != [...]uint64{0, 1, 0} {
		t.Errorf("%d", got)
	}
	if got := total("file_bytes"); got < 33 {
		t.Errorf("%d bytes", got)
	}
	waittest.Until(t, "an answer of DNS is counted", func() bool { return total("dns_answered") > 0 })
	if status, sentence := n.admin("GET", "series?span=week", nil, nil); status != 400 {
		t.Errorf("span week: %d %s", status, sentence)
	}
	var list []totals.Origin
	n.must("GET", "content", nil, &list)
	if fmt.Sprint(list) != "[{dl.k8s.io 0 1 11}]" {
		t.Errorf("%v", list)
	}
}

// A disk that fills has a forecast, also after a restart, and a warning that says what helps.
func TestDiskFills(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, filepath.Join(t.TempDir(), "data"))
	initNode(t, cfg, setup.InitOptions{})
	var s struct {
		Members  []status.Member
		Warnings []string
	}
	n := serveNode(t, cfg)
	n.must("GET", "status", nil, &s)
	me := s.Members[0]
	if me.Forecast != nil || me.Reserve <= 0 || me.Free <= me.Reserve {
		t.Fatalf("at first: %+v", me)
	}
	n.stop()
	// A week ago so much more was free that what is left is enough for ten days.
	before := time.Now().Add(-7*24*time.Hour + time.Minute).Unix()
	book, err := json.Marshal(map[string]any{"nodes": map[string]any{"n1": []map[string]any{
		{"at": before, "free": me.Free + (me.Free-me.Reserve)*7/10, "total": me.Total}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Data, setup.DisksFile), book, 0o600); err != nil {
		t.Fatal(err)
	}
	n = serveNode(t, cfg)
	n.must("GET", "status", nil, &s)
	f := s.Members[0].Forecast
	if f == nil || f.Days < 8 || f.Days > 12 || !f.Sure || f.BytesPerDay <= 0 || f.Since.Unix() != before {
		t.Fatalf("%+v", f)
	}
	if all := strings.Join(s.Warnings, "\n"); !strings.Contains(all, "the disk of node n1 will be full in ") ||
		!strings.Contains(all, "casemate gc --now") || !strings.Contains(all, "casemate content") {
		t.Errorf("%s", all)
	}
	var members []status.Member
	n.must("GET", "members", nil, &members)
	if members[0].Forecast == nil {
		t.Error("GET /v1/members has no forecast")
	}
}
