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

// pendingAge is how long an import that is not complete is kept when nobody goes on with it.
const pendingAge = 30 * 24 * time.Hour

// pending is the record of an import that is not complete: interrupted, or without some of its parts.
type pending struct {
	Key     string    `json:"key"`
	Name    string    `json:"name"`
	Kind    string    `json:"kind,omitempty"`
	ID      string    `json:"id,omitempty"`
	Sources []string  `json:"sources"` // of a split bundle those of all parts that were read, else of the last reading
	Signer  string    `json:"signer,omitempty"`
	Started time.Time `json:"started"`
	Touched time.Time `json:"touched"`
	Node    string    `json:"node,omitempty"` // where its scratch files lie
	// Parts is how many there are, 0 if it is no split bundle; Have are the numbers of those that were read.
	Parts int   `json:"parts,omitempty"`
	Have  []int `json:"have,omitempty"`
	// Absent is how many blobs are still missing.
	Absent int `json:"absent,omitempty"`
	// Scratch are the digests of large blobs of which a part is there.
	Scratch []string `json:"scratch,omitempty"`
}

// missing are the numbers of the parts that were not read yet.
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

// keyOf is the directory of what is read with that id; one without an id goes by its name.
func keyOf(id, name string) string {
	if id != "" {
		return fileOf(id)
	}
	return "name-" + name
}

func (p pending) encode() []byte {
	all, room := p.Sources, 2000 // bytes of them
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
	if err != nil || len(data) > maxRecord { // which parts are here matters more than what their files were called
		p.Sources = nil
		data, err = json.Marshal(p)
	}
	if err != nil || len(data) > maxRecord {
		p.Have, p.Scratch = nil, nil // bounded all the same; the parts can be read again
		data, _ = json.Marshal(p)
	}
	return data
}

// keeper makes the record that the sink writes beside its links. It is changed while the import goes on.
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

// pendings are the imports that are not complete, by key.
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
		if err != nil || p.Key != entry.Name() { // it can still be removed
			p = pending{Key: entry.Name(), Name: entry.Name()[:min(len(entry.Name()), 40)], Touched: e.cfg.Now()}
		}
		list[p.Key] = p
	}
	return list, nil
}

// dropPending forgets an import that is not complete, with its scratch files on this node.
func (e *Engine) dropPending(ctx context.Context, p pending) error {
	if err := e.cfg.Tree.Update(ctx, func(b cluster.Batch) error { b.Remove(p.dir()); return nil }); err != nil {
		return fmt.Errorf("import %s: %w", p.Name, err)
	}
	for _, d := range p.Scratch {
		e.dropScratch(d)
	}
	// After a power cut the record does not say them; what the index names tells.
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
		e.cfg.Log.Warn("a scratch file stays until it is a day old", "blob", digest, "err", err)
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

// Upkeep drops imports that are not complete and were not gone on with for 30 days.
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
			e.cfg.Log.Info("an import that was not completed is dropped", "import", p.Name, "touched", p.Touched, "parts", p.Parts, "have", p.Have)
		}
	}
	return nil
}

func (e *Engine) isRunning(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running != nil && e.running.keeper.get().Key == key
}
