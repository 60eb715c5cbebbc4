package cluster

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob/blobtest"
	"casemate/cluster/state"
)

// survivor is the disk of a node whose log has entries after those that it knows to be committed: the majority was lost
// in the middle of writes.
func survivor(t *testing.T, seed uint64) (f *blobtest.FS, id string, last uint64) {
	f, _ = lonely(t, seed)
	cfg := powerConfig(f)
	c := start(t, cfg)
	id = c.ID()
	c.Close()
	log, err := openWAL(cfg, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if last, err = log.LastIndex(); err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := log.GetLog(last, &l); err != nil {
		t.Fatal(err)
	}
	last++
	cmd, err := (&state.Command{Ops: []state.Op{&state.Put{Name: "uncertain", Data: []byte("1")},
		&state.Put{Name: "nodes/ghost"}}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := log.StoreLog(&raft.Log{Index: last, Term: l.Term, Type: raft.LogCommand, Data: cmd}); err != nil {
		t.Fatal(err)
	}
	return f, id, last
}

var withoutGhost = RecoverOptions{Edit: func(b Batch) error { b.Remove("nodes"); b.Put("nodes/n1", nil); return nil }}

// A survivor of a lost majority becomes a cluster of one that accepts writes; entries that were not known to be
// committed are reported and kept.
func TestRecover(t *testing.T) {
	f, id, last := survivor(t, 5)
	cfg := powerConfig(f)
	rep, err := Recover(cfg, RecoverOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(rep.Lost, " ") != "ghost" || !rep.Voter || rep.Last != last || rep.Committed >= last ||
		rep.Committed == 0 || rep.Missing != 0 || rep.Cluster != id {
		t.Errorf("dry run: %+v", rep)
	}
	c := start(t, cfg)
	if s := c.Status(); len(s.Voters) != 2 || s.Cluster != id {
		t.Fatalf("after the dry run: %+v", s)
	}
	if _, err := Recover(cfg, RecoverOptions{}); err == nil || !strings.Contains(err.Error(), "stop that one first") {
		t.Errorf("of an open node: %v", err)
	}
	c.Close()
	// A blob that a name keeps and that never came here.
	for _, name := range f.Files() {
		if strings.Contains(name, "/blobs/sha256/") {
			f.Remove(name)
		}
	}
	if rep, err = Recover(cfg, withoutGhost); err != nil {
		t.Fatal(err)
	}
	if rep.Cluster == id || rep.Last != last || rep.Missing != 1 || len(rep.MissingBlobs) != 1 {
		t.Errorf("%+v", rep)
	}
	for range 2 { // also after a restart
		c = start(t, cfg)
		if s := c.Status(); len(s.Voters) != 1 || s.Role != "leader" || s.Cluster != rep.Cluster {
			t.Fatalf("%+v", s)
		}
		if got, err := c.Tree().ReadFile("uncertain"); string(got) != "1" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if list, err := c.Tree().ReadDir("nodes"); err != nil || len(list) != 1 || list[0].Name() != "n1" {
			t.Errorf("%v, %v", list, err)
		}
		update(t, c.Tree(), func(b Batch) { b.Put("after", nil) })
		push(t, c.Tree(), []byte("last push")) // repairs
		c.Close()
	}
	again, err := Recover(cfg, withoutGhost)
	if err != nil || len(again.Lost) != 0 || again.Cluster != rep.Cluster || again.Missing != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func TestRecoverNothing(t *testing.T) {
	if _, err := Recover(powerConfig(blobtest.New(1)), RecoverOptions{}); err == nil ||
		!strings.Contains(err.Error(), "not initialised") {
		t.Errorf("%v", err)
	}
}

// After a power cut at any point of a recovery, the node is either unchanged or recovered, and the next attempt
// succeeds; nothing is lost in either case.
func TestPowerCutInRecover(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		f, id, last := survivor(t, uint64(n))
		f.CutAfter(n)
		rep, err := Recover(powerConfig(f), withoutGhost)
		done := !f.Off()
		if done && err != nil {
			t.Fatal(err)
		}
		f = f.Reboot()
		if !done {
			if rep, err = Recover(powerConfig(f), withoutGhost); err != nil {
				t.Fatalf("cut after %d, again: %v", n, err)
			}
		}
		c, err := Open(powerConfig(f))
		if err != nil {
			t.Fatalf("cut after %d: %v", n, err)
		}
		if s := c.Status(); len(s.Voters) != 1 || s.Role != "leader" || s.Cluster == id || s.Cluster != rep.Cluster ||
			s.Applied < last {
			t.Fatalf("cut after %d: %+v", n, s)
		}
		for name, want := range map[string]string{"uncertain": "1", "last": "last push", "record": "1"} {
			if got, err := c.Tree().ReadFile(name); string(got) != want || err != nil {
				t.Fatalf("cut after %d: %s: %q, %v", n, name, got, err)
			}
		}
		if err := c.Tree().Update(context.Background(), func(b Batch) error {
			b.Put("after", nil)
			return nil
		}); err != nil {
			t.Fatalf("cut after %d: %v", n, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
	}
}
