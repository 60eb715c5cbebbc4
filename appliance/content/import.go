package content

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/bundle"
	"casemate/cluster/tree"
)

// Request is an operator's import request.
type Request struct {
	// Name is the import's name; "" derives one from the first input's name.
	Name   string
	Inputs []bundle.Input
	// Keys are the keys of which one must have signed the content; none: any.
	Keys []ed25519.PublicKey
	// Repository is the repository for images without a name.
	Repository string
	// PythonIndex is bundle.ReadOptions.PythonIndex.
	PythonIndex string
	// DryRun reports what would change, and changes nothing.
	DryRun bool
	// Partial leaves out names that cannot be imported and lists them in Result.Refused. Without it they are all
	// reported, and nothing is imported.
	Partial bool
	// Hold stages the import, so that somebody can look at what it would do before it is published (Engine.Diff,
	// Engine.PublishStaged), even if the policy does not ask for an approval.
	Hold bool
	// Wait makes the import wait until the one that is running has ended, instead of fs.ErrExist.
	Wait bool
	// Progress is called periodically, from any goroutine. Nil: not called.
	Progress func(Progress)
}

// Progress is the progress of an import in bytes of the inputs; total is -1 if unknown.
type Progress struct {
	Phase       string // PhaseWaiting, PhaseReading, PhasePublishing
	Done, Total int64
}

// Phases of an import.
const (
	PhaseWaiting    = "waiting" // for the import that is running
	PhaseReading    = "reading"
	PhasePublishing = "publishing"
)

// States of an import, and results of an import request.
const (
	Imported   = "imported"   // its names are published
	Unchanged  = "unchanged"  // they were published before, nothing was written
	Incomplete = "incomplete" // parts of it are missing
	Planned    = "planned"    // it was a dry run; see also Staged
)

// Result is the result of an import.
type Result struct {
	State string `json:"state"`
	// Message is one sentence for the operator.
	Message string `json:"message"`
	Record
	// Parts, Have and Missing are the part numbers of a split bundle.
	Parts   int   `json:"parts,omitempty"`
	Have    []int `json:"have,omitempty"`
	Missing []int `json:"missing,omitempty"`
	// NeedsApproval is that of Import, if it is staged.
	NeedsApproval bool `json:"needs_approval,omitempty"`
	// Repaired is how many blobs were damaged or lost here and were restored.
	Repaired int `json:"mended,omitempty"`
	// Need is how many bytes at most an import would write, and Changes what it would change, in a dry run.
	Need    int64    `json:"need,omitempty"`
	Changes []Change `json:"changes,omitempty"`
	// Refused are names that could not be imported and were left out, as the request allowed. LeftOut are files that
	// were not meant to be imported.
	Refused []bundle.Skipped `json:"refused,omitempty"`
	LeftOut []bundle.Skipped `json:"left_out,omitempty"`
	// Checkpoint is the signed checkpoint of the audit log after the import; "" if nothing was imported.
	Checkpoint string `json:"checkpoint,omitempty"`
}

// job is one running import.
type job struct {
	e       *Engine
	req     Request
	base    string // the requested name, or one derived from the first input's name
	dry     bool
	started time.Time
	ctx     context.Context // the command's context; done when the command went away
	ended   chan struct{}   // closed by end
	keys    []ed25519.PublicKey
	policy  Policy
	keeper  keeper
	before  bool // a pending import with its key existed before
	need    int64
	done    *Result // known before everything was read
	reading bool    // the content is being read
	fate    string  // what happened to the bytes of a failed import, for the operator
	refused []bundle.Skipped
	left    []bundle.Skipped
}

// Import reads the inputs and publishes their names, all in one log entry, or returns an error. After an error
// nothing is visible, and what was read is retained so that the same import can continue, unless the content is
// damaged.
//
// fs.ErrPermission: a required signature is missing. fs.ErrExist: another import is running, or the name belongs to
// other content. fs.ErrInvalid: the content or the name is invalid. syscall.EBADMSG: the content is damaged.
// syscall.ENOSPC: the disk is full. syscall.EAGAIN: there is no majority.
func (e *Engine) Import(ctx context.Context, req Request) (*Result, error) {
	if len(req.Inputs) == 0 {
		return nil, fmt.Errorf("there is nothing to import: give a file or directory: %w", fs.ErrInvalid)
	}
	j := &job{e: e, req: req, base: req.Name, dry: req.DryRun, started: e.cfg.Now(), policy: e.cfg.Policy()}
	if req.Name == "" {
		j.base = defaultName(req.Inputs[0].Name)
	} else if err := CheckNewName(req.Name); err != nil {
		return nil, err
	}
	if req.Hold && req.DryRun {
		return nil, fmt.Errorf("hold and dry run exclude each other: a dry run stores nothing that could wait: %w",
			fs.ErrInvalid)
	}
	var err error
	if j.keys, err = j.policy.admit(req.Keys); err != nil {
		return nil, err
	}
	if req.Progress == nil {
		j.req.Progress = func(Progress) {}
	}
	if err := e.begin(ctx, j); err != nil {
		return nil, err
	}
	defer e.end(j)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.base, func() { cancel(context.Cause(e.base)) })()
	var res *Result
	if j.dry {
		res, err = j.dryRun(ctx)
	} else {
		res, err = j.run(ctx)
	}
	if err != nil {
		// Report what ended the import, not the failures that this caused.
		if e.base.Err() != nil {
			err = errStopping
		} else if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		if !j.dry {
			e.cfg.Log.Warn("import failed", "import", j.base, "err", err)
		}
		if j.fate != "" {
			return nil, fmt.Errorf("import %s: %w; %s", j.base, err, j.fate)
		}
		return nil, fmt.Errorf("import %s: %w", j.base, err)
	}
	if res.Refused, res.LeftOut = j.refused, j.left; len(j.refused) > 0 {
		res.Message += fmt.Sprintf("; %s could not be imported", count(len(j.refused), "name"))
	}
	if !j.dry {
		e.cfg.Log.Info("import", "import", res.Name, "state", res.State, "kind", res.Kind, "id", res.ID, "signer",
			res.Signer, "images", res.Images, "files", res.Files,
			"bytes", res.Bytes, "bytes_new", res.BytesNew, "took", e.cfg.Now().Sub(j.started))
	}
	return res, nil
}

// run runs the import.
func (j *job) run(ctx context.Context) (_ *Result, err error) {
	s := newSink(j.e)
	life, cut := linger(ctx, abortTime)
	defer cut()
	s.small.life = life
	defer s.small.drop()
	var wg sync.WaitGroup
	end := make(chan struct{})
	wg.Go(func() { s.run(ctx, end) })
	// Must happen before the record is removed: a flush after that would write it again.
	stop := sync.OnceFunc(func() { close(end); wg.Wait() })
	defer stop()
	defer func() {
		if err != nil {
			stop()
			err = errors.Join(err, j.abort(ctx, s, err))
		}
	}()
	j.reading = true
	c, err := j.read(ctx, s, func(c *bundle.Contents) error {
		id := ""
		if c.Index != nil {
			id = c.ID
		}
		if err := j.prepare(c, id); err != nil {
			return err
		}
		var known []string
		if c.Index != nil {
			for _, b := range c.Index.Blobs {
				known = append(known, b.Digest)
			}
		}
		record := func(unfinished []string) []byte {
			p := j.keeper.get()
			p.Scratch, p.Touched = unfinished, j.e.cfg.Now()
			return p.encode()
		}
		return s.open(ctx, j.keeper.get().dir(), record, known)
	})
	if err == nil {
		err = s.small.finish(ctx)
	}
	if err != nil || j.done != nil {
		return j.done, err
	}
	j.reading = false
	stop()
	if err := j.fit(c); err != nil {
		return nil, err
	}
	j.req.Progress(Progress{Phase: PhasePublishing, Total: -1})
	j.keeper.edit(func(p *pending) {
		p.Kind, p.ID, p.Signer, p.Parts, p.Absent = c.Kind, c.ID, c.Signer, c.Parts, len(c.Absent)
	})
	if name, ok := j.e.stagedContent(c.ID); ok { // known only now: inputs other than bundles have no index before
		if err := j.e.dropPending(ctx, j.keeper.get()); err != nil {
			return nil, err
		}
		return j.e.waits(name, c.Parts)
	}
	if r, ok, err := j.e.holding(c.ID); err != nil {
		return nil, err
	} else if ok {
		if !j.e.hasDocument(ctx, r) { // the names exist, but their bytes were lost
			if _, err := j.document(ctx, c.Index); err != nil {
				return nil, err
			}
			s.repaired.Add(1)
		}
		res, err := j.unchanged(ctx, r)
		if err == nil {
			res.Message += res.repaired(s)
		}
		return res, err
	}
	if len(c.Absent) > 0 && (!j.req.Partial || c.Parts > 0) {
		return j.incomplete(ctx, s, c)
	}
	return j.publish(ctx, s, c)
}

// read reads the inputs into a sink. It calls planned before the first byte of content is put.
func (j *job) read(ctx context.Context, s bundle.Sink, planned func(*bundle.Contents) error) (*bundle.Contents, error) {
	called := false
	plan := func(c *bundle.Contents, need int64) (err error) {
		defer func() {
			if err != nil && err != bundle.ErrStop {
				err = planError{err}
			}
		}()
		called = true
		j.need = need
		if err := j.policy.check(c); err != nil {
			return err
		}
		if c.Index != nil { // known early: refused before anything is read
			if err := j.policy.checkIndex(c.Index, j.e.cfg.Canonical); err != nil {
				return err
			}
		}
		if c.Index != nil { // refuse early what publishing would refuse
			if err := j.fit(c); err != nil {
				return err
			}
		}
		if c.Index != nil && !j.dry {
			r, ok, err := j.e.holding(c.ID)
			if err != nil {
				return err
			}
			// Only if all bytes are present: if some are lost, the bundle is read again and restores them.
			here := !slices.ContainsFunc(c.Index.Blobs, func(b bundle.Blob) bool {
				_, ok := j.e.held(ctx, b.Digest)
				return !ok
			})
			if name, waits := j.e.stagedContent(c.ID); waits && here {
				if j.done, err = j.e.waits(name, c.Parts); err != nil {
					return err
				}
				return bundle.ErrStop
			}
			if ok && here && j.e.hasDocument(ctx, r) {
				if j.done, err = j.unchanged(ctx, r); err != nil {
					return err
				}
				return bundle.ErrStop
			}
		}
		if c.Index != nil && !j.req.Partial {
			if err := j.e.promised(c.Index); err != nil {
				return err
			}
		}
		if err := j.room(c, need); err != nil {
			return err
		}
		return planned(c)
	}
	j.req.Progress(Progress{Phase: PhaseReading, Total: -1})
	c, err := j.e.cfg.Read(ctx, j.req.Inputs, s, bundle.ReadOptions{
		Keys: j.keys, Repository: j.req.Repository, PythonIndex: j.req.PythonIndex, Partial: j.req.Partial,
		Plan:     plan,
		Progress: func(done, total int64) { j.req.Progress(Progress{PhaseReading, done, total}) },
	})
	if err == nil && !called { // nothing had to be put
		if err = plan(c, 0); errors.Is(err, bundle.ErrStop) {
			err = nil
		}
	}
	if err != nil && ctx.Err() == nil && !errors.As(err, new(ours)) && !errors.As(err, new(planError)) &&
		!errors.As(err, new(syscall.Errno)) && !errors.As(err, new(*fs.PathError)) {
		err = unreadable{err}
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return c, err
}

// planError marks an error about what the content would change, or about this node.
type planError struct{ error }

func (e planError) Unwrap() error { return e.error }

// ErrUnreadable is the error of an import whose inputs are nothing that can be imported, or damaged, or cut off: the
// mistake is in the content, and not in this node.
var ErrUnreadable = errors.New("the content cannot be read")

// unreadable is an error that is ErrUnreadable.
type unreadable struct{ error }

func (e unreadable) Unwrap() error      { return e.error }
func (unreadable) Is(target error) bool { return target == ErrUnreadable }

// room refuses content that does not fit on the disk before writing it.
func (j *job) room(c *bundle.Contents, need int64) error {
	if j.e.cfg.Room == nil || need <= 0 {
		return nil
	}
	if c.Index != nil && !j.dry { // large blobs of an interrupted import are on the disk already
		for _, b := range c.Index.Blobs {
			if b.Size >= j.e.cfg.largeAt {
				if w, err := j.e.cfg.Tree.ResumeBlob(scratchID(b.Digest)); err == nil {
					need -= w.Size()
					if err := w.Close(); err != nil {
						return err
					}
				}
			}
		}
	}
	if c.Index == nil && !j.dry { // and so is what an interrupted reading of the same files has stored
		all, err := j.e.pendings()
		if err != nil {
			return err
		}
		if p, ok := all[keyOf("", j.base)]; ok {
			need -= j.e.pendingBlobs(p).Bytes
		}
	}
	if room := j.e.cfg.Room(); need > room {
		return fmt.Errorf("it needs up to %s, but only %s are free besides the disk's reserve: delete content and "+
			"run casemate gc --now, or give the data directory a larger disk: %w",
			BytesText(need), BytesText(max(room, 0)), syscall.ENOSPC)
	}
	return nil
}

// BytesText formats a number of bytes.
func BytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}

func sources(inputs []bundle.Input) []string {
	var list []string
	for _, in := range inputs {
		list = append(list, in.Name)
	}
	return list
}

// holding returns the import that brought this content and still has all of it.
func (e *Engine) holding(id string) (Record, bool, error) {
	records, err := e.records()
	if err != nil {
		return Record{}, false, err
	}
	for _, r := range records {
		if r.ID == id && e.intact(r) {
			return r, true, nil
		}
	}
	return Record{}, false, nil
}

// hasDocument reports whether the bytes of the import's index document are present.
func (e *Engine) hasDocument(ctx context.Context, r Record) bool {
	info, err := e.cfg.Tree.Stat(indexName(r.Name))
	if err != nil {
		return false
	}
	_, ok := e.held(ctx, tree.DigestOf(info))
	return ok
}

// unchanged returns the result for content that was imported before, and drops what this reading retained.
func (j *job) unchanged(ctx context.Context, r Record) (*Result, error) {
	all, err := j.e.pendings()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.ID == r.ID || p.Key == keyOf("", j.base) && p.Key == j.keeper.get().Key {
			if err := j.e.dropPending(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	res := &Result{State: Unchanged, Record: r}
	res.Message = fmt.Sprintf("nothing changed: the same content was imported as %s on %s", r.Name,
		r.Time.Format(time.RFC3339))
	if behind := j.e.behind(r.Name); len(behind) > 0 {
		res.Message += fmt.Sprintf("; some of its names are hidden behind newer imports or pushes: %s",
			strings.Join(behind, ", "))
	}
	return res, nil
}

// abortTime limits how long an aborted import may take to retain what it has read.
const abortTime = 10 * time.Second

// abort ends an import early. The progress of an interrupted import is linked below pending, so that the next run
// continues there. The blobs of a failed import are freed, since reading the same content again would fail again.
func (j *job) abort(ctx context.Context, s *sink, cause error) error {
	if !s.isOpen() {
		return nil
	}
	p := j.keeper.get()
	failed := j.failed(ctx, cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	// A bundle's index lists its blobs, and another part or another copy may contain those that this one does not.
	if failed && p.Parts == 0 && (!j.before || p.ID == "") {
		s.small.drop()
		p.Scratch = s.unfinished()
		if err := j.e.dropPending(ctx, p); err != nil {
			return err
		}
		j.free(ctx, s)
		return nil
	}
	_ = s.small.finish(ctx) // blobs that it cannot commit are read again; the import already has an error to report
	if !s.idle() || len(s.unfinished()) > 0 {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	if n := s.keeps(); n > 0 {
		j.fate = fmt.Sprintf("what was read of it, %s, is kept until %s: run the same import again to continue, "+
			"or casemate import remove %s",
			BytesText(n), j.e.cfg.Now().Add(pendingAge).UTC().Format(time.DateOnly), p.Name)
	}
	return nil
}

// failed reports whether reading the same content again would fail again. An import is interrupted, not failed, if it
// was cancelled, or met a fault of this node or of the medium that it reads.
func (j *job) failed(ctx context.Context, cause error) bool {
	if damaged(cause) || errors.Is(cause, errTaken) {
		return true
	}
	var errno syscall.Errno
	switch {
	case !j.reading, ctx.Err() != nil, errors.As(cause, new(ours)), errors.As(cause, &errno),
		errors.Is(cause, errStale),
		errors.Is(cause, context.Canceled), errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, fs.ErrExist):
		return false
	case errors.Is(cause, io.ErrUnexpectedEOF): // a pipe may have been cut off, and be complete the next time
		return !slices.ContainsFunc(j.req.Inputs, func(in bundle.Input) bool {
			if in.File == nil {
				return false
			}
			info, err := in.File.Stat()
			return err != nil || !info.Mode().IsRegular()
		})
	}
	return true
}

// free frees the blobs that a failed import has written. Those that cannot be freed now are collected when their pins
// expire.
func (j *job) free(ctx context.Context, s *sink) {
	if j.e.cfg.Discard == nil {
		return
	}
	s.mu.Lock()
	wrote := slices.Sorted(maps.Keys(s.wrote))
	s.mu.Unlock()
	if len(wrote) == 0 {
		return
	}
	freed, err := j.e.cfg.Discard(ctx, wrote)
	if err != nil {
		j.e.cfg.Log.Warn("the blobs of a failed import will be freed within the hour", "import", j.base, "err", err)
		return
	}
	j.e.cfg.Log.Info("the blobs of a failed import were freed", "import", j.base, "bytes", freed)
}

// damaged reports whether err means that the content itself is damaged.
func damaged(err error) bool {
	return errors.Is(err, syscall.EBADMSG) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission)
}

// add adds the numbers of the parts that were just read.
func (p *pending) add(parts []int) {
	p.Have = append(slices.Clone(p.Have), parts...)
	slices.Sort(p.Have)
	p.Have = slices.Compact(p.Have)
}
