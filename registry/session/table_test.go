package session

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"casemate/cluster/treetest"
)

// fill begins a session, writes to it and releases it.
func fill(t *testing.T, s *table, user, key, text string) {
	t.Helper()
	if err := s.begin(user, key, "x"); err != nil {
		t.Fatal(err)
	}
	w, err := s.acquire(key, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := s.release(key, w); err != nil {
		t.Fatal(err)
	}
}

// TestAUserHasAShareOfUploads: no user's unfinished uploads prevent others from pushing.
func TestAUserHasAShareOfUploads(t *testing.T) {
	s := newTable(treetest.New(t), time.Now)
	fill(t, s, "ann", "upload-ann", "hello")
	for i := range maxSessions {
		if err := s.begin("eve", fmt.Sprint("upload-eve-", i), "x"); err != nil {
			t.Fatal(i, err)
		}
	}
	if n := len(s.sessions); n != shareOfSessions+1 {
		t.Fatalf("%d sessions, eve's share is %d", n, shareOfSessions)
	}
	got := s.Usage()
	if got.Open != shareOfSessions+1 || got.Users[0].User != "eve" || got.Users[0].Open != shareOfSessions ||
		got.Users[0].Ended != maxSessions-shareOfSessions || got.Users[1].User != "ann" || got.Users[1].Open != 1 ||
		got.Users[1].Bytes != 5 {
		t.Errorf("%+v", got)
	}
	// Her own oldest one is replaced by a new one, with its bytes; those being written stay.
	kept := "upload-eve-" + fmt.Sprint(maxSessions-1)
	writing, err := s.acquire(kept, true)
	if err != nil {
		t.Fatal(err)
	}
	defer writing.Cancel()
	for i := range shareOfSessions {
		if err := s.begin("ann", fmt.Sprint("upload-ann-", i), "x"); err != nil {
			t.Fatal(err)
		}
		if err := s.begin("eve", fmt.Sprint("upload-again-", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := s.sessions[kept]; !ok {
		t.Error("an upload that is being written was ended")
	}
	if _, err := s.tree.ResumeBlob("upload-ann"); !errors.Is(err, fs.ErrNotExist) { // ann's first, for her 1025th
		t.Errorf("the bytes of an upload that was ended are still there: %v", err)
	}
	if _, err := s.acquire("upload-ann", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an upload that was ended: %v", err)
	}
	if n := len(s.sessions); n != 2*shareOfSessions {
		t.Errorf("%d sessions of two users, want %d", n, 2*shareOfSessions)
	}
	// When several users have all of them, the user with most loses one.
	for _, user := range []string{"bob", "joe"} {
		for i := range shareOfSessions {
			if err := s.begin(user, fmt.Sprint("upload-", user, i), "x"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 10 {
		if err := s.begin("kim", fmt.Sprint("upload-kim", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if s.open["kim"] != 10 || len(s.sessions) != maxSessions {
		t.Errorf("%v", s.open)
	}
}

// TestUploadsBounded: sessions are bounded, and idle ones make room without losing their bytes.
func TestUploadsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newTable(treetest.New(t), func() time.Time { return now })
	fill(t, s, "", "upload-old", "hello")
	for len(s.sessions) < maxSessions {
		if err := s.begin("", fmt.Sprint("upload-", len(s.sessions)), "x"); err != nil {
			t.Fatal(err)
		}
	}
	var tooMany *TooManyError
	if err := s.begin("", "upload-new", "x"); !errors.As(err, &tooMany) {
		t.Errorf("one more than the bound: %v", err)
	}
	now = now.Add(idleSession + time.Second)
	if err := s.begin("", "upload-new", "x"); err != nil {
		t.Fatal(err)
	}
	if n := len(s.sessions); n != 1 {
		t.Errorf("%d sessions after an hour, want the new one", n)
	}
	w, err := s.acquire("upload-old", false)
	if err != nil || w.Size() != 5 {
		t.Fatalf("an idle upload has lost its bytes: %v", err)
	}
	if _, err := s.acquire("upload-old", false); !errors.Is(err, ErrBusy) {
		t.Errorf("acquired twice: %v", err)
	}
	if err := w.Cancel(); err != nil {
		t.Fatal(err)
	}
}

// TestHashStatesBounded: many chunks by distribution alone do not pile up hash states.
func TestHashStatesBounded(t *testing.T) {
	s := newTable(treetest.New(t), time.Now)
	if err := s.begin("", "upload-x", "x"); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		s.putState("upload-x", fmt.Sprint("hashstates/sha256/", i), []byte("state"))
	}
	states := s.getStates("upload-x")
	if len(states) != maxStates || states["hashstates/sha256/49"] == nil {
		t.Errorf("%d hash states", len(states))
	}
}
