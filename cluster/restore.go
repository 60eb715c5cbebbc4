package cluster

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/state"
)

// RestoreOptions are what Restore is given besides the node. Exactly one of Passphrase and Identities must be set.
type RestoreOptions struct {
	// Passphrase unwraps the sealing key.
	Passphrase string
	// Identities unwraps the sealing key: the text of an identity file of age (AGE-SECRET-KEY-1…).
	Identities string
	// Edit changes the tree of the backup before it counts as restored: what speaks of the old nodes has to go. It may
	// Put and Remove. nil changes nothing.
	Edit func(Batch) error
}

// RestoreReport is what was restored.
type RestoreReport struct {
	Cluster string `json:"cluster"` // identity, a new one
	Node    string `json:"node"`
	From    struct {
		Cluster string `json:"cluster"`
		Node    string `json:"node"`
		Created string `json:"created"` // RFC 3339
	} `json:"from"`
	Index   uint64 `json:"index"` // of the log, at which the restored cluster begins
	Names   int    `json:"names"`
	Blobs   int    `json:"blobs"` // on this disk now
	Bytes   int64  `json:"bytes"` // of those
	NoBlobs bool   `json:"no_blobs"`
	// Lacking is the number of blobs that the state knows and this disk has not: the backup has none, or says itself
	// that they were damaged or missing. Scrub lists them, pushing or importing them again repairs them.
	Lacking int `json:"lacking"`
}

// backupError is a backup that cannot be restored, whoever tries.
type backupError struct {
	what  string
	cause error
}

func (e *backupError) Error() string {
	s := "the backup cannot be restored, " + e.what
	if e.cause != nil {
		s += fmt.Sprintf(" (%v)", e.cause)
	}
	if strings.Contains(s, "newer casemate") {
		return s + ": restore it with that version"
	}
	return s + ": take another one"
}

func (e *backupError) Unwrap() error { return e.cause }

// Restore makes the data directory of a cluster of one node from what Backup wrote. cfg.Dir must not exist or be empty
// (lost+found aside). The cluster is a new one: its identity is new, so that no node of the old one mixes with it, and
// cfg.Node, which may be a new name, is the only voter.
//
// Every byte is verified before the directory counts as initialised, and at the end nothing is left of a backup that is
// damaged, cut short or not to be unwrapped; the error is one sentence. A Restore that was cut short is begun anew by
// the next one. Nothing stays open.
func Restore(ctx context.Context, cfg Config, r io.Reader, opt RestoreOptions) (rep RestoreReport, err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return rep, err
	}
	defer func() {
		var bad *backupError
		if errors.As(err, &bad) || errors.Is(err, errWrongKey) || errors.Is(err, fs.ErrInvalid) {
			err = fmt.Errorf("restore: %w", err)
			return
		}
		err = tell("restore", cfg.Dir, err)
	}()
	if err := checkFresh(cfg); err != nil {
		return rep, err
	}
	// What needs no disk comes first: a wrong passphrase has touched nothing.
	b := &backupReader{ctx: ctx, raw: &lagReader{r: r, sum: sha256.New()}}
	b.tar = tar.NewReader(b.raw)
	if err := b.begin(opt); err != nil {
		return rep, err
	}
	if err := disk.MkdirAll(cfg.FS, cfg.Dir); err != nil {
		return rep, err
	}
	lock, err := cfg.FS.Lock(filepath.Join(cfg.Dir, lockFile))
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	// From here to the format file, a crash leaves a directory that says itself that it is incomplete, and the next
	// Restore begins again.
	if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, incompleteFile), nil, 0o640); err != nil {
		return rep, err
	}
	defer func() {
		if err != nil {
			if undo := undoRestore(cfg); undo != nil {
				cfg.Log.Warn("what the restore has made is not cleared away", "dir", cfg.Dir, "err", undo)
			}
		}
	}()
	if err := clearData(cfg); err != nil {
		return rep, err
	}
	for _, name := range []string{raftDir, snapshotDir, blobDir} {
		if err := disk.MkdirAll(cfg.FS, filepath.Join(cfg.Dir, name)); err != nil {
			return rep, err
		}
	}
	st, err := b.state()
	if err != nil {
		return rep, err
	}
	blobs, err := blob.Open(filepath.Join(cfg.Dir, blobDir), blob.Options{FS: cfg.FS, Reserve: cfg.Reserve})
	if err != nil {
		return rep, err
	}
	defer blobs.Close()
	end, err := b.blobs(st, blobs)
	if err != nil {
		return rep, err
	}
	if err := b.end(end); err != nil {
		return rep, err
	}
	if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, keyFile), b.key, 0o600); err != nil {
		return rep, err
	}
	edit := opt.Edit
	if st.IsDir("cluster") {
		edit = func(b Batch) error {
			// The nodes that were are no members here, whatever they are called, and the newest sealing key that they
			// were sent is in the backup's keyring.
			for _, name := range []string{membersDir, tokensDir, keysName} {
				b.Remove(name)
			}
			if opt.Edit == nil {
				return nil
			}
			return opt.Edit(b)
		}
	}
	if _, err := applyEdit(st, st.Index()+1, cfg, edit); err != nil {
		return rep, err
	}
	if err := beginLog(cfg, st); err != nil {
		return rep, err
	}
	id := identity{Format: diskFormat, Cluster: newClusterID(), Node: cfg.Node}
	if err := writeIdentity(cfg, id); err != nil {
		return rep, err
	}
	rep = RestoreReport{
		Cluster: id.Cluster, Node: id.Node, Index: max(1, st.Index()), Names: st.Stats().Entries, Blobs: end.Blobs, Bytes: end.Bytes,
		NoBlobs: b.manifest.NoBlobs, Lacking: st.Stats().Blobs - end.Blobs,
	}
	rep.From.Cluster, rep.From.Node, rep.From.Created = b.manifest.Cluster, b.manifest.Node, b.manifest.Created.UTC().Format(time.RFC3339)
	cfg.FS.Remove(filepath.Join(cfg.Dir, incompleteFile)) // and if it stays or comes back: format counts
	return rep, nil
}

// checkFresh refuses a directory that is anything but new, empty, or left by a Bootstrap or Restore that was cut short.
func checkFresh(cfg Config) error {
	list, err := cfg.FS.ReadDir(cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if slices.Contains(names, formatFile) {
		return errors.New("already initialised, restore into a new directory")
	}
	if slices.Contains(names, incompleteFile) {
		return nil
	}
	for _, name := range names {
		if name != "lost+found" && name != lockFile && name != incompleteFile+".new" {
			return fmt.Errorf("not empty (it has %q), restore into a new directory", name)
		}
	}
	return nil
}

// clearData removes what a Restore that was cut short has made.
func clearData(cfg Config) error {
	for _, name := range []string{raftDir, snapshotDir, blobDir, keyFile, keyFile + ".new", formatFile + ".new", seedFile, nodeCertFile} {
		if err := disk.RemoveAll(cfg.FS, filepath.Join(cfg.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// undoRestore clears away what a Restore that failed has made: first what would count, last what says that the rest
// does not.
func undoRestore(cfg Config) error {
	if err := disk.RemoveAll(cfg.FS, filepath.Join(cfg.Dir, formatFile)); err != nil {
		return err
	}
	if err := cfg.FS.SyncDir(cfg.Dir); err != nil {
		return err
	}
	if err := clearData(cfg); err != nil {
		return err
	}
	return cfg.FS.Remove(filepath.Join(cfg.Dir, incompleteFile))
}

func newClusterID() string { return strings.ToLower(rand.Text()) }

func writeIdentity(cfg Config, id identity) error {
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, formatFile), append(data, '\n'), 0o640)
}

// only is the configuration of a cluster of one.
func only(node string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(node), Address: raft.ServerAddress(node)}}}
}

// applyEdit applies what edit wants as a command of nobody at this index of the log. It returns the command, nil if
// there is none.
func applyEdit(st *state.State, index uint64, cfg Config, edit func(Batch) error) ([]byte, error) {
	if edit == nil {
		return nil, nil
	}
	b := &batch{&Tree{}, &edits{}}
	if err := edit(b); err != nil {
		return nil, err
	}
	if b.err != nil {
		return nil, b.err
	}
	cmd := state.Command{Time: cfg.Now().UnixNano(), Ops: b.ops}
	data, err := cmd.Encode()
	if err != nil {
		return nil, err
	}
	r := st.Apply(index, data)
	return data, errors.Join(r.Fatal, r.Err)
}

// beginLog writes the state as a snapshot and a log that begins behind it, of a cluster of one.
func beginLog(cfg Config, st *state.State) error {
	const term = 1
	index := max(1, st.Index())
	snaps := newSnapshots(cfg)
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, term, only(cfg.Node), index, nil)
	if err != nil {
		return err
	}
	if err := writeSnapshot(context.Background(), sink, st); err != nil {
		return err
	}
	log, err := openWAL(cfg, true, func(error) {})
	if err != nil {
		return err
	}
	// As if it had voted in the snapshot's term: the first election is for the next one.
	return errors.Join(log.SetUint64([]byte("CurrentTerm"), term), log.Close())
}

// backupReader reads a backup from its beginning to its end. What it returns is a *backupError wherever the bytes are
// to blame.
type backupReader struct {
	ctx      context.Context
	raw      *lagReader
	tar      *tar.Reader
	manifest manifest
	key      []byte
	left     int64 // bytes of the entry that are not read yet
}

// next goes to the next entry.
func (b *backupReader) next() (name string, size int64, err error) {
	h, err := b.tar.Next()
	if err != nil {
		return "", 0, b.wrong(err)
	}
	if h.Typeflag != tar.TypeReg || h.Size < 0 {
		return "", 0, &backupError{fmt.Sprintf("%.200q is no plain file in it", h.Name), nil}
	}
	for k := range h.PAXRecords {
		if k != "path" && k != "size" { // above all none that says there are holes
			return "", 0, &backupError{fmt.Sprintf("the header of %.200q is not one of ours", h.Name), nil}
		}
	}
	b.left = h.Size
	return h.Name, h.Size, nil
}

// expect goes to the next entry, which must have this name and be small.
func (b *backupReader) expect(name string, most int64) ([]byte, error) {
	got, size, err := b.next()
	if err != nil {
		return nil, err
	}
	if got != name || size > most {
		return nil, b.unexpected(got, name)
	}
	data := make([]byte, size)
	_, err = io.ReadFull(b, data)
	return data, err
}

func (b *backupReader) unexpected(got, want string) error {
	return &backupError{fmt.Sprintf("where %s should be it has %.200q", want, got), nil}
}

// Read reads from the entry.
func (b *backupReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.tar.Read(p)
	b.left -= int64(n)
	if err == io.EOF && b.left == 0 {
		return n, io.EOF
	}
	if err != nil {
		err = b.wrong(err)
	}
	return n, err
}

// wrong says whether the bytes or their source are to blame.
func (b *backupReader) wrong(err error) error {
	switch {
	case b.raw.err != nil:
		return fmt.Errorf("read the backup: %w", b.raw.err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &backupError{"it is cut short", nil}
	}
	return &backupError{"it is damaged", err}
}

func (b *backupReader) begin(opt RestoreOptions) error {
	name, size, err := b.next()
	var bad *backupError
	if errors.As(err, &bad) && bad.cause != nil || err == nil && (name != backupManifest || size > maxManifest) {
		return &backupError{"it was not written by casemate backup, or its first block is damaged", nil}
	}
	if err != nil {
		return err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(b, data); err != nil {
		return err
	}
	// Only the number, first: what else stands there is the business of the program that wrote it.
	var head struct {
		Version int `json:"casemate_backup"`
	}
	if err := json.Unmarshal(data, &head); err != nil || head.Version < 1 {
		return &backupError{"its manifest is damaged", err}
	}
	if head.Version > backupVersion {
		return &backupError{fmt.Sprintf("it was written by a newer casemate (version %d, this one knows up to %d)", head.Version, backupVersion), nil}
	}
	if err := json.Unmarshal(data, &b.manifest); err != nil {
		return &backupError{"its manifest is damaged", err}
	}
	wrapped, err := b.expect(backupKey, maxKey)
	if err != nil {
		return err
	}
	b.key, err = unwrapKey(wrapped, opt.Passphrase, opt.Identities)
	return err
}

func (b *backupReader) state() (*state.State, error) {
	name, size, err := b.next()
	if err != nil {
		return nil, err
	}
	if name != backupState || size != b.manifest.StateSize {
		return nil, b.unexpected(name, backupState)
	}
	sum := sha256.New()
	r := bufio.NewReaderSize(io.TeeReader(b, sum), 256<<10)
	st, err := restore(r)
	var bad *backupError
	switch {
	case errors.As(err, &bad), b.raw.err != nil, b.ctx.Err() != nil:
		return nil, err
	case err != nil:
		return nil, &backupError{"its state cannot be read", err}
	}
	stats := st.Stats()
	if m := b.manifest; hex.EncodeToString(sum.Sum(nil)) != m.StateSum || stats.Index != m.Index || stats.Entries != m.Names || stats.Blobs != m.Blobs || stats.Bytes != m.Bytes {
		return nil, &backupError{"its state is not the one that its manifest describes", nil}
	}
	return st, nil
}

// blobs puts the backup's blobs into the directory. What it counts is what the ending must say.
func (b *backupReader) blobs(st *state.State, dir *blob.Dir) (end ending, err error) {
	if b.manifest.NoBlobs {
		return end, nil
	}
	for d, known := range st.Blobs("") {
		digest := d.String()
		want := blobEntry(backupBlobs, digest)
		name, size, err := b.next()
		switch {
		case err != nil:
			return end, err
		case name == blobEntry(backupMissing, digest) && size == 0:
			end.Missing++
			continue
		case name != want || size != known.Size:
			return end, b.unexpected(name, want)
		}
		whole, err := b.place(dir, digest)
		if err != nil {
			return end, err
		}
		if whole {
			end.Blobs++
			end.Bytes += size
			continue
		}
		// Its bytes are others: the next entry must say that they were already when the backup was made.
		want = blobEntry(backupDamaged, digest)
		if name, size, err = b.next(); err != nil {
			return end, err
		}
		if name != want || size != 0 {
			return end, &backupError{"its blob " + digest + " is damaged", nil}
		}
		end.Damaged++
	}
	return end, nil
}

// place makes the entry a blob. It reports false if the bytes are not those of the digest.
func (b *backupReader) place(dir *blob.Dir, digest string) (whole bool, err error) {
	w, err := dir.Create("")
	if err != nil {
		return false, err
	}
	defer w.Cancel()
	if _, err := io.Copy(w, b); err != nil {
		return false, err
	}
	if _, _, err := w.Place(digest); errors.Is(err, syscall.EBADMSG) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	w.Done()
	return true, nil
}

// end reads the last entry and to the end, and compares every byte with what it must be.
func (b *backupReader) end(counted ending) error {
	name, size, err := b.next()
	if err != nil {
		return err
	}
	if name != backupEnd || size > maxEnd {
		return b.unexpected(name, backupEnd)
	}
	want, err := counted.bytes(b.raw.sum.Sum(nil), b.key)
	if err != nil {
		return err
	}
	if !bytes.Equal(b.raw.tail, headerBlock(backupEnd, int64(len(want)), b.manifest.Created)) {
		return &backupError{"it is damaged before its end", nil}
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(b, data); err != nil {
		return err
	}
	if !bytes.Equal(data, want) {
		return &backupError{"what it holds is not what it says at its end", nil}
	}
	const block = 512
	rest := make([]byte, (block-size%block)%block+2*block+1) // padding, the end of a tar, and one byte that must not be there
	n, err := io.ReadFull(b.raw, rest)
	switch {
	case b.raw.err != nil:
		return fmt.Errorf("read the backup: %w", b.raw.err)
	case n < len(rest)-1:
		return &backupError{"it is cut short", nil}
	case n == len(rest) || len(bytes.Trim(rest[:n], "\x00")) > 0:
		return &backupError{"there is something behind its end", err}
	}
	return nil
}

// lagReader sums up all bytes that were read but the last 512: when a tar reader has read a header of one block, all
// that stands before it.
type lagReader struct {
	r    io.Reader
	sum  hash.Hash
	tail []byte
	err  error // of r, other than the end
}

// Read implements io.Reader.
func (l *lagReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.tail = append(l.tail, p[:n]...)
	if over := len(l.tail) - 512; over > 0 {
		l.sum.Write(l.tail[:over])
		l.tail = append(l.tail[:0], l.tail[over:]...)
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		l.err = err
	}
	return n, err
}
