package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"casemate/cluster/state"
)

// TestCommitNamed: a blob and its names are in one entry of the log, or neither is; a batch that is too large for one
// entry is accepted too.
func TestCommitNamed(t *testing.T) {
	t.Parallel()
	c := start(t, testConfig(t, t.TempDir()))
	tree := c.Tree().Sub("registry").As("imported")
	writer := func(text string) *upload {
		w, err := tree.CreateBlob("")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return w.(*upload)
	}
	born := func(digest string) uint64 {
		d, err := state.ParseDigest(digest)
		if err != nil {
			t.Fatal(err)
		}
		b, known := c.machine.view.Load().Blob(d)
		if !known {
			return 0
		}
		return b.Born
	}

	w := writer("a manifest")
	before := c.machine.view.Load().Index()
	d, err := w.CommitNamed(context.Background(), "", func(b Batch, digest string) error {
		b.Link("m/"+digest[7:], digest)
		b.Put("m/tag", []byte(digest))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := c.Tree().Stat("registry/m/" + d[7:])
	if err != nil {
		t.Fatal(err)
	}
	if at := i.(info).version; at <= before || born(d) != at || i.(info).claim != "imported" {
		t.Errorf("the blob came at entry %d, its name at %d by %q, the one before was %d", born(d), at, i.(info).claim,
			before)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}

	// Refused: no name, and nothing that keeps the bytes; then the same writer once more.
	w = writer("another")
	d, err = w.CommitNamed(context.Background(), "", func(b Batch, digest string) error {
		b.Expect("m/tag", 0)
		b.Link("m/second", digest)
		return nil
	})
	if !errors.Is(err, fs.ErrExist) || d != "" {
		t.Fatalf("against an expectation: %q, %v", d, err)
	}
	mistake := errors.New("a mistake")
	if _, err := w.CommitNamed(context.Background(), "", func(Batch, string) error { return mistake }); err != mistake {
		t.Errorf("of an error of the caller's: %v", err)
	}
	var digest string
	d, err = w.CommitNamed(context.Background(), "", func(b Batch, d string) error {
		digest = d
		b.Link("m/second", d)
		return nil
	})
	if err != nil || d != digest || born(d) == 0 {
		t.Fatalf("after a refusal: %q, %v", d, err)
	}
	w = writer("a third")
	if _, err = w.CommitNamed(context.Background(), "", func(b Batch, d string) error {
		digest = d
		b.Link("m/third", d, "sha256:"+fmt.Sprintf("%064d", 1))
		return nil
	}); !errors.Is(err, fs.ErrNotExist) || born(digest) != 0 {
		t.Errorf("with a hold on what is not there: %v, born at %d", err, born(digest))
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}

	// More than one entry takes.
	w = writer("with many names")
	const many = 5000
	d, err = w.CommitNamed(context.Background(), "", func(b Batch, digest string) error {
		for i := range many {
			b.Link(fmt.Sprintf("many/%0100d", i), digest)
		}
		return nil
	})
	if err != nil || born(d) == 0 {
		t.Fatal(err)
	}
	versions := map[uint64]int{}
	for _, i := range tree.Walk("many", "") {
		versions[i.(info).version]++
	}
	if len(versions) != 1 || versions[c.machine.view.Load().Index()] != many {
		t.Errorf("the names came at the entries %v", versions)
	}
}
