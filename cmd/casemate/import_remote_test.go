package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"casemate/appliance/handover"
	"casemate/appliance/parts"
)

// TestSendOverABadConnection: every third answer is lost after its request was done, and every fifth request before.
// The files arrive whole and once.
func TestSendOverABadConnection(t *testing.T) {
	want := [][]byte{bytes.Repeat([]byte("0123456789"), 100_000), nil, []byte("small")}
	sessions := parts.New("n1")
	var session *parts.Session
	got := make(chan [][]byte, 1)
	state := func(w http.ResponseWriter) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := session.State(ctx)
		if err != nil {
			t.Error(err)
		}
		s.Most = min(s.Most, 100_000)
		json.NewEncoder(w).Encode(s)
	}
	var n atomic.Int64
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer the-key" {
			t.Errorf("authorized with %q", r.Header.Get("Authorization"))
		}
		count := n.Add(1)
		if count%5 == 0 {
			panic(http.ErrAbortHandler)
		}
		if count%3 == 0 && r.Method == "PATCH" {
			defer panic(http.ErrAbortHandler)
			w = httptest.NewRecorder()
		}
		switch r.Method {
		case "POST":
			var q handover.Request
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Inputs) != 3 || q.Name != "x" {
				t.Errorf("%+v %v", q, err)
			}
			session, _ = sessions.Open("ada", parts.About{}, []parts.File{{Name: "a"}, {Name: "b"}, {Name: "c"}})
			go func() {
				var all [][]byte
				for _, f := range session.Files() {
					data, err := io.ReadAll(f)
					if err != nil {
						t.Error(err)
					}
					all = append(all, data)
				}
				got <- all
				session.Finish(200, "done", nil)
			}()
			state(w)
		case "GET":
			state(w)
		case "PATCH":
			body, err := io.ReadAll(r.Body)
			sum := sha256.Sum256(body)
			if err != nil || r.Header.Get("Content-Digest") !=
				"sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":" {
				t.Errorf("%v %v", err, r.Header)
			}
			file, _ := strconv.Atoi(r.URL.Query().Get("file"))
			offset, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
			switch err := session.Put(file, offset, body, r.URL.Query().Get("last") == "true"); {
			case errors.Is(err, fs.ErrExist):
				w.WriteHeader(http.StatusConflict)
				json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
			case err != nil:
				t.Error(err)
			default:
				state(w)
			}
		case "DELETE":
			session.Close(nil)
		}
	}))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &sender{c: &client{server: u, http: srv.Client(), authorization: "Bearer the-key"},
		report: func(handover.Progress) {}, pause: func(context.Context) {}}
	var paths []string
	for i, b := range want {
		name := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, name)
	}
	defer s.close()
	req := handover.Request{Name: "x"}
	if err := s.open(&req, paths); err != nil || s.total != 1_000_005 {
		t.Fatal(s.total, err)
	}
	var first parts.State
	if err := s.c.call(t.Context(), "POST", "imports/parts", nil, req, &first); err != nil {
		t.Fatal(err)
	}
	if err := s.send(t.Context(), &first); err != nil {
		t.Fatal(err)
	}
	for i, b := range <-got {
		if !bytes.Equal(b, want[i]) {
			t.Errorf("file %d has %d bytes, want %d", i, len(b), len(want[i]))
		}
	}
	if string(first.Result) != `"done"` || n.Load() < 12 {
		t.Errorf("%+v after %d requests", first, n.Load())
	}
	session.Close(nil)
	if err := s.open(&req, []string{dir}); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
}

// TestSendToABastionThatForgets: a bastion that is started again has lost the import. It gets the same files again, and
// does not if somebody has ended the import, if it loses it each time, or if a file cannot be read again.
func TestSendToABastionThatForgets(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 300_000)
	name := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		forgets int // after so many parts, each time
		times   int
		ended   bool
		pipe    bool
		want    string // of the error
		begun   int
	}{
		"once":                {forgets: 3, times: 1, begun: 2},
		"some times":          {forgets: 2, times: 5, begun: 6},
		"before the first":    {forgets: 0, times: 2, begun: 3},
		"each time":           {forgets: 1, times: 1 << 30, want: "no such import", begun: maxBegun},
		"it was ended":        {forgets: 3, times: 1, ended: true, want: "was ended", begun: 1},
		"a pipe":              {forgets: 9, times: 1, pipe: true, want: "again", begun: 2},
		"a pipe, not read on": {forgets: 0, times: 1, pipe: true, begun: 2},
	} {
		t.Run(what, func(t *testing.T) {
			sessions := parts.New("n1")
			var session *parts.Session
			begun, forgotten, got := 0, 0, 0
			var result []byte
			var done chan struct{}
			fail := func(w http.ResponseWriter, status int, sentence string) {
				w.WriteHeader(status)
				json.NewEncoder(w).Encode(map[string]string{"error": sentence})
			}
			state := func(w http.ResponseWriter) {
				s, err := session.State(t.Context())
				if err != nil {
					t.Error(err)
				}
				s.Most = min(s.Most, 100_000)
				json.NewEncoder(w).Encode(s)
			}
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "POST" {
					var q handover.Request
					if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Wait != (begun > 0) {
						t.Errorf("%+v, %v", q, err)
					}
					begun++
					got = 0
					n, err := sessions.Open("ada", parts.About{}, []parts.File{{Name: "a"}})
					if err != nil {
						t.Error(err)
					}
					session, done = n, make(chan struct{})
					go func(done chan struct{}) {
						defer close(done)
						data, err := io.ReadAll(n.Files()[0])
						if err == nil {
							result = data
							n.Finish(200, "done", nil)
						}
					}(done)
					state(w)
					return
				}
				if session.ID() != strings.TrimPrefix(r.URL.Path, "/v1/imports/parts/") {
					fail(w, 404, "there is no such import")
					return
				}
				if got >= c.forgets && forgotten < c.times && r.Method != "DELETE" {
					forgotten++
					session.Close(errors.New("killed"))
					<-done
					if c.ended {
						fail(w, 410, "this import over https was ended")
						return
					}
					fail(w, 404, "there is no such import")
					return
				}
				if r.Method == "PATCH" {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					offset, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
					if err := session.Put(0, offset, body, r.URL.Query().Get("last") == "true"); err != nil {
						fail(w, 409, err.Error())
						return
					}
					got++
				}
				state(w)
			}))
			defer srv.Close()
			u, err := url.Parse(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			s := &sender{c: &client{server: u, http: srv.Client()}, report: func(handover.Progress) {},
				pause: func(context.Context) {}}
			defer s.close()
			var req handover.Request
			if err := s.open(&req, []string{name}); err != nil {
				t.Fatal(err)
			}
			s.files[0].again = !c.pipe
			s.begin = func(ctx context.Context) (parts.State, error) {
				req.Wait = begun > 0
				return s.c.beginImport(ctx, &req)
			}
			at, err := s.begin(t.Context())
			if err == nil {
				err = s.send(t.Context(), &at)
			}
			switch {
			case begun != c.begun:
				t.Errorf("begun %d times, want %d: %v", begun, c.begun, err)
			case c.want == "" && (err != nil || string(at.Result) != `"done"` || !bytes.Equal(result, content)):
				t.Errorf("%v, %s, %d bytes", err, at.Result, len(result))
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			}
			session.Close(nil)
			<-done
		})
	}
}

func TestServers(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for text, want := range map[string]string{
		"https://a.example": "https://a.example", "a.example": "https://a.example",
		"https://a.example:8443/": "https://a.example:8443", "10.0.0.1:443": "https://10.0.0.1:443",
		"http://a.example": "", "https://": "", "https://u:p@a.example": "", "https://a.example/x": "",
		"https://a.example?x": "", "https://a.example#x": "", "ftp://a": "", "https://a b": "",
	} {
		u, err := parseServer(text)
		if got := ""; err == nil {
			if got = u.String(); got != want {
				t.Errorf("%q is %q, want %q", text, got, want)
			}
		} else if want != "" || exitCode(err) != exitUsage {
			t.Errorf("%q: %v", text, err)
		}
	}
	if e, err := kept("https://a"); e != nil || err != nil {
		t.Errorf("%v %v", e, err)
	}
	for _, server := range []string{"https://a", "https://b"} {
		if err := keep(server, &entry{Key: "key of " + server}); err != nil {
			t.Fatal(err)
		}
	}
	if err := keep("https://b", nil); err != nil {
		t.Fatal(err)
	}
	a, err := kept("https://a")
	if err != nil || a.Key != "key of https://a" {
		t.Errorf("%+v %v", a, err)
	}
	if b, err := kept("https://b"); b != nil || err != nil {
		t.Errorf("%+v %v", b, err)
	}
	file, err := serversFile()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := kept("https://a"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
}
