package replica

import (
	"errors"
	"io/fs"
	"sync"

	"casemate/cluster/state"
	"casemate/cluster/wake"
)

// sweeps are the digests that a collect took away and whose files still have to go from this disk.
//
// What is here may be unlinked although other nodes ask this one to confirm the same bytes (promise 6), because
// confirming takes what it has seen out of here: either the file was gone when it looked, or no sweep of a collect up
// to the confirmed index comes after it; and a later collect makes the state refuse the AddBlob. After a crash the list
// is lost and the files are orphans, which GC collects anew.
type sweeps struct {
	mu   sync.Mutex
	due  map[state.Digest]uint64 // index of the newest collect
	wake wake.Flag
}

// add is called before the state without these digests can be seen; wake is raised after that.
func (s *sweeps) add(digests []state.Digest, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range digests {
		s.due[d] = index
	}
}

// cancel takes a digest out that a collect at or before index has put here.
func (s *sweeps) cancel(d state.Digest, index uint64) {
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
func (s *Store) keepSwept() {
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.sweeps.wake:
		}
		done, err := s.Collect(s.life) // a collection that runs here sweeps by itself, and counts
		if err != nil {
			return
		}
		_, _, err = s.Sweep(s.sweeps.list(s.state.View().Index()))
		done()
		if err != nil {
			s.log.Warn("a collected blob could not be removed, the next gc tries again", "err", err)
		}
	}
}

// Sweep unlinks what is due of these, and returns how many files and bytes that were.
func (s *Store) Sweep(digests []state.Digest) (files int, bytes int64, err error) {
	index := s.state.View().Index() // a newer collect is another sweep's
	for _, d := range digests {
		text := d.String()
		coming := s.Fetching(text) // before the look at the disk: a fetch that ends in between has left its file there
		size, serr := s.dir.Stat(text)
		if errors.Is(serr, fs.ErrNotExist) {
			if !coming { // else it is swept when it has come
				s.sweeps.cancel(d, index)
			}
			continue
		}
		swept, werr := s.dir.Sweep(text, func() bool {
			_, known := s.state.View().Blob(d)
			return !known && s.sweeps.has(d)
		})
		if err = errors.Join(err, werr); werr != nil {
			continue
		}
		if swept {
			files++
			bytes += size
		}
		if !s.dir.Held(text) {
			s.sweeps.cancel(d, index)
		}
	}
	return files, bytes, err
}
