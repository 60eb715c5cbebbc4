package appliance

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"casemate/appliance/setup"
	"casemate/cluster/share"
	"casemate/cluster/waittest"
)

// bigFile serves a node with one turn for large copies, and a file that is more than sockets hold.
func bigFile(t *testing.T) (n *node, size int64) {
	t.Helper()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n = serveNode(t, cfg, func(a *Appliance) { a.turns = share.NewTurns(1) })
	const content = 24 << 20
	n.must("PUT", "files?url=https://dl.k8s.io/big", strings.Repeat("x", content), nil)
	return n, content
}

// However many large copies wait for their turn, small responses do not wait: all requests here are answered while
// the only turn is taken, and only then do the downloads continue.
func TestSmallAnswersTakeNoTurn(t *testing.T) {
	t.Parallel()
	n, size := bigFile(t)
	n.turns.Take("somebody else")
	const each = 8
	got := make(chan int64, 2*each)
	for _, url := range []string{"http://dl.k8s.io/big", "https://dl.k8s.io/big"} {
		for range each {
			go func() {
				resp, err := n.client.Get(url)
				if err != nil {
					t.Error(err)
					got <- 0
					return
				}
				defer resp.Body.Close()
				m, _ := io.Copy(io.Discard, resp.Body)
				got <- m
			}()
		}
	}
	waittest.Until(t, "all downloads wait for their turn", func() bool { return n.turns.Waiting() == 2*each })
	for range 4 {
		for _, url := range []string{"http://casemate.internal/healthz", "https://casemate.internal/readyz",
			"https://registry.k8s.io/v2/"} {
			resp, err := n.client.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", url, resp.Status)
			}
		}
		if !n.handshakes("registry.k8s.io") {
			t.Error("no handshake")
		}
		n.must("GET", "settings", nil, nil)
	}
	if len(got) != 0 || n.turns.Waiting() != 2*each {
		t.Errorf("%d downloads went on without a turn, %d wait", len(got), n.turns.Waiting())
	}
	n.turns.Free()
	for range 2 * each {
		if m := <-got; m != size {
			t.Errorf("a download of %d bytes, want %d", m, size)
		}
	}
}

// A client that does not read holds no turn: with one turn and four clients that have stopped reading, another one
// gets its whole response, and the four do when they continue reading.
func TestWhoDoesNotReadKeepsNoTurn(t *testing.T) {
	t.Parallel()
	n, size := bigFile(t)
	for _, url := range []string{"http://dl.k8s.io/big", "https://dl.k8s.io/big"} {
		var stopped []*http.Response
		for range 4 {
			resp, err := n.client.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			stopped = append(stopped, resp)
		}
		var good atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			resp, err := n.client.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			m, _ := io.Copy(io.Discard, resp.Body)
			good.Store(m)
		}()
		waittest.Until(t, "who reads has got all of "+url, func() bool {
			select {
			case <-done:
				return true
			default:
				return false
			}
		})
		if good.Load() != size {
			t.Errorf("%s: who reads got %d bytes, want %d", url, good.Load(), size)
		}
		for _, resp := range stopped {
			if m, err := io.Copy(io.Discard, resp.Body); err != nil || m != size {
				t.Errorf("%s: who reads on got %d bytes, want %d: %v", url, m, size, err)
			}
		}
	}
	waittest.Until(t, "nobody waits for a turn", func() bool { return n.turns.Waiting() == 0 })
}
