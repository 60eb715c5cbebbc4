package cluster_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// Connections that are silent in one direction are not treated as dead: nodes keep receiving beats, and an upload may
// take any time.
func TestQuietDirections(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		const stall = 500 * time.Millisecond // longer than beatEvery
		cl := clustertest.New(t, 3, func(c *cluster.Config) { cluster.Impatient(c, stall) })
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		n := cl.Followers()[0]
		changes := n.C.Changes(ctx)
		w, err := n.C.Tree().CreateBlob("")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		piece := noise(64<<10, 3)
		for range 100 {
			if _, err := w.Write(piece); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changes:
				t.Fatal("a node was taken for dead")
			case <-time.After(stall / 20):
			}
		}
		digest, err := w.Commit(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Link("slow", digest); err != nil {
			t.Fatal(err)
		}
		cl.Wait(func() error {
			for _, m := range n.C.Members() {
				if m.Missing != 0 {
					return errors.New(m.Node + " does not have it yet")
				}
			}
			return nil
		})
		f, err := n.C.Tree().Open("slow")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := io.Copy(io.Discard, f); err != nil {
			t.Error(err)
		}
	})
}
