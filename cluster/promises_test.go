package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob/blobtest"
	"casemate/cluster/disk"
	"casemate/cluster/state"
)

// eventually waits for a condition; when it gives up, it reports what is still missing.
func eventually(t testing.TB, holds func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); { // ends what hangs
		if err = holds(); err == nil {
			return
		}
		tick := time.NewTimer(2 * time.Millisecond)
		<-tick.C
	}
	t.Fatalf("waited in vain: %v", err)
}

func snapshotBytes(t testing.TB, s *state.State) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Promise 1: no name before its bytes are durable. The order on the disk is: bytes, name of the file, and only then the
// log.
func TestPromise1BytesBeforeNames(t *testing.T) {
	f := blobtest.New(1)
	c := start(t, powerConfig(f))
	push(t, c.Tree(), []byte("first, so that directories are made"))
	var mu sync.Mutex
	var events []string
	f.Fault(func(op, name string) (error, bool) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case strings.Contains(name, "/scratch/") && op == "sync":
			events = append(events, "bytes")
		case strings.Contains(name, "/sha256/") && op == "rename":
			events = append(events, "rename")
		case strings.Contains(name, "/sha256/") && op == "syncdir":
			events = append(events, "name")
		case strings.HasSuffix(name, ".wal") && op == "write":
			events = append(events, "log")
		}
		return nil, false
	})
	d := push(t, c.Tree(), []byte("second"))
	mu.Lock()
	got := strings.Join(events, " ")
	mu.Unlock()
	if got != "bytes rename name log" {
		t.Errorf("the disk was told: %s", got)
	}
	f.Fault(nil)
	update(t, c.Tree(), func(b Batch) { b.Link("named", d) })

	// Each of the three steps fails, and has happened or not: the tree knows nothing of the blob, and a second try
	// works.
	for i, step := range []string{"sync", "rename", "syncdir"} {
		for _, happened := range []bool{false, true} {
			data := fmt.Appendf(nil, "fault %d %v", i, happened)
			w, err := c.Tree().CreateBlob("")
			if err != nil {
				t.Fatal(err)
			}
			w.Write(data)
			once := true
			f.Fault(func(op, name string) (error, bool) {
				if op == step && strings.Contains(name, "/blobs/") && once {
					once = false
					return syscall.EIO, happened
				}
				return nil, false
			})
			_, err = w.Commit(context.Background(), "")
			f.Fault(nil)
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%s fails: Commit says %v", step, err)
			}
			w.Close()
			if n := len(known(c)); n != 2+2*i+map[bool]int{true: 1}[happened] {
				t.Errorf("%s fails: the tree knows %d blobs", step, n)
			}
			push(t, c.Tree(), data)
		}
	}
}

// Promise 2: the state is a pure function of the log. The log of a node that has lived, replayed into an empty state,
// gives the same bytes.
func TestPromise2PureFunctionOfTheLog(t *testing.T) {
	clock := new(clock)
	c := start(t, clock.config(testConfig(t, t.TempDir())))
	var writers sync.WaitGroup
	for g := range 4 {
		writers.Go(func() {
			for i := range 20 {
				link := func() error {
					d := push(t, c.Tree(), fmt.Appendf(nil, "%d", i%7))
					return c.Tree().As("import").Update(context.Background(), func(b Batch) error {
						b.Link(fmt.Sprintf("d%d/%d", g, i%5), d)
						b.LinkWeak(fmt.Sprintf("w%d/%d", g, i), d)
						b.Remove(fmt.Sprintf("d%d/%d", g, (i+1)%5))
						return nil
					})
				}
				err := link()
				// the others' hours ended its pin, and it was collected: push again, as the contract says
				for errors.Is(err, fs.ErrNotExist) {
					err = link()
				}
				if err != nil {
					t.Error(err)
					return
				}
				clock.forward(20 * time.Minute)
				if i%8 == 7 {
					if _, err := c.GC(context.Background(), false); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writers.Wait()
	live := c.machine.view.Load()
	again := state.New()
	last, err := c.wal.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= last; i++ {
		var l raft.Log
		if err := c.wal.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		if l.Type == raft.LogCommand {
			if r := again.Apply(i, l.Data); r.Fatal != nil {
				t.Fatal(r.Fatal)
			}
		}
	}
	if !bytes.Equal(snapshotBytes(t, live), snapshotBytes(t, again)) {
		t.Fatal("the same log gave another state")
	}
}

// Promise 3: read your writes, at once, with 16 writers.
func TestPromise3ReadYourWrites(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	var writers sync.WaitGroup
	for g := range 16 {
		writers.Go(func() {
			for i := range 50 {
				name, want := fmt.Sprintf("w/%d", g), fmt.Sprint(i)
				update(t, c.Tree(), func(b Batch) { b.Put(name, []byte(want)) })
				if got, err := c.Tree().ReadFile(name); string(got) != want || err != nil {
					t.Errorf("wrote %s, read %s, %v", want, got, err)
				}
			}
		})
	}
	writers.Wait()
}

// lonely returns the disk of a node that was killed right after its last acknowledged writes, and that can no longer
// elect a leader: a second voter, which never existed, was added. marked says whether the commit index file had been
// written by then.
func lonely(t *testing.T, seed uint64) (f *blobtest.FS, digest string) {
	f = blobtest.New(seed)
	c := start(t, powerConfig(f))
	digest = push(t, c.Tree(), []byte("last push"))
	update(t, c.Tree(), func(b Batch) { b.Link("last", digest); b.Put("record", []byte("1")) })
	index := c.machine.view.Load().Index()
	eventually(t, func() error {
		m, err := disk.OpenWatermark(f, "/data/casemate/raft/commit", nil)
		if err != nil {
			return err
		}
		defer m.Close()
		if m.Last() < index {
			return fmt.Errorf("the commit index file is at %d, not %d", m.Last(), index)
		}
		return nil
	})
	c.raft.AddVoter("ghost", "ghost", 0, 0)
	eventually(t, func() error {
		if n := len(c.servers()); n != 2 {
			return fmt.Errorf("%d voters", n)
		}
		return nil
	})
	next := f.Reboot()
	c.Close() // its errors are the power's
	return next, digest
}

// Promise 4: reads never wait for the network: without a majority everything can be read, writes are refused in bounded
// time and nothing is lost by it.
func TestPromise4ReadsWithoutAMajority(t *testing.T) {
	f, digest := lonely(t, 4)
	cfg := powerConfig(f)
	cfg.LeaderWait = 50 * time.Millisecond
	c := start(t, cfg)
	tree := c.Tree()
	if data, err := tree.ReadFile("last"); string(data) != "last push" || err != nil {
		t.Fatalf("%q, %v", data, err)
	}
	if s := c.Status(); s.Leader != "" || s.Role == "leader" || len(s.Voters) != 2 {
		t.Fatalf("there is a leader: %+v", s)
	}
	err := tree.Update(context.Background(), func(b Batch) error { b.Put("x", nil); return nil })
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("Update: %v", err)
	}
	w, err := tree.CreateBlob("up")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "kept")
	if _, err := w.Commit(context.Background(), ""); !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("Commit: %v", err)
	}
	w.Close()
	if w, err = tree.ResumeBlob("up"); err != nil || w.Size() != 4 {
		t.Fatalf("the upload is gone: %v", err)
	}
	w.Close()
	if b, err := tree.OpenBlob(context.Background(), digest); err != nil {
		t.Fatal(err)
	} else {
		b.Close()
	}
}

// Promise 7: a node that starts without a majority after a crash shows the last writes. It is the commit index file
// that does it: without it there is nothing to see.
func TestPromise7LastWritesWithoutAMajority(t *testing.T) {
	for seed := range uint64(8) {
		f, _ := lonely(t, seed)
		c, err := Open(powerConfig(f))
		if err != nil {
			t.Fatal(err)
		}
		if data, err := c.Tree().ReadFile("last"); string(data) != "last push" || err != nil {
			t.Errorf("%q, %v", data, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Remove("/data/casemate/raft/commit"); err != nil {
			t.Fatal(err)
		}
		c = start(t, powerConfig(f))
		if _, err := c.Tree().Stat("last"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the test proves nothing: without the commit index file, %v", err)
		}
	}
}

// Promise 7, the other half: what a clean stop writes is a convenience. The disk as it was at any moment opens to the
// same tree.
func TestPromise7SnapshotThenLog(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.snapshots = 30
	c := start(t, cfg)
	for i := range 200 {
		update(t, c.Tree(), func(b Batch) { b.Put(fmt.Sprintf("n/%d", i%50), fmt.Append(nil, i)) })
		if i%60 == 59 {
			if err := c.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := snapshotBytes(t, c.machine.view.Load())
	if first, _ := c.wal.FirstIndex(); first < 50 {
		t.Fatalf("the log was not cut: it begins at %d", first)
	}
	c.Close()
	c = start(t, cfg)
	if got := snapshotBytes(t, c.machine.view.Load()); !bytes.Equal(got, want) {
		t.Fatal("reopened, the state is another one")
	}
}

// A damaged snapshot costs nothing while the one before and the log behind it are whole.
func TestPromise7DamagedSnapshot(t *testing.T) {
	f := blobtest.New(7)
	c := start(t, powerConfig(f))
	for i := range 100 {
		update(t, c.Tree(), func(b Batch) { b.Put(fmt.Sprintf("n/%d", i%20), fmt.Append(nil, i)) })
		if i == 60 || i == 80 {
			if err := c.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := snapshotBytes(t, c.machine.view.Load())
	c.Close()
	names, err := newSnapshots(Config{FS: f, Dir: "/data/casemate"}).Names()
	if err != nil || len(names) != 2 {
		t.Fatalf("%q, %v", names, err)
	}
	f.Flip("/data/casemate/snapshots/"+names[0], 100)
	c = start(t, powerConfig(f))
	if got := snapshotBytes(t, c.machine.view.Load()); !bytes.Equal(got, want) {
		t.Fatal("the older snapshot and the log gave another state")
	}
	c.Close()
	f.Flip("/data/casemate/snapshots/"+names[1], 100)
	if _, err := Open(powerConfig(f)); err == nil || !strings.Contains(err.Error(), "snapshots are damaged") {
		t.Fatalf("Open with both snapshots damaged: %v", err)
	}
}

// Promise 8: an unknown command stops the node, loudly, and a restart does not step over it.
func TestPromise8UnknownCommand(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	c := start(t, cfg)
	update(t, c.Tree(), func(b Batch) { b.Put("before", nil) })
	c.raft.Apply([]byte{99, 1, 2, 3}, 0)
	select {
	case <-c.Done():
	case <-time.After(5 * time.Minute):
		t.Fatal("the node went on")
	}
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "version 99") ||
		!strings.Contains(c.Status().Failure, "version 99") {
		t.Fatalf("Err: %v", err)
	}
	if _, err := c.machine.Snapshot(); err == nil {
		t.Fatal("a snapshot would have stepped over the command")
	}
	err := c.Tree().Update(context.Background(), func(b Batch) error { b.Put("after", nil); return nil })
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("Update of a stopped node: %v", err)
	}
	if _, err := c.Tree().Stat("before"); err != nil {
		t.Fatalf("reading from a stopped node: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "version 99") ||
			!strings.Contains(err.Error(), "newer casemate") {
			t.Fatalf("Open with an unknown command in the log: %v", err)
		}
	}
}

// Promise 9: a batch that was staged and never published is never seen, and goes with the pins.
func TestPromise9StagedIsOutOfSight(t *testing.T) {
	clock := new(clock)
	cfg := clock.config(testConfig(t, t.TempDir()))
	c := start(t, cfg)
	d := push(t, c.Tree(), []byte("staged"))
	until := clock.now().Add(time.Hour).UnixNano()
	digest, _ := state.ParseDigest(d)
	if _, err := c.propose(context.Background(), &state.Stage{ID: "s", Until: until,
		Ops: []state.Op{&state.Put{Name: "a"}, &state.Link{Name: "b", Digest: digest}}}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = start(t, cfg)
	if list, err := c.Tree().ReadDir("."); len(list) != 0 || err != nil {
		t.Fatalf("half a batch is visible: %v, %v", list, err)
	}
	clock.forward(2 * time.Hour)
	if r, err := c.GC(context.Background(), false); err != nil || r.Stages != 1 || r.Blobs != 1 {
		t.Fatalf("GC: %+v, %v", r, err)
	}
	if s := c.Status(); s.Stages != 0 || s.Blobs != 0 {
		t.Fatalf("%+v", s)
	}
}

// Promise 10: sealed content is nowhere on the disk in clear; only the owner may read the key; other keys and changed
// bytes are detected.
func TestPromise10Sealed(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	c := start(t, cfg)
	secret := []byte("-----BEGIN VERY PRIVATE KEY-----")
	sealed, err := c.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := c.Seal(secret); bytes.Equal(again, sealed) {
		t.Error("the same secret sealed twice is the same")
	}
	update(t, c.Tree(), func(b Batch) { b.Put("key", sealed) })
	if err := c.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	seen := 0
	err = filepath.WalkDir(cfg.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, secret) {
			t.Errorf("%s has the secret in clear", path)
		}
		if bytes.Contains(data, sealed) {
			seen++
		}
		return err
	})
	if err != nil || seen < 2 {
		t.Fatalf("the sealed bytes are in %d files, not in the log and a snapshot (%v)", seen, err)
	}
	if i, err := os.Stat(filepath.Join(cfg.Dir, "sealing.key")); err != nil || i.Mode().Perm() != 0o600 {
		t.Fatalf("the sealing key: %v, %v", i.Mode(), err)
	}
	c = start(t, cfg)
	data, err := c.Tree().ReadFile("key")
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := c.Unseal(data); !bytes.Equal(plain, secret) || err != nil {
		t.Fatalf("Unseal after a restart: %q, %v", plain, err)
	}
	other := start(t, testConfig(t, t.TempDir()))
	if _, err := other.Unseal(data); !errors.Is(err, ErrSealed) {
		t.Errorf("Unseal in another cluster: %v", err)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 0x40
		if _, err := c.Unseal(bad); !errors.Is(err, ErrSealed) {
			t.Fatalf("Unseal with byte %d changed: %v", i, err)
		}
		if _, err := c.Unseal(data[:i]); !errors.Is(err, ErrSealed) {
			t.Fatalf("Unseal of %d bytes: %v", i, err)
		}
	}
}

// Promise 11: a command that is in the log twice, because its first answer was lost, does not undo a change in between.
func TestPromise11ExactlyOnce(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	c := start(t, cfg)
	update(t, c.Tree(), func(b Batch) { b.Put("x", []byte("0")) })
	n, finished := c.seqs.take()
	cmd := state.Command{Node: cfg.Node, Boot: n.boot, Seq: n.seq, Finished: finished,
		Ops: []state.Op{&state.Put{Name: "x", Data: []byte("first")}}}
	data, err := cmd.Encode()
	if err != nil {
		t.Fatal(err)
	}
	submit := func() (state.Result, error) {
		result := c.machine.waiters.expect(n)
		defer c.machine.waiters.forget(n)
		index, err := c.submit(context.Background(), cfg.Node, data)
		if err != nil {
			return state.Result{}, err
		}
		return c.outcome(context.Background(), nil, result, n, index)
	}
	first, err := submit()
	if err != nil || first.Err != nil || first.Repeat {
		t.Fatalf("%+v, %v", first, err)
	}
	update(t, c.Tree(), func(b Batch) { b.Put("x", []byte("between")) })
	second, err := submit()
	if err != nil || second.Err != nil || !second.Repeat || second.Index != first.Index {
		t.Fatalf("%+v, %v", second, err)
	}
	if got, _ := c.Tree().ReadFile("x"); string(got) != "between" {
		t.Fatalf("the repeat has undone what came between: %s", got)
	}
	c.seqs.finish(n)
	c.Close()
	c = start(t, cfg) // and one that arrives after the process is gone does nothing at all
	update(t, c.Tree(), func(b Batch) { b.Put("y", nil) })
	c.machine.waiters.of(cfg.Node) // as if it still waited
	late, err := submit()
	if err != nil || !errors.Is(late.Err, state.ErrOldBoot) {
		t.Fatalf("%+v, %v", late, err)
	}
	if got, _ := c.Tree().ReadFile("x"); string(got) != "between" {
		t.Fatalf("a command of the process before was applied: %s", got)
	}
}
