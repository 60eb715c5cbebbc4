package cluster

import (
	"errors"
	"io/fs"
	"sync"

	"casemate/cluster/state"
)

// sweeps are the digests that a collect took away and whose files still have to go from this disk. Its zero value is
// ready.
//
// What is here may be unlinked although other nodes ask this one to confirm the same bytes (promise 6), because
// confirming takes what it has seen out of here: either the file was gone when it looked, or no sweep of a collect up
// to the confirmed index comes after it; and a later collect makes the state refuse the AddBlob. After a crash the list
// is lost and the files are orphans, which GC collects anew.
type sweeps struct {
	mu    sync.Mutex
	due   map[state.Digest]uint64 // index of the newest collect
	moved chan struct{}           // capacity 1
}

// add is called before the state without these digests can be seen, poke after that.
func (s *sweeps) add(digests []state.Digest, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due == nil {
		s.due = map[state.Digest]uint64{}
	}
	for _, d := range digests {
		s.due[d] = index
	}
}

func (s *sweeps) poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.chanLocked() <- struct{}{}:
	default:
	}
}

func (s *sweeps) chanLocked() chan struct{} {
	if s.moved == nil {
		s.moved = make(chan struct{}, 1)
	}
	return s.moved
}

func (s *sweeps) wake() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chanLocked()
}

// spare takes a digest out that a collect at or before index has put here.
func (s *sweeps) spare(d state.Digest, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.due[d]; ok && at <= index {
		delete(s.due, d)
	}
}

func (s *sweeps) has(d state.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.due[d]
	return ok
}

// list returns those that collects up to index have put here.
func (s *sweeps) list(index uint64) (digests []state.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, at := range s.due {
		if at <= index {
			digests = append(digests, d)
		}
	}
	return digests
}

// keepSwept unlinks what was collected, on whichever node.
func (c *Cluster) keepSwept() {
	for {
		select {
		case <-c.stop:
			return
		case <-c.sweeps.wake():
		}
		select { // a collection that runs here sweeps by itself, and counts
		case c.gc <- struct{}{}:
		case <-c.stop:
			return
		}
		_, _, err := c.sweep(c.sweeps.list(c.machine.view.Load().Index()))
		<-c.gc
		if err != nil {
			c.log.Warn("a collected blob could not be removed, the next gc tries again", "err", err)
		}
	}
}

// sweep unlinks what is due of these, and returns how many files and bytes that were.
func (c *Cluster) sweep(digests []state.Digest) (files int, bytes int64, err error) {
	index := c.machine.view.Load().Index() // a newer collect is another sweep's
	for _, d := range digests {
		text := d.String()
		comes := c.stock != nil && c.stock.fetching(text) // before the look at the disk: a fetch that ends in between has left its file there
		size, serr := c.blobs.Stat(text)
		if errors.Is(serr, fs.ErrNotExist) {
			if !comes { // else it is swept when it has come
				c.sweeps.spare(d, index)
			}
			continue
		}
		swept, werr := c.blobs.Sweep(text, func() bool {
			_, known := c.machine.view.Load().Blob(d)
			return !known && c.sweeps.has(d)
		})
		if err = errors.Join(err, werr); werr != nil {
			continue
		}
		if swept {
			files++
			bytes += size
		}
		if !c.blobs.Held(text) {
			c.sweeps.spare(d, index)
		}
	}
	return files, bytes, err
}
