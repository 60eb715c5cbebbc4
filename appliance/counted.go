package appliance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"casemate/registry"
)

// countShare is which part of the time may be spent on counting.
const countShare = 10

// counted remembers how many images and files the tree has. Counting them goes over all names, so it is done when the
// tree has changed and for at most a tenth of the time; in between the numbers may be a little old.
type counted struct {
	once sync.Once
	turn chan struct{} // of capacity 1: full while somebody looks or counts, who owns what follows

	known         bool
	applied       uint64 // the state that was counted
	images, files int
	at            time.Time // when the counting ended
	took          time.Duration
}

// now returns the numbers at the state applied. count counts; it ends with its context and says whether it came to
// the end.
func (c *counted) now(ctx context.Context, applied uint64, count func(context.Context) (images, files int, ok bool)) (
	images, files int) {
	c.once.Do(func() { c.turn = make(chan struct{}, 1) })
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return 0, 0
	}
	if c.known && (c.applied == applied || time.Since(c.at) < countShare*c.took) {
		return c.images, c.files
	}
	begin := time.Now()
	if images, files, ok := count(ctx); ok {
		c.known, c.applied, c.images, c.files = true, applied, images, files
		c.at, c.took = time.Now(), time.Since(begin)
	}
	return c.images, c.files
}

// countNames counts tags of images and files.
func (a *Appliance) countNames(ctx context.Context) (images, files int, ok bool) {
	for name := range a.tree.Walk("registry", "") {
		if strings.HasSuffix(name, "/current/link") {
			if images++; images%1024 == 0 && ctx.Err() != nil {
				return 0, 0, false
			}
		}
	}
	for range a.tree.Walk("files", "") {
		if files++; files%1024 == 0 && ctx.Err() != nil {
			return 0, 0, false
		}
	}
	return images, files, true
}

// uploadWarnings are sentences for status about users who have as many unfinished uploads as one may.
func uploadWarnings(u registry.Uploads) (list []string) {
	for _, of := range u.Users {
		if of.User == "" || of.Open < u.Share && of.Ended == 0 {
			continue
		}
		list = append(list, fmt.Sprintf("the user %s has %d unfinished uploads on this node, one user may have %d: "+
			"a new one ends the one that lies idle longest, %d so far; what does that user's client do?",
			of.User, of.Open, u.Share, of.Ended))
	}
	return list
}
