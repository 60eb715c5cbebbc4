package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"casemate/appliance"
)

// A command on a node that was removed, or is not initialised, says so, and not that the daemon should be started; of
// another node's socket it knows nothing.
func TestNodeThatNeverRuns(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "a.sock")
	config := filepath.Join(dir, "casemate.yaml")
	data := filepath.Join(dir, "data")
	text := "data: " + data + "\nlisten: {admin: " + socket + "}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(socket string) error {
		c := (&options{socket: socket}).client()
		c.config = config
		return c.call(t.Context(), "GET", "status", nil, nil, nil)
	}
	for range 2 { // no directory, and an empty one, as the package makes it
		if err := ask(socket); !strings.Contains(err.Error(), "no node is in data directory "+data) ||
			!strings.Contains(err.Error(), "casemate init makes the first node of a cluster") {
			t.Errorf("before init: %v", err)
		}
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(data, "cluster"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "cluster", "format"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(socket); errors.Is(err, appliance.ErrRemoved) ||
		!strings.Contains(err.Error(), "systemctl start casemate") {
		t.Errorf("before: %v", err)
	}
	if err := os.WriteFile(filepath.Join(data, "removed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := ask(socket)
	if !errors.Is(err, appliance.ErrRemoved) || exitCode(err) != exitRemoved ||
		!strings.Contains(err.Error(), "clear its data directory") {
		t.Errorf("removed: %v", err)
	}
	if err := ask(socket + "2"); errors.Is(err, appliance.ErrRemoved) {
		t.Errorf("another socket: %v", err)
	}
}
