package missing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"casemate/appliance/notebook"
	"casemate/cluster/tree"
)

const (
	maxMarks = 1000
	// MaxNote is the length of a note in bytes.
	MaxNote = 200
)

// Mark is what an operator has noted about an entry: "ordered, arrives Tuesday".
type Mark struct {
	Note string    `json:"note"`
	By   string    `json:"by"` // as in the audit log
	At   time.Time `json:"at"`
}

// mark is a Mark as it is stored, in a file of its own. Earlier versions read it as a book without entries.
type mark struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Mark
}

// Mark notes something about the entries of that name, on all nodes, in place of an earlier note; with "" it removes
// it. It is removed together with the entry. The context has who does it. fs.ErrNotExist: there is no such entry, or no
// mark to remove; fs.ErrInvalid: the note is too long, or a thousand entries are marked.
func (b *Book) Mark(ctx context.Context, name, note string) error {
	if len(note) > MaxNote {
		return fmt.Errorf("a note has at most %d bytes, got %d: %w", MaxNote, len(note), fs.ErrInvalid)
	}
	note = strings.TrimSpace(clean(note, MaxNote))
	if b.cfg.Tree == nil {
		return fmt.Errorf("missing book: %w", errors.ErrUnsupported)
	}
	all, err := b.All()
	if err != nil {
		return err
	}
	dir, err := b.cfg.Tree.ReadDir(".")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("missing book: %w", err)
	}
	marks := b.readMarks(dir)
	var marked, stale []key
	there := map[key]bool{}
	for _, e := range all {
		there[key{e.Kind, e.Name}] = true
		if e.Name == name {
			marked = append(marked, key{e.Kind, e.Name})
		}
	}
	if len(marked) == 0 {
		return fmt.Errorf("%.200q is not in the missing book: %w", name, fs.ErrNotExist)
	}
	more := 0
	for _, k := range marked {
		if marks[k] == nil {
			more++
		}
	}
	// Marks of entries that were dropped make room when it is needed. Until then they stay: another node may have the
	// entry and not have published it yet.
	if len(marks)+more > maxMarks {
		for k := range marks {
			if !there[k] {
				stale = append(stale, k)
			}
		}
	}
	if note == "" && more == len(marked) {
		return fmt.Errorf("%.200q is not marked in the missing book: %w", name, fs.ErrNotExist)
	}
	if note != "" && len(marks)-len(stale)+more > maxMarks {
		return fmt.Errorf("%d entries of the missing book are marked, which is the limit: remove a mark with an empty "+
			"note, or forget an entry: %w", maxMarks, fs.ErrInvalid)
	}
	event := tree.Event{Verb: "missing.mark", Object: name, New: note}
	if old := marks[marked[0]]; old != nil {
		event.Old = old.Note
	}
	m := Mark{Note: note, By: tree.ActorIn(ctx).Name, At: time.Now().UTC()}
	err = b.cfg.Tree.Update(tree.WithEvent(ctx, event), func(batch tree.Batch) error {
		for _, k := range stale {
			batch.Remove(markName + hashOf(k.kind, k.name))
		}
		for _, k := range marked {
			at := markName + hashOf(k.kind, k.name)
			if note == "" {
				if marks[k] != nil {
					batch.Remove(at)
				}
				continue
			}
			data, err := notebook.Encode(mark{k.kind, k.name, m})
			if err != nil {
				return err
			}
			batch.Put(at, data)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("missing book: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed++
	return nil
}

// readMarks returns the marks in the tree, by entry.
func (b *Book) readMarks(dir []fs.DirEntry) map[key]*Mark {
	list := map[key]*Mark{}
	for _, d := range dir {
		if !strings.HasPrefix(d.Name(), markName) {
			continue
		}
		var m mark
		data, err := b.cfg.Tree.ReadFile(d.Name())
		if err == nil && json.Unmarshal(data, &m) == nil && markName+hashOf(m.Kind, m.Name) == d.Name() {
			list[key{m.Kind, m.Name}] = &m.Mark
		}
	}
	return list
}
