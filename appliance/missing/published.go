package missing

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"casemate/appliance/notebook"
	"casemate/cluster/tree"
)

// Files of the tree in addition to the nodes' files; no node can have these names.
const (
	clearedName   = "_cleared"    // the time up to which the books of all nodes were cleared
	forgottenName = "_forgotten." // followed by a hash of the entry: a forgotten
	maxForgotten  = 256           // number of files; beyond it the oldest is removed
	markName      = "_mark."      // followed by a hash of the entry: a stored mark
)

// forgotten is an entry that was removed from the books of all nodes. Earlier versions read the file as a book
// without entries.
type forgotten struct {
	Kind string    `json:"kind"`
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

func (f forgotten) file() string { return forgottenName + hashOf(f.Kind, f.Name) }

// hashOf returns the end of the name of a file that is about one entry.
func hashOf(kind, name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(kind+" "+name))) }

// List returns the needs in the books of all nodes, merged, newest first. The other nodes' part may be a minute old.
func (b *Book) List() ([]Entry, error) {
	all, err := b.All()
	return slices.DeleteFunc(all, func(e Entry) bool { return e.Noise != "" }), err
}

// All returns List followed by the noise.
func (b *Book) All() ([]Entry, error) {
	var m merger
	gone := map[key]time.Time{}
	var marks map[key]*Mark
	if b.cfg.Tree != nil {
		dir, err := b.cfg.Tree.ReadDir(".")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("missing books of the other nodes: %w", err)
		}
		gone = b.follow(dir)
		marks = b.readMarks(dir)
	}
	own, _ := b.snapshot(0)
	m.add(own, b.cfg.Node)
	others, err := notebook.Others[file](&b.notes, func(name string) bool {
		return !strings.HasPrefix(name, "_")
	})
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		f := o.Book
		over := func(e Entry) bool { return !e.Last.After(own.Cleared) || !e.Last.After(gone[key{e.Kind, e.Name}]) }
		f.Entries, f.Noise = slices.DeleteFunc(f.Entries, over), slices.DeleteFunc(f.Noise, over)
		m.add(f, o.Node)
	}
	list := m.entries
	for i := range list {
		list[i].Mark = marks[key{list[i].Kind, list[i].Name}]
		// Judged by current facts, also for entries that an earlier version recorded.
		if e := &list[i]; e.Noise == "" {
			q := Question{Kind: e.Kind, Name: e.Name}
			if e.Kind == DNS {
				q.Detail = e.Detail
			}
			e.Noise = Judge(q, b.cfg.Facts)
		}
	}
	relate(list, b.cfg.Facts)
	slices.SortFunc(list, func(x, y Entry) int {
		switch {
		case x.Noise == "" && y.Noise != "":
			return -1
		case x.Noise != "" && y.Noise == "":
			return 1
		}
		return newest(x, y)
	})
	return list, nil
}

// merger merges the books of several nodes.
type merger struct {
	entries []Entry
	at      map[key]int
}

func (m *merger) add(f file, node string) {
	if m.at == nil {
		m.at = map[key]int{}
	}
	for _, e := range slices.Concat(f.Entries, f.Noise) {
		e.align()
		k := key{e.Kind, e.Name}
		i, ok := m.at[k]
		if !ok {
			e.Nodes = []string{node}
			m.at[k] = len(m.entries)
			m.entries = append(m.entries, e)
			continue
		}
		have := &m.entries[i]
		switch {
		case have.Noise == "" && e.Noise != "":
			continue // another node recorded who needs it
		case have.Noise != "" && e.Noise == "":
			e.Nodes = []string{node}
			*have = e
			continue
		}
		have.Count += e.Count
		have.Nodes = append(have.Nodes, node)
		if e.First.Before(have.First) {
			have.First = e.First
		}
		if e.Last.After(have.Last) {
			have.Last, have.Detail, have.Noise = e.Last, e.Detail, e.Noise
		}
		have.join(e)
	}
}

// Clear empties the book on every node: on this node at once, on the others when they next read the tree.
func (b *Book) Clear(ctx context.Context) error {
	now := time.Now().UTC()
	if b.cfg.Tree != nil {
		dir, err := b.cfg.Tree.ReadDir(".")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("missing book: %w", err)
		}
		ctx = tree.WithEvent(ctx, tree.Event{Verb: "missing.clear"})
		err = b.cfg.Tree.Update(ctx, func(batch tree.Batch) error {
			batch.Put(clearedName, []byte(now.Format(time.RFC3339Nano)))
			batch.Remove(b.cfg.Node)
			for _, d := range dir {
				if strings.HasPrefix(d.Name(), forgottenName) || strings.HasPrefix(d.Name(), markName) {
					batch.Remove(d.Name())
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("missing book: %w", err)
		}
	}
	b.clear(now)
	return nil
}

// Forget removes the entries of that name from the books of all nodes: on this node at once, on the others when they
// next read the tree. They reappear when the name is requested again. fs.ErrNotExist: there is no such entry.
func (b *Book) Forget(ctx context.Context, name string) error {
	all, err := b.All()
	if err != nil {
		return err
	}
	var list []forgotten
	now := time.Now().UTC()
	for _, e := range all {
		if e.Name != name {
			continue
		}
		at := now
		if e.Last.After(at) {
			at = e.Last // by another node's clock
		}
		list = append(list, forgotten{e.Kind, e.Name, at})
	}
	if len(list) == 0 {
		return fmt.Errorf("%.200q is not in the missing book: %w", name, fs.ErrNotExist)
	}
	if b.cfg.Tree != nil {
		dir, err := b.cfg.Tree.ReadDir(".")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("missing book: %w", err)
		}
		old := b.readForgotten(dir)
		slices.SortFunc(old, func(x, y forgotten) int { return x.At.Compare(y.At) })
		ctx = tree.WithEvent(ctx, tree.Event{Verb: "missing.forget", Object: name})
		marks := b.readMarks(dir)
		err = b.cfg.Tree.Update(ctx, func(batch tree.Batch) error {
			for _, f := range old[:max(0, len(old)+len(list)-maxForgotten)] {
				batch.Remove(f.file())
			}
			for _, f := range list {
				data, err := notebook.Encode(f)
				if err != nil {
					return err
				}
				batch.Put(f.file(), data)
				if marks[key{f.Kind, f.Name}] != nil {
					batch.Remove(markName + hashOf(f.Kind, f.Name))
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("missing book: %w", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(list)
	return nil
}

// forget drops entries that were forgotten and not requested since. The caller holds b.mu.
func (b *Book) forget(list []forgotten) {
	for _, f := range list {
		if e, on := b.find(key{f.Kind, f.Name}); e != nil && !e.Last.After(f.At) {
			on.drop(e)
			b.changed++
		}
	}
}

func (b *Book) clear(upto time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed++
	b.cleared = upto
	b.dropped = 0
	for _, s := range b.shelves {
		for _, e := range s.entries {
			if !e.Last.After(upto) {
				s.drop(e)
			}
		}
	}
}

// follow applies to this node's book what other nodes cleared or forgot, and returns the time up to which entries are
// forgotten.
func (b *Book) follow(dir []fs.DirEntry) map[key]time.Time {
	if data, err := b.cfg.Tree.ReadFile(clearedName); err == nil {
		b.mu.Lock()
		cleared := b.cleared
		b.mu.Unlock()
		if t, err := time.Parse(time.RFC3339Nano, string(data)); err == nil && t.After(cleared) {
			b.clear(t)
		}
	}
	list := b.readForgotten(dir)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(list)
	gone := map[key]time.Time{}
	for _, f := range list {
		gone[key{f.Kind, f.Name}] = f.At
	}
	return gone
}

func (b *Book) readForgotten(dir []fs.DirEntry) (list []forgotten) {
	for _, d := range dir {
		if !strings.HasPrefix(d.Name(), forgottenName) {
			continue
		}
		var f forgotten
		data, err := b.cfg.Tree.ReadFile(d.Name())
		if err == nil && json.Unmarshal(data, &f) == nil && f.file() == d.Name() {
			list = append(list, f)
		}
	}
	return list
}
