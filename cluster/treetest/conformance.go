package treetest

import (
	"context"
	"errors"
	"io/fs"
	"testing"
)

// Collecting is a Tree whose test can let time pass. Run tests pins and weak links on it.
type Collecting interface {
	Tree
	// Unpin lets every pin end.
	Unpin()
	// Collect removes the blobs that nothing keeps and returns their digests, sorted.
	Collect() []string
}

// Damaging is a Tree whose test can damage a blob. Run tests on it what becomes of one.
type Damaging interface {
	Tree
	Damage(digest string)
}

// Run checks that a tree keeps its contract. open returns an empty tree each time, and cleans up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Tree) {
	for name, test := range map[string]func(*testing.T, Tree){
		"FileSystem":      testFileSystem,
		"Names":           testNames,
		"Edits":           testEdits,
		"Conflicts":       testConflicts,
		"Expect":          testExpect,
		"AllOrNone":       testAllOrNone,
		"Update":          testUpdate,
		"LargeBatch":      testLargeBatch,
		"Versions":        testVersions,
		"ReadDir":         testReadDir,
		"Walk":            testWalk,
		"WalkOneState":    testWalkOneState,
		"Blobs":           testBlobs,
		"WrongBytes":      testWrongBytes,
		"Damage":          testDamage,
		"Resume":          testResume,
		"Links":           testLinks,
		"Watch":           testWatch,
		"Follow":          testFollow,
		"Concurrent":      testConcurrent,
		"ExactlyOne":      testExactlyOne,
		"Collect":         testCollect,
		"WeakLinks":       testWeakLinks,
		"WeakLinkRebirth": testWeakLinkRebirth,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func fill(t *testing.T, tree Tree, fn func(Batch)) {
	t.Helper()
	if err := try(tree, fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func try(tree Tree, fn func(Batch)) error {
	return tree.Update(context.Background(), func(b Batch) error { fn(b); return nil })
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// store makes a blob and returns its digest, in the algorithm of like.
func store(t *testing.T, tree Tree, data []byte, like string) string {
	t.Helper()
	w, err := tree.CreateBlob("")
	if err != nil {
		t.Fatalf("CreateBlob: %v", err)
	}
	defer w.Close()
	if n, err := w.Write(data); n != len(data) || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
	want := DigestOf(data, like)
	ask := ""
	if like != "" {
		ask = want
	}
	got, err := w.Commit(context.Background(), ask)
	if err != nil || got != want {
		t.Fatalf("Commit: %s, %v; want %s", got, err, want)
	}
	return got
}

func contents(t *testing.T, tree Tree, name string) string {
	t.Helper()
	data, err := tree.ReadFile(name)
	if err != nil {
		t.Fatalf("ReadFile(%q): %v", name, err)
	}
	return string(data)
}

func stat(t *testing.T, tree Tree, name string) Info {
	t.Helper()
	i, err := tree.Stat(name)
	if err != nil {
		t.Fatalf("Stat(%q): %v", name, err)
	}
	info, ok := i.(Info)
	if !ok {
		t.Fatalf("Stat(%q): %T does not implement Info", name, i)
	}
	return info
}

func absent(t *testing.T, tree Tree, name string) {
	t.Helper()
	_, err := tree.Stat(name)
	wantErr(t, "Stat "+name, err, fs.ErrNotExist)
	_, err = tree.Open(name)
	wantErr(t, "Open "+name, err, fs.ErrNotExist)
	_, err = tree.ReadFile(name)
	wantErr(t, "ReadFile "+name, err, fs.ErrNotExist)
	_, err = tree.ReadDir(name)
	wantErr(t, "ReadDir "+name, err, fs.ErrNotExist)
}

func walked(tree Tree, dir, after string) (names []string) {
	for name := range tree.Walk(dir, after) {
		names = append(names, name)
	}
	return names
}
