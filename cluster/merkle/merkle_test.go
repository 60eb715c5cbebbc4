package merkle

import (
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestFrontierIsTheTreeOfTheLibrary: at each size, the root is that of the tree which the library builds of all leaves,
// and a frontier that was written and read goes on the same way.
func TestFrontierIsTheTreeOfTheLibrary(t *testing.T) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) (list []tlog.Hash, err error) {
		for _, i := range at {
			list = append(list, stored[i])
		}
		return list, nil
	})
	var f Frontier
	if got := f.Root().String(); got != "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		t.Errorf("the root of no leaves is %s", got)
	}
	for n := range int64(300) {
		leaf := fmt.Appendf(nil, "leaf %d", n)
		more, err := tlog.StoredHashes(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		before := f
		f = f.Add(LeafHash(leaf))
		want, err := tlog.TreeHash(n+1, reader)
		if err != nil || f.Root() != want || f.Size() != uint64(n)+1 {
			t.Fatalf("%d leaves: %v, want %v, %v", n+1, f.Root(), want, err)
		}
		if again := before.Add(LeafHash([]byte("another"))); again.Root() == want || f.Root() != want {
			t.Fatalf("%d leaves: trees with a common beginning share their end", n+1)
		}
		if f, err = Parse(f.Size(), f.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Parse(300, f.Append(nil)[1:]); err == nil {
		t.Error("a hash without a byte is accepted")
	}
	if _, err := Parse(301, f.Append(nil)); err == nil {
		t.Error("the hashes of another size are accepted")
	}
}
