// Package rehearsal records which questions clients asked while an install was rehearsed, and how they were answered:
// the transcript, which a bundle carries and replay asks again.
//
// It promises: each distinct question is kept once, with its last answer, which is that of the content that the bundle
// has. A question is in the file when its client has the answer; after a crash the rest is read back. No address,
// credential or content of a client is written. The number of questions and the size of the file are bounded, and what
// is not recorded is counted. One process records into a file; any number may read it meanwhile.
package rehearsal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"casemate/bundle"
	"casemate/bundle/credentials"
)

// crowded is the size in bytes from which the file is written anew, with one line for each question.
const crowded = 32 << 20

// ErrRuns means that another process records into the file.
var ErrRuns = errors.New("the rehearsal is running")

// Config configures a Book. Path and Domain are required.
type Config struct {
	Path   string
	Domain string           // the cluster's own zone, whose names differ elsewhere
	Log    *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Book is an open record. Its methods are safe for concurrent use. Close must be called.
type Book struct {
	cfg Config

	mu      sync.Mutex
	record  Record
	file    *os.File // locked; nil: closed
	size    int64
	compact int64 // the size from which the file is written anew
	err     error // of the file
}

// Open reads the record, or begins one. A line that a crash has cut is dropped; a damaged one is an error. ErrRuns:
// another process has it open.
func Open(cfg Config) (*Book, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f, err := os.OpenFile(cfg.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	b := &Book{cfg: cfg, file: f, compact: crowded}
	if err = lock(f); err == nil {
		err = b.read()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("the record of the rehearsal, %s: %w", cfg.Path, err)
	}
	return b, nil
}

func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrRuns
	}
	return err
}

// Running reports whether a process records into the file at path.
func Running(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = lock(f)
	return errors.Is(err, ErrRuns), errorUnless(err, ErrRuns)
}

func errorUnless(err, fine error) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}

func (b *Book) read() (err error) {
	if b.size, err = b.record.read(b.file); err != nil {
		return err
	}
	if err := b.file.Truncate(b.size); err != nil {
		return err
	}
	_, err = b.file.Seek(b.size, io.SeekStart)
	return err
}

// Record records a request and its answer. service is what answered: "registry" and "files" have content.
func (b *Book) Record(service string, r *http.Request, status int, answer http.Header) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name // it is asked again at the port of its scheme
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	switch {
	case service == "pages", r.URL.Path == "/token", ours(host, b.cfg.Domain):
		return
	case service == "none":
		b.write(line{Gap: gapOf(r, NotServed)})
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		b.write(line{Gap: gapOf(r, NotRead)})
		return
	}
	q, ok := question(r, host, status, answer)
	switch {
	case !ok:
	case q.Check() != nil:
		b.write(line{Gap: gapOf(r, Invalid)})
	case q.Client != "":
		b.write(line{Question: &q, Clients: []string{q.Client}})
	default:
		b.write(line{Question: &q})
	}
}

// Fetched tells the digest of a file that was fetched. The client that asked first was answered before it was known,
// and its answer is completed, whichever of both is told first.
func (b *Book) Fetched(url, digest string, size int64) {
	f := File{credentials.Strip(url), digest, size}
	if f.check() == nil {
		b.write(line{File: &f})
	}
}

// write adds a line of this moment to the record and to the file.
func (b *Book) write(l line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Now().UTC().Truncate(time.Second)
	switch {
	case l.Gap != nil:
		l.Gap.First, l.Gap.Last, l.Gap.Count = now, now, 1
	case l.Question != nil:
		if l.Last = now; b.record.questions[keyOf(l.Question)] == nil {
			l.First = now
		}
	}
	if b.file == nil || !b.record.add(l) || b.err != nil {
		return
	}
	if b.err = b.append(l); b.err != nil {
		b.cfg.Log.Error("the rehearsal is not recorded", "err", b.err)
	}
}

func (b *Book) append(l line) error {
	text, err := appendLine(nil, l)
	if err != nil {
		return err
	}
	n, err := b.file.Write(text)
	if b.size += int64(n); err != nil || b.size < b.compact {
		return err
	}
	return b.rewrite()
}

// rewrite replaces the file by one with a line for each question. A crash leaves one of the two.
func (b *Book) rewrite() (err error) {
	text, err := b.record.lines()
	if err != nil {
		return err
	}
	if len(text) > maxFile/2 {
		return fmt.Errorf("the record has reached %d bytes, nothing more is written", len(text))
	}
	path := b.cfg.Path + ".new"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = lock(f); err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(path, b.cfg.Path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	b.file.Close()
	b.file, b.size, b.compact = f, int64(len(text)), max(crowded, 2*int64(len(text)))
	return nil
}

// Questions returns the transcript, in the order of bundle.CompareQuestions.
func (b *Book) Questions() []bundle.Question {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record.Questions()
}

// Notes say what the transcript does not have, one sentence each.
func (b *Book) Notes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.record.Notes()
	if b.err != nil {
		list = append(list, "the record of the rehearsal could not be written: "+b.err.Error())
	}
	return list
}

// Close closes the file.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file = nil
	return err
}
