package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"casemate/cluster/blob/blobtest"
	"casemate/cluster/raftlog"
)

// Bad data directories get one sentence that names the thing and the way out, and nothing on disk changes.
func TestBadDataDirectories(t *testing.T) {
	t.Parallel()
	write := func(name, data string) func(string) {
		return func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(string) {
		return func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	glob := func(pattern string, fn func(path string)) func(string) {
		return func(dir string) {
			list, _ := filepath.Glob(filepath.Join(dir, pattern))
			if len(list) == 0 {
				t.Fatalf("no %s", pattern)
			}
			for _, path := range list {
				fn(path)
			}
		}
	}
	for what, test := range map[string]struct {
		damage func(dir string)
		node   string
		want   []string
	}{
		"newer format": {write("format", `{"format":2,"something":"else"}`), "",
			[]string{"newer casemate", "format 2"}},
		"format damaged":    {write("format", `{"format":1,`), "", []string{"format is damaged", "backup"}},
		"format without id": {write("format", `{"format":1}`), "", []string{"format is damaged", "backup"}},
		"not initialised":   {remove("format"), "", []string{"not initialised", "casemate init"}},
		"other node":        {func(string) {}, "n2", []string{`belongs to node "n1", not "n2"`, "node: n1"}},
		"bad node":          {func(string) {}, "a b", []string{`got "a b"`}},
		"no key": {remove("sealing.key"), "",
			[]string{"sealing.key is missing", "from the data directory of another node", "backup"}},
		"short key":        {write("sealing.key", "short"), "", []string{"got 5", "backup"}},
		"no log list":      {remove("raft/meta"), "", []string{"raft log is damaged", "backup"}},
		"log list damaged": {write("raft/meta", "1234{}"), "", []string{"raft log is damaged", "backup"}},
		"log lost": {glob("raft/*.wal", func(path string) { os.Remove(path) }), "",
			[]string{"entries", "are needed", "backup"}},
		"log emptied": {glob("raft/*.wal", func(path string) {
			os.Truncate(path, 0)
			os.Truncate(path, 1<<20)
		}), "", []string{"entries", "are needed", "backup"}},
		"snapshot is damaged": {write("snapshots/00000000000000000009-00000000000000000002.snapshot", "junk"), "",
			[]string{"snapshots are damaged", "backup"}},
		"blobs in the way": {func(dir string) { remove("blobs")(dir); write("blobs", "")(dir) }, "", []string{"blobs"}},
	} {
		t.Run(what, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir())
			c := start(t, cfg)
			update(t, c.Tree(), func(b Batch) { b.Put("a", nil) })
			c.Close()
			test.damage(cfg.Dir)
			before := files(t, cfg.Dir)
			if test.node != "" {
				cfg.Node = test.node
			}
			c, err := Open(cfg)
			if err == nil {
				c.Close()
				t.Fatal("opened")
			}
			for _, want := range append(test.want, map[bool]string{true: cfg.Dir}[test.node != "a b"]) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			if after := files(t, cfg.Dir); what != "log lost" && strings.Join(before, " ") != strings.Join(after, " ") {
				t.Errorf("files before: %q\nafter: %q", before, after)
			}
		})
	}
}

// A member's directory says how a member is repaired, also where only the bytes of a key or an old snapshot are wrong.
func TestBadMemberDirectories(t *testing.T) {
	for what, test := range map[string]struct {
		damage func(f *blobtest.FS, names []string) error
		want   []string
	}{
		"a bit of the sealing key": {func(f *blobtest.FS, _ []string) error {
			return f.Flip("/data/casemate/sealing.key", 7)
		},
			[]string{"sealing.key cannot open the cluster's sealed secrets",
				"from the data directory of another node"}},
		"no snapshots": {func(f *blobtest.FS, names []string) (err error) {
			for _, name := range names {
				err = errors.Join(err, f.Remove(name))
			}
			return err
		}, []string{"the snapshots are missing", "casemate member remove", "join it again", "restore a backup"}},
		"both snapshots": {func(f *blobtest.FS, names []string) (err error) {
			for _, name := range names {
				err = errors.Join(err, f.Flip(name, 40))
			}
			return err
		}, []string{"snapshots are damaged", "casemate member remove", "join it again", "restore a backup"}},
	} {
		t.Run(what, func(t *testing.T) {
			f := blobtest.New(1)
			cfg := powerConfig(f)
			if err := Bootstrap(cfg); err != nil {
				t.Fatal(err)
			}
			open := func() (*Cluster, error) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				cfg := cfg
				cfg.Peer = []net.Listener{l}
				c, err := Open(cfg)
				if err != nil {
					l.Close()
				}
				return c, err
			}
			c, err := open()
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if c.members.Root() == nil {
					return errors.New("no CA yet")
				}
				return nil
			})
			for i := range 120 {
				update(t, c.Tree(), func(b Batch) { b.Put(fmt.Sprint("a", i), nil) })
				if i%50 == 0 {
					if err := c.Snapshot(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := c.Snapshot(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
				t.Fatal(err)
			}
			c.Close()
			var names []string
			for _, name := range f.Files() {
				if strings.HasSuffix(name, raftlog.Suffix) {
					names = append(names, name)
				}
			}
			if err := test.damage(f, names); err != nil || len(names) != raftlog.Kept {
				t.Fatal(names, err)
			}
			c, err = open()
			if err == nil {
				c.Close()
				t.Fatal("opened")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

func TestOneProcessADirectory(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	start(t, cfg)
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "in use by another casemate") {
		t.Fatalf("a second Open: %v", err)
	}
}

func TestBootstrapWhere(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, filepath.Join(dir, "new", "data"))
	if err := Bootstrap(cfg); err != nil {
		t.Fatalf("into a directory that is to be made: %v", err)
	}
	if err := Bootstrap(cfg); err == nil || !strings.Contains(err.Error(), "already initialised") {
		t.Fatalf("twice: %v", err)
	}
	foreign := testConfig(t, filepath.Join(dir, "foreign"))
	if err := os.MkdirAll(foreign.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign.Dir, "precious"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Bootstrap(foreign); err == nil || !strings.Contains(err.Error(), `not empty (it has "precious")`) {
		t.Fatalf("into a foreign directory: %v", err)
	}
	if _, err := Open(foreign); err == nil || !strings.Contains(err.Error(), "not initialised") {
		t.Fatalf("Open of a foreign directory: %v", err)
	}
	if n := len(files(t, foreign.Dir)); n != 1 {
		t.Errorf("%d files in the foreign directory", n)
	}
	if err := Bootstrap(Config{Node: "n1"}); err == nil ||
		!strings.Contains(err.Error(), "data directory must be set") {
		t.Errorf("no directory: %v", err)
	}
	if _, err := Open(testConfig(t, filepath.Join(dir, "none"))); err == nil ||
		!strings.Contains(err.Error(), "casemate init") {
		t.Errorf("Open of nothing: %v", err)
	}
	file := testConfig(t, filepath.Join(foreign.Dir, "precious"))
	if err := Bootstrap(file); err == nil {
		t.Error("into a file")
	}
}

func TestUnwritable(t *testing.T) {
	f := blobtest.New(1)
	f.Fault(func(op, _ string) (error, bool) {
		return map[bool]error{true: unix.EACCES}[op == "mkdir" || op == "create"], false
	})
	if err := Bootstrap(powerConfig(f)); err == nil || !strings.Contains(err.Error(), "may not write to it") {
		t.Errorf("Bootstrap: %v", err)
	}
	f.Fault(nil)
	if err := Bootstrap(powerConfig(f)); err != nil {
		t.Fatal(err)
	}
	f.Fault(func(string, string) (error, bool) { return unix.EROFS, false })
	if _, err := Open(powerConfig(f)); err == nil || !strings.Contains(err.Error(), "may not write to it") {
		t.Errorf("Open: %v", err)
	}
}

// The log cannot be synced: the node reports that and stops, accepts no more writes, continues reading, and is intact
// after a restart.
func TestFailingDiskStopsTheNode(t *testing.T) {
	for _, happened := range []bool{false, true} {
		for _, file := range []string{".wal", "meta.new"} {
			f := blobtest.New(3)
			c := start(t, powerConfig(f))
			update(t, c.Tree(), func(b Batch) { b.Put("acknowledged", nil) })
			f.Fault(func(op, name string) (error, bool) {
				if op == "sync" && strings.HasSuffix(name, file) {
					return syscall.EIO, happened
				}
				return nil, false
			})
			var err error
			for i := 0; err == nil && i < 2000; i++ { // until a segment rolls over, for meta
				err = c.Tree().Update(context.Background(), func(b Batch) error {
					b.Put("not", make([]byte, 4000))
					return nil
				})
			}
			if !errors.Is(err, syscall.EAGAIN) {
				t.Errorf("%s: Update: %v", file, err)
			}
			<-c.Done()
			if c.Err() == nil {
				t.Errorf("%s: no reason", file)
			}
			if _, err := c.Tree().Stat("acknowledged"); err != nil {
				t.Errorf("%s: reading: %v", file, err)
			}
			f.Fault(nil)
			c.Close()
			c = start(t, powerConfig(f))
			update(t, c.Tree(), func(b Batch) { b.Put("again", nil) })
			if _, err := c.Tree().Stat("acknowledged"); err != nil {
				t.Errorf("%s: after a restart: %v", file, err)
			}
		}
	}
}

// A full disk is refused early, and removing and collecting still work.
func TestReserve(t *testing.T) {
	f := blobtest.New(1)
	cfg := powerConfig(f)
	cfg.Reserve = 64 << 20
	c := start(t, cfg)
	d := push(t, c.Tree(), []byte("x"))
	update(t, c.Tree(), func(b Batch) { b.Link("a", d) })
	f.SetFree(50 << 20) // below the reserve, above half of it
	if _, err := c.Tree().CreateBlob(""); !errors.Is(err, syscall.ENOSPC) ||
		!strings.Contains(err.Error(), "casemate gc") {
		t.Errorf("CreateBlob: %v", err)
	}
	update(t, c.Tree(), func(b Batch) { b.Link("b", d) })
	f.SetFree(20 << 20)
	err := c.Tree().Update(context.Background(), func(b Batch) error { b.Put("c", nil); return nil })
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Update: %v", err)
	}
	update(t, c.Tree(), func(b Batch) { b.Remove("a"); b.Remove("b") })
	if _, err := c.GC(context.Background(), false); err != nil {
		t.Errorf("GC: %v", err)
	}
	if _, err := c.Tree().ReadFile("a"); err == nil {
		t.Error("not removed")
	}
}
