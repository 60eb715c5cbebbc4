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
