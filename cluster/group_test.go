package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"testing"

	"casemate/cluster"
	"casemate/cluster/clustertest"
	"casemate/cluster/treetest"
)

// smallWriters are open writers of n small blobs and their digests.
func smallWriters(t *testing.T, tree *cluster.Tree, n int) (ws []cluster.BlobWriter, digests []string) {
	t.Helper()
	for i := range n {
		w, err := tree.CreateBlob("")
		if err != nil {
			t.Error(err)
			return ws, digests
		}
		data := fmt.Sprintf("blob %d of %d", i, n)
		if _, err := io.WriteString(w, data); err != nil {
			t.Error(err)
		}
		ws, digests = append(ws, w), append(digests, treetest.DigestOf([]byte(data), ""))
	}
	return ws, digests
}

func pushGroup(t *testing.T, tree *cluster.Tree, n int) ([]string, error) {
	ws, digests := smallWriters(t, tree, n)
	got, err := tree.CommitBlobs(context.Background(), ws, digests)
	for _, w := range ws {
		w.Close()
	}
	return got, err
}

// A group that is committed on any node is on a majority of disks when the call returns, and soon on all.
func TestCommitBlobs(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, nodes, nil)
				n := cl.Nodes[nodes-1]
				tree := n.C.Tree()
				before := n.C.Status().Applied
				got, err := pushGroup(t, tree, 40)
				if err != nil {
					t.Fatal(err)
				}
				if took := n.C.Status().Applied - before; took > 5 {
					t.Errorf("%d log entries for one group", took)
				}
				have := 0
				for _, at := range cl.Nodes {
					if _, err := at.FS.Stat("/data/casemate/blobs/sha256/" + got[39][7:9] + "/" +
						got[39][7:]); err == nil {
						have++
					}
				}
				if have <= nodes/2 {
					t.Errorf("%d of %d disks have a blob that is committed", have, nodes)
				}
				cl.Wait(func() error {
					for _, at := range cl.Nodes {
						for _, d := range got {
							if _, err := at.C.Tree().HasBlob(t.Context(), d); err != nil {
								return fmt.Errorf("%s: %w", at.Name, err)
							}
						}
					}
					return nil
				})
				// Known or not, and whatever is beside them.
				ws, digests := smallWriters(t, tree, 41)
				digests[3], digests[4] = digests[5], "sha256:no"
				ws[6].Close()
				want := map[int]error{3: syscall.EBADMSG, 4: fs.ErrInvalid, 6: fs.ErrClosed}
				got, err = tree.CommitBlobs(t.Context(), ws, digests)
				if !errors.Is(err, syscall.EBADMSG) {
					t.Errorf("the first error is %v", err)
				}
				for i, d := range got {
					if (d == "") != (want[i] != nil) || d != "" && d != digests[i] {
						t.Errorf("%d: %q, want %q or %v", i, d, digests[i], want[i])
					}
				}
				for _, w := range ws {
					w.Close()
				}
			})
		})
	}
}
