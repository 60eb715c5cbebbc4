// Package notebook stores what a node records about its clients: the whole book on the node's own disk, and a bounded
// copy of it as one file of the tree, where the other nodes read it.
//
// It promises: recording never waits for a disk or the network. A crash loses at most what was recorded since the last
// save, and leaves a complete file. The copy is written at most once per interval, and only if the book has changed. A
// damaged file does not keep a node from starting.
package notebook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"casemate/cluster/tree"
)

// Tree is the directory of the tree in which each node has one file.
type Tree interface {
	fs.ReadFileFS
	fs.ReadDirFS
	tree.Writable
}

// Notebook stores one book. Its methods are called from one goroutine.
type Notebook struct {
	// What is the book's name in messages: "missing book".
	What string
	// File is the book's file on the node's own disk.
	File string
	// Node is the name of the node's file in the tree.
	Node string
	// Tree is where the book is published; nil: not published.
	Tree Tree
	// Save and Publish are the intervals for writing a changed book to disk and to the tree.
	Save, Publish time.Duration
	// Snapshot returns the book as JSON encodes it, and a number that changes with it. bounded asks for the copy for
	// the tree.
	Snapshot func(bounded bool) (book any, changed uint64)
	// Follow, if it is not nil, is called before the book is published.
	Follow func()
	Log    *slog.Logger

	saved, published uint64 // the changes that are on disk and in the tree
}

// Load decodes the file into book. ok is false if there is none, or if it is damaged: then it is renamed, with the
// suffix .damaged, which is logged.
func (n *Notebook) Load(book any) (ok bool, err error) {
	data, err := os.ReadFile(n.File)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", n.What, err)
	}
	if err := json.Unmarshal(data, book); err != nil {
		n.Log.Warn("the "+n.What+" is damaged, starting with an empty one", "file", n.File, "err", err)
		if err := os.Rename(n.File, n.File+".damaged"); err != nil {
			return false, fmt.Errorf("%s: %w", n.What, err)
		}
		return false, nil
	}
	return true, nil
}

// Run saves and publishes the book periodically until ctx is done, and then saves it once more.
func (n *Notebook) Run(ctx context.Context) {
	save, publish := time.NewTicker(n.Save), time.NewTicker(n.Publish)
	defer save.Stop()
	defer publish.Stop()
	for {
		select {
		case <-ctx.Done():
			n.keep()
			return
		case <-save.C:
			n.keep()
		case <-publish.C:
			if n.Tree == nil {
				continue
			}
			if n.Follow != nil {
				n.Follow()
			}
			if err := n.WriteTree(ctx); err != nil && ctx.Err() == nil {
				n.Log.Warn("the "+n.What+" cannot be published", "err", err)
			}
		}
	}
}

func (n *Notebook) keep() {
	if err := n.WriteDisk(); err != nil {
		n.Log.Warn("the "+n.What+" cannot be saved on disk", "file", n.File, "err", err)
	}
}

// WriteDisk writes a changed book to a new file and renames it over the old one: a crash leaves one of the two. It is
// not synced; a power cut may lose the last seconds.
func (n *Notebook) WriteDisk() error {
	book, changed := n.Snapshot(false)
	if changed == n.saved {
		return nil
	}
	data, err := Encode(book)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.File), 0o750); err != nil {
		return err
	}
	tmp := n.File + ".new"
	if err := os.WriteFile(tmp, data, 0o640); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, n.File); err != nil {
		return err
	}
	n.saved = changed
	return nil
}

// WriteTree writes the copy of a changed book as this node's file in the tree.
func (n *Notebook) WriteTree(ctx context.Context) error {
	book, changed := n.Snapshot(true)
	if changed == n.published {
		return nil
	}
	data, err := Encode(book)
	if err != nil {
		return err
	}
	if err := tree.WriteFile(ctx, n.Tree, n.Node, data); err != nil {
		return err
	}
	n.published = changed
	return nil
}

// Published is the copy of another node's book.
type Published[T any] struct {
	Node string
	Book T
}

// Others returns the copies of the other nodes' books, none without a tree. isBook tells the nodes' files from others
// in the directory; nil: all are books. One that cannot be read is logged and left out. Unlike the methods of a
// Notebook it may be called from any goroutine.
func Others[T any](n *Notebook, isBook func(name string) bool) (list []Published[T], err error) {
	if n.Tree == nil {
		return nil, nil
	}
	dir, err := n.Tree.ReadDir(".")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%ss of the other nodes: %w", n.What, err)
	}
	for _, d := range dir {
		if d.Name() == n.Node || isBook != nil && !isBook(d.Name()) {
			continue
		}
		p := Published[T]{Node: d.Name()}
		data, err := n.Tree.ReadFile(d.Name())
		if err == nil {
			err = json.Unmarshal(data, &p.Book)
		}
		if err != nil {
			n.Log.Warn("the "+n.What+" of another node cannot be read", "node", d.Name(), "err", err)
			continue
		}
		list = append(list, p)
	}
	return list, nil
}

// Encode returns JSON without HTML escapes, which make text up to six times as long (<), so that a name of any kind
// fits into a record of the tree.
func Encode(v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return text.Bytes(), err
}
