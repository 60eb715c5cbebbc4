// Package pulls remembers when clients last read images and files.
//
// It promises: recording costs a request two hashes and one word of memory, without a lock and without an allocation.
// A node remembers a fixed number of names, in its own file; its copy in the tree, for the other nodes, has the newest
// of them and is written at most once an hour. Times are those of a sample, to the minute: a crash loses those since
// the last save, and names that many others have displaced are not known any more.
package pulls

import (
	"cmp"
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"time"

	"casemate/appliance/notebook"
)

// publishLimit is the number of names in the copy in the tree.
const publishLimit = 8192

// Config configures a Book. File is required.
type Config struct {
	// File is the book's file on the node's own disk, Node the name of its copy in Tree; a nil Tree has none.
	File, Node string
	Tree       notebook.Tree
	// Save and Publish are the intervals for writing a changed book to disk and to the tree; 0: 5 min and an hour.
	Save, Publish time.Duration
	Now           func() time.Time // nil: time.Now
	Log           *slog.Logger     // nil: nothing is logged
}

// Book is the book of one node. Pulled and Last are safe for concurrent use.
type Book struct {
	cfg   Config
	notes notebook.Notebook // owned by Run
	table table
}

// file is the format of a book on disk and in the tree: pairs of an ID, 8 bytes, and a minute, 4 bytes, big-endian.
type file struct {
	Pulls []byte `json:"pulls"`
}

const pair = 12

func (f file) each(yield func(id, minute uint64) bool) {
	for p := f.Pulls; len(p) >= pair; p = p[pair:] {
		id, minute := binary.BigEndian.Uint64(p), uint64(binary.BigEndian.Uint32(p[8:]))
		if id < 1<<idBits && minute != 0 && minute < 1<<minuteBits && !yield(id, minute) {
			return
		}
	}
}

// Open reads the book from disk.
func Open(cfg Config) (*Book, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Book{cfg: cfg}
	b.notes = notebook.Notebook{
		What: "book of pulls", File: cfg.File, Node: cfg.Node, Tree: cfg.Tree,
		Save: cmp.Or(cfg.Save, 5*time.Minute), Publish: cmp.Or(cfg.Publish, time.Hour), Log: cfg.Log,
		Snapshot: b.snapshot,
	}
	var f file
	if ok, err := b.notes.Load(&f); err != nil || !ok {
		return b, err
	}
	f.each(func(id, minute uint64) bool { b.table.set(id, minute); return true })
	return b, nil
}

// snapshot returns the book; bounded, the newest pulls only.
func (b *Book) snapshot(bounded bool) (any, uint64) {
	changed := b.table.changed.Load() // before what is read: a change meanwhile is written again
	type pull struct{ id, minute uint64 }
	var list []pull
	for id, minute := range b.table.all {
		list = append(list, pull{id, minute})
	}
	slices.SortFunc(list, func(x, y pull) int {
		return cmp.Or(cmp.Compare(y.minute, x.minute), cmp.Compare(x.id, y.id))
	})
	if bounded {
		list = list[:min(len(list), publishLimit)]
	}
	var f file
	for _, p := range list {
		f.Pulls = binary.BigEndian.AppendUint64(f.Pulls, p.id)
		f.Pulls = binary.BigEndian.AppendUint32(f.Pulls, uint32(p.minute))
	}
	return f, changed
}

// Run saves and publishes the book until ctx is done.
func (b *Book) Run(ctx context.Context) { b.notes.Run(ctx) }

// Pulled records that a client reads the content with this digest under a name.
func (b *Book) Pulled(name, digest string) { b.table.set(id(name, digest), minuteOf(b.cfg.Now())) }

// A Pull is the last one that is known.
type Pull struct {
	Time time.Time `json:"time"` // to the minute
	Node string    `json:"node"` // that answered
}

// Last returns the last pull of the content with this digest under a name, nil if none is known. Of the other nodes it
// knows what they have published.
func (b *Book) Last(name, digest string) (*Pull, error) {
	asked := id(name, digest)
	node, last := b.cfg.Node, b.table.get(asked)
	others, err := notebook.Others[file](&b.notes, nil)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		for id, minute := range o.Book.each {
			if id == asked && minute > last {
				node, last = o.Node, minute
			}
		}
	}
	if last == 0 {
		return nil, nil
	}
	return &Pull{time.Unix(int64(last)*60, 0).UTC(), node}, nil
}
