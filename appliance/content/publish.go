package content

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"

	"casemate/bundle"
	"casemate/cluster"
	"casemate/cluster/tree"
)

// publish publishes the names.
func (j *job) publish(ctx context.Context, s *sink, c *bundle.Contents) (*Result, error) {
	e := j.e
	links, err := j.links(ctx, c, s)
	if err != nil {
		return nil, collected(err)
	}
	r, version, err := j.name(c)
	if err != nil {
		return nil, err
	}
	r.Kind, r.ID, r.Signer, r.Sources, r.Time = c.Kind, c.ID, c.Signer, j.keeper.get().Sources, e.cfg.Now().UTC()
	r.Notes, r.Node, r.Maker = c.Notes, e.cfg.Node, tree.ActorIn(ctx).Name
	if e.cfg.Behind != nil {
		r.KeyBy = e.cfg.Behind(r.Maker)
	}
	r.Claims = len(links.list) + 2
	r.count(c.Index, s)
	for _, ch := range e.changes(e.names(links), r.Name) {
		r.tally(ch)
	}
	index, err := j.document(ctx, c.Index)
	if err != nil {
		return nil, err
	}
	if err := j.policy.checkNames(r, hostsOf(links)); err != nil {
		return nil, err
	}
	if err := j.ages(ctx, c.Index, s); err != nil {
		return nil, err
	}
	if j.req.Hold || e.cfg.Tree.ApprovalRequired() {
		return j.stage(ctx, r, version, links, index)
	}
	pend := j.keeper.get().dir()
	// If we were to crash before this, nothing would be visible and the next import would find the blobs; after it,
	// everything is visible.
	told := tree.Event{Verb: "import.publish", Object: r.Name, New: fmt.Sprintf("%s: %s, %s, %s", strings.TrimSpace(
		r.Kind+" "+r.ID), count(r.Images, "image"), count(r.Files, "file"), count(r.Manifests, "manifest"))}
	err = e.cfg.Publish(tree.WithEvent(ctx, told), hostsOf(links), func(b cluster.Batch, o Origins) error {
		r.Origins = o
		data, err := r.encode()
		if err != nil {
			return err
		}
		b.Expect(recordName(r.Name), version)
		own := cluster.As(b, r.Name)
		links.write(own)
		own.Put(recordName(r.Name), data)
		own.Link(indexName(r.Name), index)
		b.Remove(pend)
		return nil
	})
	if errors.Is(err, cluster.ErrApproval) { // import.approvals was set at this moment
		return j.stage(ctx, r, version, links, index)
	}
	if err != nil && !e.happened(r) {
		return nil, collected(err)
	}
	res := &Result{State: Imported, Record: r, Parts: c.Parts}
	if e.cfg.Checkpoint != nil {
		res.Checkpoint = e.cfg.Checkpoint(ctx)
	}
	res.Message = fmt.Sprintf("%s is imported: %s", r.Name, changesText(r)) + res.repaired(s)
	return res, nil
}

// collected explains the error that a blob is missing although all of them were read.
func collected(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("some of its blobs were deleted during the import (casemate gc --now?): import it again: %w",
			err)
	}
	return err
}

// happened reports whether the batch that failed was committed all the same: the response was lost, or the import
// ended before it arrived.
func (e *Engine) happened(r Record) bool {
	want, err := r.encode()
	if err != nil {
		return false
	}
	got, err := e.cfg.Tree.ReadFile(recordName(r.Name))
	return err == nil && bytes.Equal(got, want)
}

// name determines the import's name, now that its content is known, and the version of the record that it replaces.
func (j *job) name(c *bundle.Contents) (Record, uint64, error) {
	records, err := j.e.records()
	if err != nil {
		return Record{}, 0, err
	}
	maps.Copy(records, j.e.stagedRecords())
	name := j.keeper.get().Name
	if j.req.Name != "" {
		if r, ok := records[name]; ok && r.ID != c.ID {
			return Record{}, 0, taken(r)
		}
	} else if r, ok := repairs(records, c.ID); ok {
		name = r.Name
	} else if _, ok := records[name]; ok { // the name was taken since it was chosen
		all, err := j.e.pendings()
		if err != nil {
			return Record{}, 0, err
		}
		name = free(j.base, records, all)
	}
	var version uint64
	info, err := j.e.cfg.Tree.Stat(recordName(name))
	if err == nil {
		version = tree.VersionOf(info)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Record{}, 0, err
	}
	return Record{Name: name}, version, nil
}

// document stores the index document as a blob.
func (j *job) document(ctx context.Context, ix *bundle.Index) (string, error) {
	data, err := ix.Encode()
	if err != nil {
		return "", err
	}
	w, err := j.e.cfg.Tree.CreateBlob("")
	if err != nil {
		return "", err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	return w.Commit(ctx, "")
}

// promised refuses a bundle that left out, by --since, blobs that are not stored here: no part of it can bring them.
// It is called before anything is read.
func (e *Engine) promised(ix *bundle.Index) error {
	var absent []string
	for _, b := range ix.Blobs {
		if !b.Omitted {
			continue
		}
		if _, ok := e.held(e.base, b.Digest); !ok {
			absent = append(absent, b.Digest)
		}
	}
	if len(absent) == 0 {
		return nil
	}
	return fmt.Errorf("it left out %s that the cluster no longer has completely (%s): create it again with a new "+
		"inventory, or without --since: %w",
		count(len(absent), "blob"), strings.Join(absent[:min(len(absent), 3)], ", "), fs.ErrNotExist)
}

// incomplete stores the state of an import with missing parts.
func (j *job) incomplete(ctx context.Context, s *sink, c *bundle.Contents) (*Result, error) {
	if c.Parts == 0 {
		return nil, fmt.Errorf("%s that its names need are neither in it nor stored here (%s); if casemate gc --now "+
			"ran meanwhile, import it again: %w", count(len(c.Absent), "blob"),
			strings.Join(c.Absent[:min(len(c.Absent), 3)], ", "), fs.ErrNotExist)
	}
	j.keeper.edit(func(p *pending) {
		p.add(c.Numbers)
		if len(p.missing()) == 0 { // some blobs of an earlier reading were lost
			p.Have = c.Numbers
		}
	})
	p := j.keeper.get()
	index, err := j.document(ctx, c.Index)
	if err != nil {
		return nil, err
	}
	if err := j.e.cfg.Tree.Update(ctx, func(b cluster.Batch) error {
		b.Link(p.dir()+"/index", index)
		return nil
	}); err != nil {
		return nil, err
	}
	if err := s.flush(ctx); err != nil {
		return nil, err
	}
	res := &Result{State: Incomplete, Parts: p.Parts, Have: p.Have, Missing: p.missing()}
	res.Record = Record{Name: p.Name, Kind: c.Kind, ID: c.ID, Signer: c.Signer, Sources: p.Sources, Time: p.Touched,
		Notes: c.Notes, Node: j.e.cfg.Node}
	res.count(c.Index, s)
	names, _, err := j.e.namesOfIndex(c.Index)
	if err != nil {
		return nil, err
	}
	for _, ch := range j.e.changes(names, p.Name) {
		res.tally(ch)
	}
	res.Message = fmt.Sprintf("%s %s of %d %s in; missing: %s", plural(len(c.Numbers), "part", "parts"),
		numbers(c.Numbers), p.Parts, plural(len(c.Numbers), "is", "are"), numbers(p.missing()))
	res.Message += res.repaired(s)
	return res, nil
}

// repaired counts the input blobs that were damaged or lost here, and describes them.
func (r *Result) repaired(s *sink) string {
	if r.Repaired = int(s.repaired.Load()); r.Repaired == 0 {
		return ""
	}
	was, is := plural(r.Repaired, "was", "were"), plural(r.Repaired, "is", "are")
	return fmt.Sprintf("; %s that %s damaged or lost here %s restored", count(r.Repaired, "blob"), was, is)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func count(n int, thing string) string { return fmt.Sprintf("%d %s", n, plural(n, thing, thing+"s")) }

func numbers(list []int) string {
	return strings.Trim(fmt.Sprint(list), "[]")
}

// count sets the counts of blobs from the index.
func (r *Record) count(ix *bundle.Index, s *sink) {
	for _, b := range ix.Blobs {
		r.Blobs++
		r.Bytes += b.Size
		if s.fresh(b.Digest) {
			r.BytesNew += b.Size
		}
	}
}

// tally counts one name.
func (r *Record) tally(c Change) {
	switch c.Kind {
	case KindFile:
		r.Files++
	case KindRedirect:
		r.Redirects++
	case KindManifest:
		r.Manifests++
	default:
		r.Images++
	}
	switch c.What {
	case ChangeNew:
		r.New++
	case ChangeOther:
		r.Changed++
	default:
		r.Unchanged++
	}
}

// changesText describes in one sentence what an import changes.
func changesText(r Record) string {
	var list []string
	for _, c := range []struct {
		n     int
		thing string
	}{{r.Images, "image"}, {r.Manifests, "untagged manifest"}, {r.Files, "file"}, {r.Redirects, "redirect"}} {
		if c.n > 0 {
			list = append(list, count(c.n, c.thing))
		}
	}
	text := cmp.Or(strings.Join(list, ", "), "no names")
	list = nil
	for _, c := range []struct {
		n    int
		what string
	}{{r.New, "new"}, {r.Changed, "changed"}, {r.Unchanged, "unchanged"}} {
		if c.n > 0 {
			list = append(list, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(list) > 0 {
		text += " (" + strings.Join(list, ", ") + ")"
	}
	for _, o := range []struct {
		hosts []string
		what  string
	}{
		{r.Origins.Enabled, "origins enabled"},
		{r.Origins.NotPermitted, "stored but not permitted by the root"},
		{r.Origins.Removed, "stored but removed as origins"},
		{r.Origins.Refused, "stored but cannot be origins"},
	} {
		if len(o.hosts) > 0 {
			text += "; " + o.what + ": " + strings.Join(o.hosts, ", ")
		}
	}
	return text
}
