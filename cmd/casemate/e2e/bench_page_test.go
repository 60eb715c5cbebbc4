//go:build bench

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBenchPage measures every page with 200 000 own names, 500 nodes that have asked, and a missing book that is full
// of images, files and hosts (6 500 of its 10 000 places), and what 100 browsers cost that show a page on which
// nothing changes.
func TestBenchPage(t *testing.T) {
	const names, misses, nodes = 200_000, 10_000, 500
	b := newBench(t)
	bulkNames(t, filepath.Join(b.dir, "data", "cluster"), names)
	b.start(t)
	miss(t, b, misses, nodes)
	b.auth(t)
	b.casemate(t, "role", "grant", "bench", "admin")
	c := pageClient(t, b)
	coldSearch(t, b, c)
	login, err := c.PostForm(pageBase+"/login", url.Values{"name": {"bench"}, "password": {"a long password"}})
	if err != nil {
		t.Fatal(err)
	}
	front, _ := io.ReadAll(login.Body)
	login.Body.Close()
	pages := []string{"/", "/search?q=host-0000", "/enrolment"}
	for _, m := range regexp.MustCompile(`<li><a href="(/[^"]+)"`).FindAllSubmatch(front, -1) {
		pages = append(pages, string(m[1]))
	}
	if len(pages) < 12 {
		t.Fatalf("the navigation has only %q: %s", pages, front)
	}
	var slow, large float64
	var slowest, largest string
	for _, p := range pages {
		var took []float64
		size := 0
		for range scaled(11, 5) {
			began := time.Now()
			resp, err := c.Get(pageBase + p)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%s: %s %v: %.500s", p, resp.Status, err, body)
			}
			took, size = append(took, time.Since(began).Seconds()*1000), len(body)
		}
		fmt.Printf("BENCH page       %-24s %.1f ms (median of %d), %.1f KB\n", p, median(took), len(took),
			float64(size)/1000)
		if m := median(took); m > slow {
			slow, slowest = m, p
		}
		if kb := float64(size) / 1000; kb > large {
			large, largest = kb, p
		}
	}
	limit("slowest page ("+slowest+")", "ms", slow, 200)
	limit("largest page ("+largest+")", "KB", large, 300)
	browsers(t, b, c)
}

// coldSearch measures the first search that a browser sends, two seconds after it has opened its first page.
func coldSearch(t *testing.T, b *bench, c *http.Client) {
	t.Helper()
	get := func(path string) float64 {
		began := time.Now()
		resp, err := c.Get(pageBase + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v", path, resp.Status, err)
		}
		resp.Body.Close()
		return time.Since(began).Seconds() * 1000
	}
	if os.Getenv("CASEMATE_BENCH_COLD") != "" { // how long it takes without what is measured below
		fmt.Printf("BENCH page       first search without a page before: %.1f ms\n", get("/search?q=host-0000"))
		return
	}
	fmt.Printf("BENCH page       the login: %.1f ms\n", get("/login"))
	time.Sleep(2 * time.Second) // somebody types
	first := get("/search?q=host-0000")
	fmt.Printf("BENCH page       first search after it: %.1f ms\n", first)
	limit("first search", "ms", first, 200)
}

// browsers measures what 100 connections cost that wait for changes.
func browsers(t *testing.T, b *bench, c *http.Client) {
	const count = 100
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var ended sync.WaitGroup
	defer ended.Wait()
	defer cancel()
	const window = 20 * time.Second
	idle := func() float64 {
		c0 := b.cpu(t)
		time.Sleep(window)
		return (b.cpu(t) - c0).Seconds() / window.Seconds() * 100
	}
	without := idle()
	for range 5 { // what was asked for before is still being counted and published
		if without < 1 {
			break
		}
		without = idle()
	}
	before := b.rss()
	var begun sync.WaitGroup
	for range count {
		begun.Add(1)
		own := pageClient(t, b)
		own.Jar = c.Jar
		ended.Go(func() {
			done := sync.OnceFunc(begun.Done)
			defer done()
			req, err := http.NewRequestWithContext(ctx, "GET", pageBase+"/live?for=tree,missed", nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := own.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("/live: %s", resp.Status)
				return
			}
			io.ReadFull(resp.Body, make([]byte, 1))
			done()
			io.Copy(io.Discard, resp.Body)
		})
	}
	begun.Wait()
	with := idle()
	fmt.Printf("BENCH page       idle %.2f %% of a core, with %d browsers %.2f %%\n", without, count, with)
	limit("100 browsers on an idle page", "% of a core", max(0, with-without), 1)
	limit("100 browsers on an idle page", "MiB", b.rss()-before, 20)
}

const pageBase = "https://casemate.internal"

// pageClient is a browser of its own.
func pageClient(t *testing.T, b *bench) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.roots}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(b.tls, "https://"))
		}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Jar: jar}
}

// miss asks for images, files and hosts that are not there, from the addresses of many nodes, and fills the book.
func miss(t *testing.T, b *bench, misses, nodes int) {
	t.Helper()
	var all sync.WaitGroup
	work := make(chan int)
	for range 16 {
		all.Go(func() {
			for node := range work {
				from := netip.AddrFrom4([4]byte{127, 1, byte(node / 250), byte(node%250 + 1)})
				tr := &http.Transport{DialContext: (&net.Dialer{
					LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}).DialContext}
				for i := range 2 * misses / nodes {
					what := fmt.Sprintf("missing-%d-%d", node, i)
					path, host := "/v2/library/"+what+"/manifests/1", "docker.io"
					switch i % 3 {
					case 1:
						path, host = "/release/"+what, "dl.k8s.io"
					case 2:
						path, host = "/", what+".example"
					}
					req, _ := http.NewRequest("GET", b.http+path, nil)
					req.Host = host
					req.Header.Set("User-Agent", "containerd/v2.1.0")
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				tr.CloseIdleConnections()
			}
		})
	}
	for node := range nodes {
		work <- node
	}
	close(work)
	all.Wait()
	var list []json.RawMessage
	err := json.Unmarshal([]byte(b.casemate(t, "missing", "-o", "json")), &list)
	if err != nil || len(list) < misses*3/5 {
		t.Fatalf("the missing book has %d entries: %v", len(list), err)
	}
	fmt.Printf("BENCH page       the missing book has %d entries\n", len(list))
}
