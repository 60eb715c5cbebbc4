package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/bundle"
	"casemate/cluster"
)

// pendingAge is how long an incomplete import is retained if it is not continued.
const pendingAge = 30 * 24 * time.Hour

// pending is the record of an incomplete import: interrupted, or without some of its parts.
type pending struct {
	Key  string `json:"key"`
	Name string `json:"name"`
	Kind string `json:"kind,omitempty"`
	ID   string `json:"id,omitempty"`
	// for a split bundle those of all parts that were read, else those of the last reading
	Sources []string  `json:"sources"`
	Signer  string    `json:"signer,omitempty"`
	Started time.Time `json:"started"`
	Touched time.Time `json:"touched"`
	Node    string    `json:"node,omitempty"` // where its scratch files are
	// Parts is the number of parts, 0 if the bundle is not split; Have are the numbers of those that were read.
	Parts int   `json:"parts,omitempty"`
	Have  []int `json:"have,omitempty"`
	// Absent is how many blobs are missing.
	Absent int `json:"absent,omitempty"`
	// Scratch are the digests of large blobs that are partly written.
	Scratch []string `json:"scratch,omitempty"`
}

// missing returns the numbers of the parts that were not read yet.
func (p pending) missing() []int {
	var list []int
	for n := 1; n <= p.Parts; n++ {
		if !slices.Contains(p.Have, n) {
			list = append(list, n)
		}
	}
	return list
}

func (p pending) dir() string { return pendingDir + "/" + p.Key }

// keyOf returns the directory name of the pending import with that id; without an id it is derived from the name.
func keyOf(id, name string) string {
	if id != "" {
		return fileOf(id)
	}
	return "name-" + name
}

func (p pending) encode() []byte {
	all, room := p.Sources, 2000 // bytes of Sources that fit
	p.Sources = nil
	for _, s := range all {
		if len(s) > 200 {
			s = strings.ToValidUTF8(s[:200], "") + "…"
		}
		if room -= len(s); room < 0 {
			break
		}
		p.Sources = append(p.Sources, s)
	}
	p.Scratch = p.Scratch[:min(len(p.Scratch), 8)]
	data, err := json.Marshal(p)
	if err != nil || len(data) > maxRecord { // which parts were read matters more than the names of their files
		p.Sources = nil
		data, err = json.Marshal(p)
	}
	if err != nil || len(data) > maxRecord {
		p.Have, p.Scratch = nil, nil // must fit all the same; the parts can be read again
		data, _ = json.Marshal(p)
	}
	return data
}

// keeper makes the record that the sink writes together with its links. It changes while the import runs.
type keeper struct {
	mu sync.Mutex
	p  pending
}

func (k *keeper) edit(f func(*pending)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(&k.p)
}

func (k *keeper) get() pending {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.p
}

// pendings returns the incomplete imports, by key.
func (e *Engine) pendings() (map[string]pending, error) {
	entries, err := e.cfg.Tree.ReadDir(pendingDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list := map[string]pending{}
	for _, entry := range entries {
		p := pending{Key: entry.Name()}
		data, err := e.cfg.Tree.ReadFile(p.dir() + "/record")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(data, &p)
		}
		if err != nil || p.Key != entry.Name() { // an unreadable one can still be removed
			p = pending{Key: entry.Name(), Name: entry.Name()[:min(len(entry.Name()), 40)], Touched: e.cfg.Now()}
		}
		list[p.Key] = p
	}
	return list, nil
}

// dropPending removes an incomplete import, with its scratch files on this node.
func (e *Engine) dropPending(ctx context.Context, p pending) error {
	if err := e.cfg.Tree.Update(ctx, func(b cluster.Batch) error { b.Remove(p.dir()); return nil }); err != nil {
		return fmt.Errorf("import %s: %w", p.Name, err)
	}
	for _, d := range p.Scratch {
		e.dropScratch(d)
	}
	// After a power cut the record may not list them; the index does.
	if ix, err := e.readIndex(p.dir() + "/index"); err == nil {
		for _, b := range ix.Blobs {
			if b.Size >= e.cfg.largeAt {
				e.dropScratch(b.Digest)
			}
		}
	}
	return nil
}

// dropScratch removes a scratch file. One that cannot be removed now is swept when it is a day old.
func (e *Engine) dropScratch(digest string) {
	w, err := e.cfg.Tree.ResumeBlob(scratchID(digest))
	if err == nil {
		err = w.Cancel()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.cfg.Log.Warn("a scratch file cannot be removed, it will be swept when it is a day old", "blob", digest,
			"err", err)
	}
}

// readIndex reads an index document of the tree.
func (e *Engine) readIndex(name string) (*bundle.Index, error) {
	data, err := e.cfg.Tree.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return bundle.DecodeIndex(data)
}

// Upkeep drops incomplete imports that were not continued for 30 days.
func (e *Engine) Upkeep(ctx context.Context) error {
	list, err := e.pendings()
	if err != nil {
		return err
	}
	for _, p := range list {
		if age := e.cfg.Now().Sub(p.Touched); age > pendingAge && !e.isRunning(p.Key) {
			if err := e.dropPending(ctx, p); err != nil {
				return err
			}
			e.cfg.Log.Info("an incomplete import was dropped", "import", p.Name, "touched", p.Touched, "parts", p.Parts,
				"have", p.Have)
		}
	}
	return nil
}

func (e *Engine) isRunning(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running != nil && e.running.keeper.get().Key == key
}
