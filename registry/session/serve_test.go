package session

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"casemate/cluster/treetest"
)

// front sends requests to sessions as the registry does.
type front struct {
	*Sessions
	t *testing.T
}

// send sends a request for an address that an earlier answer gave, or begins a session with POST.
func (f front) send(method, address string, body io.Reader) (*http.Response, error) {
	f.t.Helper()
	req := httptest.NewRequest(method, address, body)
	at := Request{ID: ID{Repository: "team/app"}, User: "ann", Location: func(path string) string { return path }}
	if method != "POST" {
		at.Upload = path.Base(req.URL.Path)
	}
	w := httptest.NewRecorder()
	err := f.Serve(w, req, at)
	if err != nil && w.Body.Len() > 0 {
		f.t.Errorf("%s %s: an error, and yet the client got %q", method, address, w.Body)
	}
	return w.Result(), err
}

// begin begins a session and returns its address.
func (f front) begin() string {
	f.t.Helper()
	res, err := f.send("POST", "/v2/team/app/blobs/uploads/", nil)
	if err != nil || res.StatusCode != 202 {
		f.t.Fatalf("POST: %v", err)
	}
	return res.Header.Get("Location")
}

// TestDistributionHashesNothing: the bytes of a PATCH go by distribution. It keeps the state of its hash when it closes
// an upload, under the number of bytes that the hash has seen.
func TestDistributionHashesNothing(t *testing.T) {
	f := front{open(t, Config{Tree: treetest.New(t)}), t}
	address := f.begin()
	id := ID{"team/app", path.Base(httptest.NewRequest("GET", address, nil).URL.Path)}
	for _, want := range []string{"0-4", "0-9"} {
		res, err := f.send("PATCH", address, strings.NewReader("hello"))
		if err != nil || res.StatusCode != 202 || res.Header.Get("Range") != want {
			t.Fatalf("PATCH: %v, range %q, want %q", err, res.Header.Get("Range"), want)
		}
		address = res.Header.Get("Location")
	}
	states := f.getStates(id.key())
	if len(states) == 0 {
		t.Error("distribution keeps no state of its hash: this test sees nothing any more")
	}
	for name := range states {
		if path.Base(name) != "0" {
			t.Errorf("distribution has hashed %s bytes", path.Base(name))
		}
	}
	w, err := f.Acquire(id)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := w.Commit(t.Context(), ""); err != nil || d != treetest.DigestOf([]byte("hellohello"), "") {
		t.Errorf("the upload is %s, %v", d, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	f.End(id)
}

// full is a tree whose scratch files take no bytes.
type full struct{ *treetest.Mem }

type fullWriter struct{ BlobWriter }

func (fullWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func (f full) ResumeBlob(id string) (BlobWriter, error) {
	w, err := f.Mem.ResumeBlob(id)
	if err != nil {
		return nil, err
	}
	return fullWriter{w}, nil
}

// TestErrorsOfAnUpload: the caller gets every error unchanged, and the session can be continued.
func TestErrorsOfAnUpload(t *testing.T) {
	broken := errors.New("connection reset")
	for _, c := range []struct {
		what string
		tree Tree
		send func(f front, address string) error
		want error
	}{
		{"the client's body breaks off", treetest.New(t), func(f front, address string) error {
			_, err := f.send("PATCH", address, io.MultiReader(strings.NewReader("he"), iotest.ErrReader(broken)))
			return err
		}, ErrBody},
		{"the disk is full", full{treetest.New(t)}, func(f front, address string) error {
			_, err := f.send("PATCH", address, strings.NewReader("hello"))
			return err
		}, syscall.ENOSPC},
		{"another request writes", treetest.New(t), func(f front, address string) error {
			id := ID{"team/app", path.Base(httptest.NewRequest("GET", address, nil).URL.Path)}
			w, err := f.Acquire(id)
			if err != nil {
				return err
			}
			defer f.Release(id, w)
			_, err = f.send("PATCH", address, strings.NewReader("hello"))
			return err
		}, ErrBusy},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := front{open(t, Config{Tree: c.tree}), t}
			address := f.begin()
			if err := c.send(f, address); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			res, err := f.send("GET", address, nil)
			if err != nil || res.StatusCode != 204 {
				t.Fatalf("the session afterwards: %v", err)
			}
			if _, err := f.send("DELETE", res.Header.Get("Location"), nil); err != nil {
				t.Errorf("DELETE: %v", err)
			}
		})
	}
}

// TestRefusals: a refusal of distribution is returned with its code and reason.
func TestRefusals(t *testing.T) {
	f := front{open(t, Config{Tree: treetest.New(t)}), t}
	old := f.begin()
	if _, err := f.send("PATCH", old, strings.NewReader("hello")); err != nil {
		t.Fatal(err)
	}
	plain, _, _ := strings.Cut(old, "?")
	for _, c := range []struct {
		what, address string
		status        int
	}{
		{"the address of an earlier moment", old, 416},
		{"no state", plain, 404},
		{"a forged state", plain + "?_state=x", 404},
	} {
		_, err := f.send("PATCH", c.address, strings.NewReader("x"))
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Status != c.status || refusal.Code == "" || refusal.Message == "" {
			t.Errorf("%s: %#v", c.what, err)
		}
	}
	if _, err := f.send("PATCH", "/v2/team/app/blobs/uploads/00000000-0000-4000-8000-000000000000?_state=x",
		strings.NewReader("x")); err == nil {
		t.Error("an upload that never was is written")
	}
}
