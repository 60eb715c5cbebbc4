package nodes

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"casemate/cluster/treetest"
)

// This node is as its config says, whatever the tree knows of it; the others are as the tree says.
func TestList(t *testing.T) {
	tree := treetest.New(t)
	self := Node{"n2", []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	list := func() string {
		t.Helper()
		l, err := List(tree, self)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(l)
	}
	if got, want := list(), "[{n2 [10.0.0.2]}]"; got != want {
		t.Errorf("an empty tree: got %s, want %s", got, want)
	}
	for _, n := range []Node{
		{"n1", []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}},
		{"n2", []netip.Addr{netip.MustParseAddr("10.9.9.9")}},
	} {
		if err := tree.Update(t.Context(), func(b treetest.Batch) error { return Put(b, n) }); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := list(), "[{n2 [10.0.0.2]} {n1 [10.0.0.1 fd00::1]}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if addrs, err := Addrs(tree, "n2"); err != nil || fmt.Sprint(addrs) != "[10.9.9.9]" {
		t.Errorf("the record of this node: %v, %v", addrs, err)
	}
	if _, err := Addrs(tree, "n3"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a node without a record: %v", err)
	}
	err := tree.Update(t.Context(), func(b treetest.Batch) error { b.Put(Dir+"/n3", []byte("damaged")); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := List(tree, self); err == nil || !strings.Contains(err.Error(), "node n3") {
		t.Errorf("a damaged record: %v", err)
	}
}
