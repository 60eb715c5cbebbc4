package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A second demo in the same directory leaves the first alone and says that it runs; for a tour that is an error.
func TestRunsAlready(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	out, err := output(t, func() error { return run(context.Background(), "casemate", dir, false) })
	for _, want := range []string{"already running in " + dir, "admin.sock status"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v, %q, want %q", err, out, want)
		}
	}
	err = run(context.Background(), "casemate", dir, true)
	if err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("a tour beside it: %v", err)
	}
	if list, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(list) != 1 {
		t.Errorf("it has written %v, %v", list, err)
	}
	unlock()
	if unlock, err = lock(dir); err != nil {
		t.Fatalf("the first has ended: %v", err)
	}
	unlock()
}

// output is what f prints.
func output(t *testing.T, f func() error) (string, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = stdout }()
	err = f()
	w.Close()
	text, readErr := io.ReadAll(r)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), err
}
