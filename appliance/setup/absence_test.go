package setup

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"casemate/appliance/config"
)

// asNobody runs do as a user to whom no file of the test belongs.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		do() // what is to be hidden is hidden from its owner, too
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its user
		if err := syscall.Setfsuid(65534); err != nil {
			t.Error(err)
			return
		}
		do()
	}()
	<-done
}

// TestAnErrorIsNoAbsence: whoever cannot see whether a node is there must not be told that there is none, which would
// make a second cluster.
func TestAnErrorIsNoAbsence(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string) (data string)
		says string
	}{
		{"no permission for the directory", func(t *testing.T, dir string) string {
			data := filepath.Join(dir, "data")
			check(t, os.MkdirAll(filepath.Join(data, clusterDir), 0o755))
			check(t, os.WriteFile(filepath.Join(data, clusterDir, "format"), []byte("{}"), 0o600))
			check(t, os.Chmod(data, 0))
			return data
		}, "chown -R casemate: "},
		{"no permission for what is in it", func(t *testing.T, dir string) string {
			data := filepath.Join(dir, "data")
			check(t, os.MkdirAll(filepath.Join(data, clusterDir), 0o755))
			check(t, os.WriteFile(filepath.Join(data, clusterDir, "format"), []byte("{}"), 0o600))
			check(t, os.Chmod(filepath.Join(data, clusterDir), 0))
			return data
		}, "chown -R casemate: "},
		{"a file above it", func(t *testing.T, dir string) string {
			check(t, os.WriteFile(filepath.Join(dir, "disk"), nil, 0o644))
			return filepath.Join(dir, "disk", "data")
		}, "is a file and no directory"},
		{"links in a circle", func(t *testing.T, dir string) string {
			check(t, os.Symlink(filepath.Join(dir, "b"), filepath.Join(dir, "a")))
			check(t, os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
			return filepath.Join(dir, "a")
		}, "lead in a circle"},
		{"a name that is too long", func(_ *testing.T, dir string) string { return filepath.Join(dir, long, "data") },
			"cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) { // everybody may pass
				check(t, os.Chmod(d, 0o755))
			}
			cfg := testConfig(t, dir)
			cfg.Data = c.make(t, dir)
			t.Cleanup(func() { // the test's directory has to go
				os.Chmod(cfg.Data, 0o755)
				os.Chmod(filepath.Join(cfg.Data, clusterDir), 0o755)
			})
			asNobody(t, func() {
				for what, do := range map[string]func() error{
					"initialised": func() error { _, err := Initialised(cfg); return err },
					"removed":     func() error { return Removed(filepath.Join(cfg.Data, clusterDir)) },
					"init": func() error {
						_, err := Init(context.Background(), cfg, InitOptions{})
						return err
					},
					"restore": func() error {
						_, _, err := Restore(context.Background(), cfg, strings.NewReader(""),
							RestoreOptions{Passphrase: "x"})
						return err
					},
				} {
					err := do()
					if err == nil || !strings.Contains(err.Error(), c.says) ||
						strings.Contains(err.Error(), "casemate init") {
						t.Errorf("%s: got %v, expected an error with %q", what, err, c.says)
					}
				}
			})
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestStopped: why a node does not run, from what is in its data directory and its config.
func TestStopped(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, cfg config.Config, file string)
		says string // "" is no reason
	}{
		{"nothing was done yet", func(*testing.T, config.Config, string) {}, "no casemate is initialised here"},
		{"an empty directory and a config that says nothing", func(t *testing.T, cfg config.Config, file string) {
			check(t, os.Mkdir(cfg.Data, 0o755))
			check(t, os.WriteFile(file, []byte("# nothing\n"), 0o644))
		}, "casemate init makes the first node"},
		{"the disk is not there", func(t *testing.T, cfg config.Config, file string) {
			check(t, os.Mkdir(cfg.Data, 0o755))
			check(t, os.WriteFile(file, []byte("node: n1\n"), 0o644))
		}, "if its disk is not mounted, mount it"},
		{"it was removed", func(t *testing.T, cfg config.Config, file string) {
			check(t, os.Mkdir(cfg.Data, 0o755))
			check(t, MarkRemoved(cfg.Data))
		}, "this node was removed from the cluster"},
		{"it has data, and nobody has its ports", func(t *testing.T, cfg config.Config, file string) {
			_, err := Init(t.Context(), cfg, InitOptions{ConfigFile: file})
			check(t, err)
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg, file := testConfig(t, dir), filepath.Join(dir, "casemate.yaml")
			c.make(t, cfg, file)
			err := Stopped(t.Context(), cfg, file)
			if (c.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says %v, expected %q", err, c.says)
			}
		})
	}
}

// TestNeverMade: the daemon of a host without init is not started again and again; one whose disk may come later is.
func TestNeverMade(t *testing.T) {
	for _, c := range []struct {
		name   string
		config string // "" is no file
		data   string // a file in the data directory
		never  bool
	}{
		{"a fresh package", "", "", true},
		{"a config with comments alone", "# nothing\n", "", true},
		{"somebody wrote the config, or the disk is not mounted", "node: n1\n", "", false},
		{"a config with a mistake", "nodes: [\n", "", false},
		{"an init that was cut short before it wrote the config", "", "cluster/format", false},
		{"a join that was cut short", "", "cluster/incomplete", false},
		{"other files", "", "lost+found/x", true},
	} {
		dir := t.TempDir()
		data, file := filepath.Join(dir, "data"), filepath.Join(dir, "casemate.yaml")
		if c.config != "" {
			check(t, os.WriteFile(file, []byte(c.config), 0o644))
		}
		if c.data != "" {
			check(t, os.MkdirAll(filepath.Dir(filepath.Join(data, c.data)), 0o755))
			check(t, os.WriteFile(filepath.Join(data, c.data), nil, 0o644))
		}
		err := NeverMade(file, data)
		if c.never != (err != nil) || c.never && !strings.Contains(err.Error(), "casemate init") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
