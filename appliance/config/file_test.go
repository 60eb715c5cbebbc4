package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What flags say and the config does not is added to it; existing keys stay as they are.
func TestStageAddsWhatFlagsSay(t *testing.T) {
	addr := []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("fd00::11")}
	for _, c := range []struct {
		name, text string
		given      Config
		want       string // "" is an error
	}{
		{"nothing is given", "node: n1 # mine\n", Config{}, "node: n1 # mine\n"},
		{"an address", "node: n1 # mine\n", Config{Advertise: addr},
			"node: n1 # mine\nadvertise: [\"10.0.0.11\", \"fd00::11\"]\n"},
		{"no end of line", "node: n1", Config{Advertise: addr[:1]}, "node: n1\nadvertise: [\"10.0.0.11\"]\n"},
		{"it says so already", "node: n1\n", Config{Node: "n1"}, "node: n1\n"},
		{"everything", "log: {level: debug}\n", Config{Node: "n2", Data: "/srv/x", Advertise: addr[:1]},
			"log: {level: debug}\nnode: \"n2\"\ndata: \"/srv/x\"\nadvertise: [\"10.0.0.11\"]\n"},
		{"one that nothing can be added to", "{node: n1}\n", Config{Advertise: addr}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "casemate.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			put, _, err := Stage(path, Config{}, c.given)
			if c.want == "" {
				if err == nil || !strings.Contains(err.Error(), `advertise: ["10.0.0.11"`) {
					t.Fatalf("got %v, expected an error with the line", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := put(true); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != c.want {
				t.Errorf("got %q, %v, expected %q", got, err, c.want)
			}
		})
	}
}

// A link to the config stays one, and directories can be passed by the daemon's user whatever the umask is.
func TestStageWrites(t *testing.T) {
	dir := t.TempDir()
	link, file := filepath.Join(dir, "link.yaml"), filepath.Join(dir, "real.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for path, written := range map[string]string{link: file, filepath.Join(dir, "a", "b.yaml"): filepath.Join(dir, "a",
		"b.yaml")} {
		put, _, err := Stage(path, Config{Node: "n1"}, Config{})
		if err == nil {
			err = put(true)
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(written)
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v, %v", written, info, err)
		}
	}
	if to, err := os.Readlink(link); err != nil || to != file {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "a")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory: %v, %v", info, err)
	}
}

// An error is no absence: what cannot be looked at is not written anew.
func TestBlankKnowsErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("node: n1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), dangling); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                          "false",
		filepath.Join(dir, "none"):    "true",
		filepath.Join(file, "x.yaml"): "error",
		filepath.Join(dir, strings.Repeat("x", 300)): "error",
		dangling: "false",
	} {
		blank, err := Blank(path)
		got := map[bool]string{true: "true", false: "false"}[blank]
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%.40s: %s, %v, expected %s", path, got, err, want)
		}
	}
}
