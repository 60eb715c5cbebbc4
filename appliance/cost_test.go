package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"casemate/appliance/doctor"
	"casemate/registry"
)

// TestOneLooksForSamples: who asks while another looks waits for that one and not longer than its own client; who hangs
// up does not end the search for the others.
func TestOneLooksForSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s samples
		looks, found := 0, make(chan doctor.Sample)
		find := func(ctx context.Context) doctor.Sample {
			looks++
			select {
			case f := <-found:
				return f
			case <-ctx.Done():
				return doctor.Sample{}
			}
		}
		first, hangUp := context.WithCancel(t.Context())
		got := make(chan string, 8)
		ask := func(ctx context.Context) {
			f, err := s.get(ctx, find)
			got <- fmt.Sprint(f.Image, err)
		}
		go ask(first)
		synctest.Wait()
		for range 3 {
			go ask(t.Context())
		}
		gone, leave := context.WithCancel(t.Context())
		go ask(gone)
		synctest.Wait()
		leave()
		if g := <-got; g != fmt.Sprint(context.Canceled) {
			t.Errorf("who does not wait any more gets %s", g)
		}
		hangUp()
		synctest.Wait()
		found <- doctor.Sample{Image: "a"}
		for range 4 {
			if g := <-got; g != "a<nil>" {
				t.Errorf("got %s", g)
			}
		}
		if looks != 1 {
			t.Errorf("%d looked", looks)
		}
		ask(t.Context()) // it is told again for a while
		time.Sleep(2 * sampleAge)
		go ask(t.Context())
		time.Sleep(sampleTime + time.Second) // and nobody looks longer than that
		if g := <-got + <-got; g != "a<nil><nil>" || looks != 2 {
			t.Errorf("then %s, and %d looked", g, looks)
		}
	})
}

// TestListsAreStreamed: a list is sent while it is made. An error is an answer of its own as long as nothing was sent,
// and cuts the connection after that.
func TestListsAreStreamed(t *testing.T) {
	a := &Appliance{log: testLog(t)}
	list := func(n int, end error) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range n {
				if !yield(i, nil) {
					return
				}
			}
			if end != nil {
				yield(0, end)
			}
		}
	}
	odd := func(i int) (any, bool) { return strings.Repeat("x", 1000+i), i%2 == 1 }
	req := httptest.NewRequest("GET", "/v1/images", nil)
	for _, n := range []int{0, 1, 2, 3, 1000} {
		w := httptest.NewRecorder()
		a.sendStream(w, req, streamOf(list(n, nil), odd))
		var got []string
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got == nil || len(got) != n/2 || w.Code != 200 ||
			w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d: %d %d of them, %v, %v", n, w.Code, len(got), w.Header(), err)
		}
	}
	w := httptest.NewRecorder()
	a.sendStream(w, req, streamOf(list(10, fmt.Errorf("no such thing: %w", fs.ErrNotExist)), odd))
	if w.Code != 404 || !strings.Contains(w.Body.String(), `{"error":"no such thing"}`) {
		t.Errorf("an error at the beginning: %d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("an error in the middle ends with %v", p)
			}
		}()
		a.sendStream(w, req, streamOf(list(1000, errors.New("broken")), odd))
		t.Error("an error in the middle is passed over")
	}()
	if json.Valid(w.Body.Bytes()) {
		t.Error("half a list passes for a whole one")
	}
	// Who hangs up ends it: the rest is not made.
	made := 0
	a.sendStream(&deaf{httptest.NewRecorder()}, req, func(yield func(any, error) bool) {
		for range 100_000 {
			if made++; !yield(strings.Repeat("x", 1000), nil) {
				return
			}
		}
	})
	if made > 2*streamChunk/1000 {
		t.Errorf("%d lines are made for nobody", made)
	}
}

// deaf is a client that has hung up.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestStatusTellsOfUploads: who has as many unfinished uploads as one may stands in status.
func TestStatusTellsOfUploads(t *testing.T) {
	got := uploadWarnings(registry.Uploads{Open: 20, Most: 40, Share: 10, Users: []registry.UserUploads{
		{User: "eve", Open: 10, Ended: 3}, {User: "ann", Open: 9}, {User: "bob", Open: 1, Ended: 1}, {User: "", Open: 20}}})
	if len(got) != 2 || !strings.Contains(got[0], "eve has 10 unfinished uploads") ||
		!strings.Contains(got[0], "3 so far") || !strings.Contains(got[1], "bob has 1") {
		t.Errorf("%q", got)
	}
	n := newNode(t, InitOptions{})
	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)
	res, _ := n.do("POST", "https://registry.casemate.internal/v2/team/app/blobs/uploads/", nil, func(r *http.Request) {
		r.SetBasicAuth("ada", "correct horse")
	})
	if res.StatusCode != 202 {
		t.Fatal(res.Status)
	}
	var s struct{ Uploads registry.Uploads }
	n.must("GET", "status", nil, &s)
	if u := s.Uploads; u.Open != 1 || u.Share == 0 || len(u.Users) != 1 || u.Users[0].User != "ada" ||
		u.Users[0].Open != 1 {
		t.Errorf("%+v", u)
	}
}
