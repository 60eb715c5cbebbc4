package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/peer"
	"casemate/cluster/state"
	"casemate/cluster/waittest"
)

// nodes are stores that reach each other over HTTP and share one state, which a test applies commands to: there is no
// log and no raft.
type nodes struct {
	t      *testing.T
	life   context.Context
	tasks  sync.WaitGroup
	addrs  map[string]string // of their servers, by name
	stores map[string]*Store
	voters map[string]bool

	mu    sync.Mutex
	st    *state.State
	index uint64
}

// newNodes starts nodes, of which the first ones vote.
func newNodes(t *testing.T, voters int, names ...string) *nodes {
	life, cancel := context.WithCancel(context.Background())
	n := &nodes{
		t: t, life: life, st: state.New(),
		addrs: map[string]string{}, stores: map[string]*Store{}, voters: map[string]bool{},
	}
	t.Cleanup(func() { cancel(); n.tasks.Wait() })
	for i, name := range names {
		n.voters[name] = i < voters
		mux := http.NewServeMux()
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		n.addrs[name] = server.Listener.Addr().String()
		dir := t.TempDir()
		s, err := Open(Config{
			Node: name, Dir: filepath.Join(dir, "blobs"), Options: blob.Options{FS: blob.OS{}, Now: time.Now},
			Log: slog.New(slog.DiscardHandler), State: node{n, name}, Tasks: node{n, name}, Life: life,
			Patience: 10 * time.Second,
			CatchUp:  1 << 30,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		if err := s.Connect(node{n, name}, filepath.Join(dir, "complete")); err != nil {
			t.Fatal(err)
		}
		s.Handle(mux)
		n.stores[name] = s
	}
	for _, s := range n.stores {
		s.Run()
	}
	return n
}

// apply executes edits, and notifies the stores as the state machine of a node does.
func (n *nodes) apply(ops ...state.Op) {
	n.t.Helper()
	n.mu.Lock()
	n.index++
	cmd := state.Command{Node: "t", Boot: 1, Seq: n.index, Time: time.Now().UnixNano(), Ops: ops}
	data, err := cmd.Encode()
	if err != nil {
		n.t.Fatal(err)
	}
	next := n.st.Clone()
	r := next.Apply(n.index, data)
	if r.Fatal != nil || r.Err != nil {
		n.t.Fatal(r.Fatal, r.Err)
	}
	for _, s := range n.stores {
		s.Added(r.Added)
		s.Collected(r.Collected, r.Index)
	}
	n.st = next
	n.mu.Unlock()
	for _, s := range n.stores {
		s.Published()
	}
}

// node is what one of them sees of the others.
type node struct {
	*nodes
	name string
}

func (n node) View() *state.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.st
}

func (n node) Durable() uint64                           { return n.View().Index() }
func (n node) WaitDurable(context.Context, uint64) error { return nil }
func (n node) Up(string) bool                            { return true }
func (n node) UpNodes() []string                         { return n.Others() }
func (n node) Missing(other string) int                  { return n.stores[other].Missing() }
func (n node) Changes(context.Context) <-chan struct{}   { return nil }
func (n node) Stopped() error                            { return context.Canceled }
func (n node) Do(req *http.Request) (*http.Response, error) {
	req.URL.Host = n.addrs[req.URL.Host]
	return http.DefaultTransport.RoundTrip(req)
}

func (n node) Background(f func()) bool {
	if n.life.Err() != nil {
		return false
	}
	n.tasks.Go(f)
	return true
}

func (n node) Voters() (map[string]bool, int) {
	voters := map[string]bool{}
	for name, votes := range n.voters {
		if votes {
			voters[name] = true
		}
	}
	return voters, len(voters)/2 + 1
}

func (n node) Others() (names []string) {
	for name := range n.addrs {
		if name != n.name {
			names = append(names, name)
		}
	}
	return names
}

func (n node) Alive(ctx context.Context, _ string) (context.Context, context.CancelFunc, bool) {
	ctx, cancel := context.WithCancel(ctx)
	return ctx, cancel, true
}

func (n node) Ask(ctx context.Context, method, other, path string, body io.Reader) (peer.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+other+path, body)
	if err != nil {
		return peer.Answer{}, err
	}
	return n.Send(req)
}

func (n node) Send(req *http.Request) (a peer.Answer, err error) {
	res, err := n.Do(req)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	return a, json.NewDecoder(res.Body).Decode(&a)
}

// An upload is on a majority of the voters when Replicate returns; a node that does not vote fetches it once it is
// known, and a collected blob is removed from all disks.
func TestStoresShareBlobs(t *testing.T) {
	for _, size := range []int{0, 100, 200 << 10, 3 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			n := newNodes(t, 3, "a", "b", "c", "learner")
			data := bytes.Repeat([]byte("x"), size)
			u, err := n.stores["a"].Create("")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Write(data); err != nil {
				t.Fatal(err)
			}
			digest, placed, err := u.Place("")
			if err != nil || placed != int64(size) {
				t.Fatal(placed, err)
			}
			confirmed, err := u.Replicate(t.Context(), digest, placed)
			if err != nil {
				t.Fatal(err)
			}
			have := func() (count int) {
				for name, votes := range n.voters {
					if _, err := n.stores[name].Dir().Stat(digest); err == nil && votes {
						count++
					}
				}
				return count
			}
			if got := have(); got < 2 {
				t.Errorf("it is on %d of 3 voters", got)
			}
			d, err := state.ParseDigest(digest)
			if err != nil {
				t.Fatal(err)
			}
			n.apply(&state.AddBlob{Digest: d, Size: placed, Confirmed: confirmed, Until: time.Now().UnixNano()})
			u.Done()
			got, err := n.stores["learner"].Read(digest, placed)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("the learner reads %d bytes, %v", len(got), err)
			}
			// A copy that is confirmed after the collection keeps its file, for the next one.
			waittest.Until(t, "no store misses a blob or is still taking one", func() bool {
				for _, s := range n.stores {
					if _, err := s.Dir().Stat(digest); err != nil || s.Missing() != 0 || s.Dir().Held(digest) {
						return false
					}
				}
				return true
			})
			n.apply(&state.Expire{Now: time.Now().UnixNano() + 1})
			n.apply(&state.Collect{Digests: []state.Digest{d}})
			waittest.Until(t, "no file of what was collected is there", func() bool {
				for _, s := range n.stores {
					if _, err := s.Dir().Stat(digest); err == nil {
						return false
					}
				}
				return true
			})
		})
	}
}
