package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"
)

// joinPatience is how long a node that has just joined waits at its first start for the state of the cluster.
const joinPatience = 60 * time.Second

// awaitTree waits, on a node that has just joined, until the tree has arrived: the settings, the CA, everything that
// this node serves.
func (a *Appliance) awaitTree() error {
	ctx, cancel := context.WithTimeout(context.Background(), joinPatience)
	defer cancel()
	changed := a.tree.Watch(ctx, "pki")
	for said := false; ; said = true {
		if _, err := a.tree.Stat("pki/state"); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		members := a.cluster.Members()
		if len(members) == 1 && members[0].Self {
			return nil // the only node: opening the CA reports what is missing
		}
		if !said {
			a.log.Info("waiting for the state of the cluster from the other nodes", "for", joinPatience)
		}
		select {
		case <-changed:
		case <-a.cluster.Done():
			return a.cluster.Err()
		case <-ctx.Done():
			return fmt.Errorf("the other nodes have not sent the state of the cluster within %s: is the cluster's "+
				"leader "+
				"running, and can it reach this node at %s?", joinPatience, strings.Join(a.peerAddrs(), " or "))
		}
	}
}

// startPatience is how long a starting node waits to learn what was written while it was down. Without a majority it
// then serves what it has.
const startPatience = 3 * time.Second

func (a *Appliance) catchUp() {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	if !a.cluster.CaughtUp(ctx) {
		a.log.Warn("no majority can be reached to learn what was written while this node was down: it serves what it " +
			"has")
	}
}

// servePeer serves a request that another node forwarded: part of a client's push, whose upload is on this node or
// for which this node has room.
func (a *Appliance) servePeer(w http.ResponseWriter, r *http.Request) {
	h := a.peers.Load()
	if h == nil {
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}
