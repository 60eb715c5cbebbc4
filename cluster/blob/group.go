package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"
)

// groupMin is the minimum number of files that are synced as a group: for fewer, separate syncs are cheaper than a sync
// of the file system.
const groupMin = 4

// groupSyncs is how many files or directories of a group are synced concurrently if they are synced separately.
const groupSyncs = 16

// Placed is the result of one writer of a group.
type Placed struct {
	Digest string
	Size   int64 // bytes
	Err    error // those of Place
}

// PlaceAll is Place for several writers, with two syncs of the whole file system instead of two for each writer: one
// for the bytes and, after the renames, one for the names. digests has one element for each writer, and the writers are
// distinct. A writer that fails does not affect the others.
//
// If we were to crash before the second sync has ended, each digest is whole or absent, as with Place.
func (d *Dir) PlaceAll(ws []*Writer, digests []string) []Placed {
	out := make([]Placed, len(ws))
	if len(ws) < groupMin {
		for i, w := range ws {
			out[i].Digest, out[i].Size, out[i].Err = w.Place(digests[i])
		}
		return out
	}
	g := group{d: d}
	for i, w := range ws {
		w.mu.Lock()
		defer w.mu.Unlock()
		p := &out[i]
		got, done, err := w.prepare(digests[i])
		p.Digest, p.Size, p.Err = got, w.size, err
		if err == nil && !done {
			target := d.target(got)
			m := &member{w: w, out: p, target: target, dir: filepath.Dir(target), release: d.Hold(got)}
			w.seal(got)
			g.members = append(g.members, m)
		}
	}
	g.syncBytes()
	g.rename()
	g.syncNames()
	for _, m := range g.members {
		if m.alone && m.out.Err == nil {
			m.out.Err = m.w.install(m.target, m.out.Digest)
		}
		if m.out.Err == nil {
			m.w.become(m.out.Digest, m.release)
			continue
		}
		m.release()
		*m.out = Placed{Err: fmt.Errorf("place %s: %w", m.out.Digest, m.out.Err)}
	}
	return out
}

// group is a set of blobs that are placed together. All its writers are locked.
type group struct {
	d       *Dir
	members []*member
	made    []string // directories that are not known to be durable themselves
}

type member struct {
	w           *Writer
	out         *Placed
	target, dir string
	release     func()
	renamed     bool
	alone       bool // its name is blocked: it is placed separately, which handles that
}

// syncBytes makes the bytes durable, and ends the writers whose bytes cannot be.
func (g *group) syncBytes() {
	if g.d.volume.sync() {
		return
	}
	each(g.members, func(m *member) {
		if err := m.w.f.Sync(); err != nil {
			m.out.Err = m.w.unsynced(err)
		}
	})
}

// rename gives the files their final names.
func (g *group) rename() {
	known := map[string]bool{}
	for _, m := range g.members {
		if m.out.Err != nil {
			continue
		}
		if _, seen := known[m.dir]; !seen {
			known[m.dir] = g.mkdir(m.dir)
		}
		if !known[m.dir] {
			m.alone = true
			continue
		}
		g.d.enter(m.dir)
		if err := g.d.move(m.w.path, m.target, m.out.Digest); err != nil {
			g.d.entered(m.dir, err)
			m.alone = true
			continue
		}
		m.renamed = true
	}
}

func (g *group) mkdir(dir string) bool {
	g.d.mu.Lock()
	done := g.d.made[dir]
	g.d.mu.Unlock()
	if done {
		return true
	}
	if err := g.d.fs.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return false
	}
	g.made = append(g.made, dir)
	return true
}

// syncNames makes the names durable.
func (g *group) syncNames() {
	failed := map[string]error{}
	if !g.d.volume.sync() {
		for _, dir := range g.made {
			if err := g.d.mkdir(dir); err != nil {
				failed[dir] = err
			}
		}
		var mu sync.Mutex
		each(g.dirs(), func(dir string) {
			if err := g.d.fs.SyncDir(dir); err != nil {
				mu.Lock()
				failed[dir] = err
				mu.Unlock()
			}
		})
	}
	g.d.mu.Lock()
	for _, dir := range g.made {
		if failed[dir] == nil {
			g.d.made[dir] = true
		}
	}
	g.d.mu.Unlock()
	for _, m := range g.members {
		if !m.renamed {
			continue
		}
		err := failed[m.dir]
		g.d.entered(m.dir, err)
		if err != nil {
			m.out.Err = m.w.notNamed(errors.Join(errNotSynced, err), m.target)
		}
	}
}

// dirs are the directories with new names.
func (g *group) dirs() (list []string) {
	seen := map[string]bool{}
	for _, m := range g.members {
		if m.renamed && !seen[m.dir] {
			seen[m.dir] = true
			list = append(list, m.dir)
		}
	}
	return list
}

// each calls do for all elements of a list, groupSyncs at a time.
func each[T any](list []T, do func(T)) {
	next := make(chan T)
	var workers sync.WaitGroup
	for range min(groupSyncs, len(list)) {
		workers.Go(func() {
			for x := range next {
				do(x)
			}
		})
	}
	for _, x := range list {
		next <- x
	}
	close(next)
	workers.Wait()
}

// volumePatience is how long a group waits for a sync of the whole file system, which takes longer if other processes
// have written much.
const volumePatience = 2 * time.Second

// volume is the file system of a Dir. Its zero value, and a closed volume, sync nothing.
type volume struct {
	patience time.Duration

	mu    sync.Mutex
	s     Syncer
	under chan error // result of a sync that was too slow; capacity 1
}

// sync makes everything durable that was written before. If it cannot confirm that, or would take long, it returns
// false, and files and directories have to be synced separately. After an error it is not used any more: the error may
// be about another group's bytes, and the kernel reports it once.
func (v *volume) sync() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.under != nil {
		select {
		case err := <-v.under:
			v.ended(err)
		default:
			return false
		}
	}
	if v.s == nil {
		return false
	}
	done, s := make(chan error, 1), v.s
	go func() { done <- s.Sync() }()
	late := time.NewTimer(v.patience)
	defer late.Stop()
	select {
	case err := <-done:
		v.ended(err)
		return err == nil
	case <-late.C:
		v.under = done
		return false
	}
}

// ended records the result of a sync. v.mu is held.
func (v *volume) ended(err error) {
	v.under = nil
	if err != nil {
		v.s.Close()
		v.s = nil
	}
}

func (v *volume) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.under != nil {
		v.ended(<-v.under)
	}
	if v.s != nil {
		v.s.Close()
		v.s = nil
	}
}
