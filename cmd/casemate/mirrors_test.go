package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"casemate/appliance/nodeconf"
)

// Generated files are written through symbolic links, which stay links, and never outside of the directory.
func TestGeneratedFilesFollowLinks(t *testing.T) {
	for name, c := range map[string]struct {
		links map[string]string // name below the directory → target
		at    string            // where the file has the new content, below the directory; "" if it is refused
		want  string            // in the error
	}{
		"none":           {nil, "etc/docker/daemon.json", ""},
		"to a file":      {map[string]string{"etc/docker/daemon.json": "../../real.json"}, "real.json", ""},
		"two links":      {map[string]string{"etc/docker/daemon.json": "../../l", "l": "real.json"}, "real.json", ""},
		"of a directory": {map[string]string{"etc/docker": "../other"}, "other/daemon.json", ""},
		"of its parent":  {map[string]string{"etc": "other"}, "other/docker/daemon.json", ""},
		"to nothing":     {map[string]string{"etc/docker/daemon.json": "gone"}, "", "does not exist"},
		"loop":           {map[string]string{"etc/docker/daemon.json": "daemon.json"}, "", "too many links"},
		"out of it":      {map[string]string{"etc/docker/daemon.json": "OUT/out.json"}, "", "which is not below"},
		"out, directory": {map[string]string{"etc/docker": "OUT"}, "", "which is not below"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, out := t.TempDir(), t.TempDir()
			put := func(name string) {
				if err := os.WriteFile(name, []byte("old"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			put(filepath.Join(dir, "real.json"))
			put(filepath.Join(out, "out.json"))
			if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
				t.Fatal(err)
			}
			for link, to := range c.links {
				at := filepath.Join(dir, link)
				if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(strings.ReplaceAll(to, "OUT", out), at); err != nil {
					t.Fatal(err)
				}
			}
			cmd := &cobra.Command{}
			cmd.SetOut(io.Discard)
			w := &confOutput{dir: dir, force: true}
			err := w.write(cmd, []nodeconf.ConfFile{{Path: "/etc/docker/daemon.json", Content: "new"}}, true)
			if c.at == "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v", err)
				}
			} else if text, rerr := os.ReadFile(filepath.Join(dir, c.at)); err != nil || string(text) != "new" {
				t.Errorf("%v, %q, %v", err, text, rerr)
			}
			for link := range c.links {
				if info, err := os.Lstat(filepath.Join(dir, link)); err != nil || info.Mode()&os.ModeSymlink == 0 {
					t.Errorf("%s is no link any more: %v", link, err)
				}
			}
			if text, err := os.ReadFile(filepath.Join(out, "out.json")); err != nil || string(text) != "old" {
				t.Errorf("a file outside was changed: %q, %v", text, err)
			}
			if list, err := os.ReadDir(out); err != nil || len(list) != 1 {
				t.Errorf("a file outside was made: %v, %v", list, err)
			}
		})
	}
}
