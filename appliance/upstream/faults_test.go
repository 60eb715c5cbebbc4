package upstream_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"casemate/appliance/upstream"
	"casemate/cluster/treetest"
	"casemate/cluster/waittest"
)

// ended waits until that many fetches have ended, and returns the error of the last.
func (w *world) ended(n int) error {
	w.t.Helper()
	var list []upstream.Event
	waittest.Until(w.t, fmt.Sprint(n, " fetches have ended"), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		list = w.events
		return len(list) >= n
	})
	return list[n-1].Err
}

// kept waits until content is stored: a client has it before that.
func (w *world) kept(digest string) {
	w.t.Helper()
	waittest.Until(w.t, digest+" is stored", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.ContainsFunc(w.events, func(e upstream.Event) bool { return e.Digest == digest && e.Err == nil })
	})
}

// TestLeaderGoesAway: whichever write the loss of a leader hits, and whether it happened all the same, the client gets
// its content, it is stored in the end, and it was fetched once.
func TestLeaderGoesAway(t *testing.T) {
	layer := treetest.DigestOf([]byte("a layer"), "")
	for _, err := range []error{syscall.EAGAIN, syscall.EINPROGRESS} {
		for _, c := range []struct {
			name, write string
			nth         int64 // write of that kind, from 1
			happened    bool
		}{
			{"blob", "blob", 1, false},
			{"blob, but it happened", "blob", 1, true},
			{"what awaits the blob", "update", 2, false},
			{"what awaits the blob, but it happened", "update", 2, true},
		} {
			t.Run(fmt.Sprint(c.name, " ", err), func(t *testing.T) {
				w := newWorld(t)
				p := newPicture("a layer")
				w.internet(p.serve)
				w.want(w.get(site, "/v2/app/manifests/v1"), 200, p.manifest)
				var n, failed atomic.Int64
				w.store.Fail = func(what string) (error, bool) {
					if what == c.write && n.Add(1) == c.nth {
						failed.Add(1)
						return err, c.happened
					}
					return nil, false
				}
				w.want(w.get(site, "/v2/app/blobs/"+layer), 200, "a layer")
				if err := w.ended(2); err != nil || failed.Load() != 1 {
					t.Errorf("the fetch ended with %v after %d failures", err, failed.Load())
				}
				// The image holds its layer: it is there after a collection.
				w.store.Unpin()
				w.store.Collect()
				w.down.Store(true)
				w.tls.CloseClientConnections()
				w.want(w.get(site, "/v2/app/blobs/"+layer), 200, "a layer")
				if n := w.count("GET " + foreign + "/signed"); n != 1 {
					t.Errorf("fetched %d times", n)
				}
			})
		}
	}
}

// TestJustStored: a request that found nothing causes no fetch if one has ended since.
func TestJustStored(t *testing.T) {
	w := newWorld(t)
	w.internet(text("content"))
	w.want(w.get(fileHost, "/a"), 200, "content")
	w.ended(1)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+fileHost+"/a", nil)
	in, err := w.up.FileServer().File(req, "https://"+fileHost+"/a", false, false)
	if in != nil || err != nil || w.total.Load() != 1 {
		t.Errorf("got %v, %v after %d requests", in, err, w.total.Load())
	}
}

// TestNotStored: when content cannot be stored for good, nothing of it is visible, and the next request fetches it.
func TestNotStored(t *testing.T) {
	w := newWorld(t)
	w.internet(text("content"))
	var full atomic.Bool
	full.Store(true)
	w.tree.Fail = func(string) (error, bool) {
		if full.Load() {
			return syscall.ENOSPC, false
		}
		return nil, false
	}
	w.get(fileHost, "/a")
	if err := w.ended(1); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the fetch ended with %v", err)
	}
	if _, err := w.tree.Stat(fileHost); err == nil {
		t.Error("something is visible")
	}
	full.Store(false)
	w.want(w.get(fileHost, "/a"), 200, "content")
}

// TestStopInTheMiddle: a fetch that its node's stop ends leaves nothing, and its clients do not get the end. Nothing
// of it was visible to the other node, which fetches it itself.
func TestStopInTheMiddle(t *testing.T) {
	w := newWorld(t)
	half := make(chan struct{})
	var hangs atomic.Bool
	hangs.Store(true)
	const begin = "the beginning, of more than what is looked at, "
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", fmt.Sprint(100*len(begin)))
		for i := range 100 {
			if i == 50 && hangs.Load() {
				rw.(http.Flusher).Flush()
				close(half)
				<-r.Context().Done()
				return
			}
			io.WriteString(rw, begin)
		}
	})
	got := make(chan int)
	go func() { got <- w.get(fileHost, "/a").Body.Len() }()
	<-half
	visible := func() {
		t.Helper()
		for name := range w.tree.Walk(".", "") {
			t.Errorf("%s is visible", name)
		}
	}
	visible()
	w.up.Close()
	if n := <-got; n >= 100*len(begin) {
		t.Errorf("the client got %d bytes", n)
	}
	visible()
	if rec := w.get(fileHost, "/a"); rec.Code == 200 {
		t.Errorf("a stopped node answered %d", rec.Code)
	}
	hangs.Store(false)
	other := newWorldOn(t, w.tree)
	other.internet(*w.serve.Load())
	if n := other.get(fileHost, "/a").Body.Len(); n != 100*len(begin) {
		t.Errorf("the other node has %d bytes", n)
	}
}

// TestStopWhileStoring: what a client has got is stored although the node stops meanwhile.
func TestStopWhileStoring(t *testing.T) {
	w := newWorld(t)
	hangs, stopping := make(chan struct{}), make(chan struct{})
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			close(hangs)
			<-r.Context().Done() // the stop ends it
			close(stopping)
			return
		}
		io.WriteString(rw, "content")
	})
	go w.get(fileHost, "/hangs")
	<-hangs
	closed := make(chan struct{})
	var once sync.Once
	w.tree.Fail = func(what string) (error, bool) {
		if what == "blob" {
			once.Do(func() {
				go func() { w.up.Close(); close(closed) }()
				<-stopping
			})
		}
		return nil, false
	}
	w.want(w.get(fileHost, "/a"), 200, "content")
	<-closed
	if info, err := w.files.Stat("https://" + fileHost + "/a"); err != nil || info.Digest == "" {
		t.Errorf("it is not stored: %v", err)
	}
}
