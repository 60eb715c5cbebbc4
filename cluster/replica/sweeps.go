package replica

import (
	"errors"
	"io/fs"
	"sync"

	"casemate/cluster/state"
	"casemate/cluster/wake"
)

// sweeps are the digests that a collect removed from the state and whose files are still on this disk.
//
// A file of a digest in the list may be unlinked although other nodes ask this one to confirm the same bytes (promise
// 6), because confirming removes the digest from the list. Either the file was gone at the check, or no sweep of a
// collect up to the confirmed index follows it; and a later collect makes the state refuse the AddBlob. After a crash
// the list is lost, and the files are orphans, which GC collects again.
type sweeps struct {
	mu   sync.Mutex
	due  map[state.Digest]uint64 // index of the newest collect
	wake wake.Flag
}

// add is called before the state without these digests is visible; wake is raised afterwards.
func (s *sweeps) add(digests []state.Digest, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range digests {
		s.due[d] = index
	}
}

// cancel removes a digest that a collect at or before index added.
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

// list returns the digests that collects up to index added.
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

// keepSwept unlinks collected blobs; the collect may have been proposed on any node.
func (s *Store) keepSwept() {
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.sweeps.wake:
		}
		done, err := s.Collect(s.life) // a collection that runs here does its own sweep, and counts the files
		if err != nil {
			return
		}
		_, _, err = s.Sweep(s.sweeps.list(s.state.View().Index()))
		done()
		if err != nil {
			s.log.Warn("could not remove a collected blob, the next gc tries again", "err", err)
		}
	}
}

// Sweep unlinks the digests that are due, and returns the number of files and bytes.
func (s *Store) Sweep(digests []state.Digest) (files int, bytes int64, err error) {
	index := s.state.View().Index() // newer collects are left to another sweep
	for _, d := range digests {
		text := d.String()
		coming := s.Fetching(text) // before the check of the disk: a fetch that ends in between leaves its file
		size, serr := s.dir.Stat(text)
		if errors.Is(serr, fs.ErrNotExist) {
			if !coming { // otherwise it is swept after the fetch
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
