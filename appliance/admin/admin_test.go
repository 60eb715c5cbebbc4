package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"casemate/appliance/usage"
	"casemate/pki"
)

// Errors keep their class over the wire, so that the command line ends with the right code.
func TestErrorsBecomeTheRightStatus(t *testing.T) {
	a := &API{Log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		err  error
		want int
	}{
		{usage.Errorf("x must be y, got z"), 400},
		{fmt.Errorf("x: %w", fs.ErrInvalid), 400},
		{fmt.Errorf("x: %w", fs.ErrPermission), 400},
		{fmt.Errorf("x: %w", syscall.EBADMSG), 400},
		{fmt.Errorf("x: %w", pki.ErrNotPermitted), 400},
		{fmt.Errorf("x: %w", fs.ErrNotExist), 404},
		{fmt.Errorf("x: %w", fs.ErrExist), 409},
		{fmt.Errorf("x: %w", pki.ErrRotating), 409},
		{fmt.Errorf("x: %w", syscall.EAGAIN), 503},
		{fmt.Errorf("x: %w", syscall.ENOSPC), 507},
		{errors.New("x"), 500},
	} {
		w := httptest.NewRecorder()
		a.adminError(w, httptest.NewRequest("GET", "/v1/x", nil), c.err)
		var e struct{ Error string }
		if json.Unmarshal(w.Body.Bytes(), &e) != nil || w.Code != c.want ||
			!strings.HasPrefix(e.Error, "x") || strings.HasSuffix(e.Error, "file does not exist") {
			t.Errorf("%v: %d %q, want %d", c.err, w.Code, w.Body, c.want)
		}
	}
}

// TestListsAreStreamed: a list is sent while it is made. An error is an answer of its own as long as nothing was sent,
// and cuts the connection after that.
func TestListsAreStreamed(t *testing.T) {
	a := &API{Log: slog.New(slog.DiscardHandler)}
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
	odd := func(i int) (any, string, bool) { return strings.Repeat("x", 1000+i), "", i%2 == 1 }
	req := httptest.NewRequest("GET", "/v1/images", nil)
	for _, n := range []int{0, 1, 2, 3, 1000} {
		w := httptest.NewRecorder()
		a.sendStream(w, req, pagedAnswer{list: listOf(list(n, nil), odd)})
		var got []string
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got == nil || len(got) != n/2 || w.Code != 200 ||
			w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d: %d %d of them, %v, %v", n, w.Code, len(got), w.Header(), err)
		}
	}
	w := httptest.NewRecorder()
	a.sendStream(w, req, pagedAnswer{list: listOf(list(10, fmt.Errorf("no such thing: %w", fs.ErrNotExist)), odd)})
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
		a.sendStream(w, req, pagedAnswer{list: listOf(list(1000, errors.New("broken")), odd)})
		t.Error("an error in the middle is passed over")
	}()
	if json.Valid(w.Body.Bytes()) {
		t.Error("half a list passes for a whole one")
	}
	// When the client disconnects, the rest is not generated.
	made := 0
	a.sendStream(&deaf{httptest.NewRecorder()}, req, pagedAnswer{list: func(yield func(element, error) bool) {
		for range 100_000 {
			if made++; !yield(element{value: strings.Repeat("x", 1000)}, nil) {
				return
			}
		}
	}})
	if made > 2*streamChunk/1000 {
		t.Errorf("%d lines are made for nobody", made)
	}
}

// deaf is a client that has disconnected.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("connection reset") }
