package egress

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestUnrecorded: what was used and is in no transcript is said, from the book's file alone.
func TestUnrecorded(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "egress.json")}
	b := open(t, cfg)
	for _, u := range [][3]string{
		{DNS, "dl.k8s.io", Answered}, {TLS, "dl.k8s.io", Answered},
		{DNS, "time.example", Answered},
		{DNS, "vault.site.example", Forwarded},
		{DNS, "late.example", Refused}, {TLS, "late.example", Refused},
		{DNS, "dl.k8s.io.search.example", Refused},
		{DNS, "registry.own.internal", Answered},
		{HTTP, "deb.example", Refused}, {HTTP, "deb.example", Answered},
	} {
		b.Note(a, u[0], u[1], u[2], 1)
	}
	if err := b.notes.WriteDisk(); err != nil {
		t.Fatal(err)
	}
	entries, err := ReadFile(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	got := Unrecorded(entries, func(name string) bool { return strings.HasSuffix(name, ".own.internal") })
	var names []string
	for _, s := range got {
		name, _, _ := strings.Cut(s, " ")
		names = append(names, name)
	}
	if want := []string{"late.example", "time.example", "vault.site.example"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %v", got, want)
	}
	if _, err := ReadFile(cfg.File + ".absent"); err == nil {
		t.Error("a file that is not there has no error")
	}
}
