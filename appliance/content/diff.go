package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"casemate/bundle"
	"casemate/cluster"
	"casemate/cluster/tree"
)

// What an import does to a name.
const (
	ChangeNew   = "new"
	ChangeOther = "changed"
	ChangeNone  = "same"
	// ChangeHidden is a name of this content that was imported before and is hidden by a newer import or a push.
	// Importing it again does not change that.
	ChangeHidden = "hidden"
)

// Change is what an import does to one name.
type Change struct {
	What string `json:"what"`
	Kind string `json:"kind"`
	Name string `json:"name"`
	// From is the current digest of the name, To the digest in the import.
	From string `json:"from,omitempty"`
	To   string `json:"to"`
}

// changes compares names with the tree. If the import exists already, its own claims are compared as well.
func (e *Engine) changes(names []Name, importName string) []Change {
	return changesOf(names, importName, e.cfg.Tree.ClaimsOf)
}

// changesOf is changes with what the names show.
func changesOf(names []Name, importName string, claimsOf func(path string) []cluster.Claim) []Change {
	list := make([]Change, 0, len(names))
	for _, n := range names {
		c := Change{What: ChangeNew, Kind: n.Kind, Name: n.Name, To: n.Digest}
		for i, cl := range claimsOf(n.path) {
			d := claimDigest(n.path, cl)
			if i == 0 {
				c.From, c.What = d, ChangeOther
				if d == n.Digest {
					c.What = ChangeNone
				}
			} else if c.What == ChangeOther && cl.Claim == importName && d == n.Digest {
				c.What = ChangeHidden
			}
		}
		list = append(list, c)
	}
	return list
}

// dryRun reports what would change. It reads a bundle only up to the end of its index.
func (j *job) dryRun(ctx context.Context) (*Result, error) {
	e := j.e
	s := &dry{e: e, small: map[string][]byte{}, put: map[string]int64{}}
	c, err := j.read(ctx, s, func(c *bundle.Contents) error {
		if c.Index == nil {
			return nil
		}
		return bundle.ErrStop
	})
	if err == nil {
		err = j.fit(c)
	}
	if err != nil {
		return nil, err
	}
	r := Record{Name: j.base, Kind: c.Kind, ID: c.ID, Signer: c.Signer, Sources: sources(j.req.Inputs),
		Time: e.cfg.Now().UTC(), Notes: c.Notes}
	held, ok, err := e.holding(c.ID)
	if err != nil {
		return nil, err
	}
	if ok {
		r.Name = held.Name
	}
	names, hosts, err := e.namesOfIndex(c.Index)
	if err != nil {
		return nil, err
	}
	if r.Origins, err = e.cfg.Origins(hosts); err != nil {
		return nil, err
	}
	for _, b := range c.Index.Blobs {
		r.Blobs++
		r.Bytes += b.Size
		if _, ok := e.held(ctx, b.Digest); !ok {
			r.BytesNew += b.Size
		}
	}
	res := &Result{State: Planned, Record: r, Parts: c.Parts, Have: c.Numbers, Need: r.BytesNew,
		Changes: e.changes(names, r.Name)}
	for _, ch := range res.Changes {
		res.tally(ch)
	}
	res.Message = "dry run; an import would make: " + changesText(res.Record)
	if ok {
		res.Message = fmt.Sprintf("nothing would change: the same content was imported as %s on %s", held.Name,
			held.Time.Format("2006-01-02 15:04"))
		if r.BytesNew > 0 {
			res.Message += fmt.Sprintf("; %s of it that are damaged or lost here would be restored",
				BytesText(r.BytesNew))
		}
	}
	return res, nil
}

// dry is a sink that stores nothing but small documents, which are needed to interpret the rest.
type dry struct {
	e *Engine

	mu    sync.Mutex
	small map[string][]byte
	bytes int
	put   map[string]int64 // size by digest
}

// maxSmall limits the documents that a dry run holds in memory.
const maxSmall = 256 << 20

func (d *dry) Has(digest string) (int64, bool) {
	d.mu.Lock()
	size, ok := d.put[digest]
	d.mu.Unlock()
	if ok {
		return size, true
	}
	return d.e.held(d.e.base, digest)
}

func (d *dry) Put(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	alg := digest
	if alg == "" {
		alg = "sha256:"
	}
	h := tree.NewHash(alg)
	var head bytes.Buffer
	r = bounded(ctx, r, size)
	n, err := io.Copy(io.MultiWriter(h, &head), io.LimitReader(r, maxManifest+1))
	if err == nil && n > maxManifest {
		head = bytes.Buffer{}
		var more int64
		more, err = io.Copy(h, r)
		n += more
	}
	if err != nil {
		return "", 0, err
	}
	if size >= 0 && n != size {
		return "", 0, wrongSize(n, size)
	}
	got := tree.SumOf(alg, h)
	if digest != "" && got != digest {
		return "", 0, fmt.Errorf("the bytes have the digest %s, not %s: %w", got, digest, syscall.EBADMSG)
	}
	d.mu.Lock()
	d.put[got] = n
	d.mu.Unlock()
	if text := bytes.TrimLeft(head.Bytes(), " \t\r\n"); n <= maxManifest && len(text) > 0 &&
		(text[0] == '{' || text[0] == '[') {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.bytes += head.Len(); d.bytes > maxSmall {
			return "", 0, errors.New("too many documents for a dry run: import without --dry-run")
		}
		d.small[got] = head.Bytes()
	}
	return got, n, nil
}

func (d *dry) Open(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	d.mu.Lock()
	data, ok := d.small[digest]
	d.mu.Unlock()
	if ok {
		return document{bytes.NewReader(data)}, nil
	}
	return d.e.cfg.Tree.OpenBlob(ctx, digest)
}

type document struct{ *bytes.Reader }

func (document) Close() error { return nil }

// namesOfIndex returns the names that an index will create, without reading its manifests.
func (e *Engine) namesOfIndex(ix *bundle.Index) ([]Name, []Host, error) {
	l := &edits{at: map[string]int{}}
	for _, m := range ix.Images {
		path, err := e.cfg.Images.TreeName(m.Repository, m.Tag, m.Digest)
		if err != nil {
			return nil, nil, err
		}
		into{l, imagesDir}.Link(path, m.Digest)
	}
	for _, f := range ix.Files {
		key, err := e.fileKey(f.URL)
		if err != nil {
			return nil, nil, err
		}
		into{l, filesDir}.Link(key, f.Digest)
	}
	for _, r := range ix.Redirects {
		if err := e.redirect(l, r); err != nil {
			return nil, nil, err
		}
	}
	return e.names(l), hostsOf(l), l.err
}
