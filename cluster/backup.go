package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"strings"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/state"
)

// A backup is a tar of these entries in this order, and of nothing else:
//
//	manifest.json           what this is, see manifest
//	sealing.key.age         the file sealing.key, wrapped (see wrap.go)
//	state                   the state as package state writes a snapshot
//	blobs/ALGORITHM/HEX     for every blob that the state knows, in the state's order (none if the manifest says no_blobs)
//	damaged/ALGORITHM/HEX   empty, directly behind a blob whose bytes were found to be other ones, or could not be read (zeros fill it up)
//	missing/ALGORITHM/HEX   empty, instead of a blob that this node could not open, since it is not there or known to be damaged
//	end.json                what was written, see ending; it names the sum of all bytes before it
//
// Nothing need be remembered to write or to read it but the state: the order says which blob comes next, and so whether
// one is missing. Every byte is accounted for: a reader writes the last entry anew from what it has read and compares.
const (
	backupVersion  = 1
	backupManifest = "manifest.json"
	backupKey      = "sealing.key.age"
	backupState    = "state"
	backupBlobs    = "blobs"
	backupDamaged  = "damaged"
	backupMissing  = "missing"
	backupEnd      = "end.json"

	maxManifest = 64 << 10
	maxKey      = 1 << 20
	maxEnd      = 4 << 10
)

// manifest is the first entry of a backup.
type manifest struct {
	Version   int       `json:"casemate_backup"`
	Cluster   string    `json:"cluster"`
	Node      string    `json:"node"` // that wrote it
	Created   time.Time `json:"created"`
	Index     uint64    `json:"index"` // of the log, up to which the state goes
	Names     int       `json:"names"`
	Blobs     int       `json:"blobs"` // that the state knows
	Bytes     int64     `json:"bytes"` // of those
	NoBlobs   bool      `json:"no_blobs"`
	StateSize int64     `json:"state_size"`
	StateSum  string    `json:"state_sha256"`
}

// ending is the last entry of a backup.
type ending struct {
	Blobs   int    `json:"blobs"` // whole ones in this file
	Bytes   int64  `json:"bytes"` // of those
	Damaged int    `json:"damaged"`
	Missing int    `json:"missing"`
	Sum     string `json:"sha256"` // of every byte before this entry's header
	// MAC is made with the sealing key over Sum: whoever changed the backup, or wrote another one, did not have the
	// key, or the passphrase.
	MAC string `json:"mac"`
}

func (e ending) bytes(sum, key []byte) ([]byte, error) {
	own, err := hkdf.Key(sha256.New, key, nil, "casemate backup 1", sha256.Size)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, own)
	mac.Write(sum)
	e.Sum, e.MAC = hex.EncodeToString(sum), hex.EncodeToString(mac.Sum(nil))
	data, err := json.Marshal(e)
	return append(data, '\n'), err
}

// BackupOptions are what Backup is given. Exactly one of Passphrase and Recipients must be set.
type BackupOptions struct {
	// NoBlobs leaves the blobs out: names, settings, users and the CA only.
	NoBlobs bool
	// Passphrase wraps the sealing key; at least 12 bytes.
	Passphrase string
	// Recipients wraps the sealing key: the text of a recipients file of age, lines of age1….
	Recipients string

	work int // scrypt's; 0 is wrapWork
}

// BackupReport is what a backup holds.
type BackupReport struct {
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"`
	Created time.Time `json:"created"`
	Index   uint64    `json:"index"` // of the log, up to which the state goes
	Names   int       `json:"names"`
	Blobs   int       `json:"blobs"` // whole ones in it
	Bytes   int64     `json:"bytes"` // of those
	NoBlobs bool      `json:"no_blobs"`
	Damaged []string  `json:"damaged"` // digests whose bytes are other ones on this node; at most 100
	Missing []string  `json:"missing"` // digests that this node could not open; at most 100
	Faults  int       `json:"faults"`  // of both kinds
}

// maxFaults bounds the lists of a report, which has to fit into a trailer of HTTP.
const maxFaults = 100

// Backup writes the tree, as it is on this node now, to w: one state of one moment, and the bytes of every blob that it
// knows. Any node can do it, also without a majority. Writes and reads go on; what is collected meanwhile is forgotten
// at once, but its files stay on this disk until the next GC.
//
// Each blob is hashed while it is read. One with other bytes, or that cannot be read, is marked in the backup and
// counted in the report, and the rest is written all the same: a backup that has a hole is better than none. An error
// means that what was written is no backup; Restore refuses it.
func (c *Cluster) Backup(ctx context.Context, w io.Writer, opt BackupOptions) (r BackupReport, err error) {
	defer func() {
		c.log.Info("backup", "index", r.Index, "blobs", r.Blobs, "bytes", r.Bytes, "no_blobs", opt.NoBlobs, "faults", r.Faults, "err", err)
	}()
	setDefault(&opt.work, wrapWork)
	key, err := disk.ReadFile(c.cfg.FS, filepath.Join(c.cfg.Dir, keyFile))
	if err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	wrapped, err := wrapKey(key, opt.Passphrase, opt.Recipients, opt.work)
	if err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	// Before the look at the state: a blob that it knows has a file, which now nobody takes away.
	defer c.blobs.HoldAll()()
	s := c.machine.view.Load()
	b := &backupWriter{sum: sha256.New(), time: c.cfg.Now().UTC().Truncate(time.Second)}
	b.Writer = tar.NewWriter(io.MultiWriter(w, b.sum))
	// Twice, since a tar says the size first and the snapshot would be too much for memory. The same state gives the
	// same bytes.
	stateSum := sha256.New()
	size, err := s.WriteTo(stateSum)
	if err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	st := s.Stats()
	m := manifest{
		Version: backupVersion, Cluster: c.id.Cluster, Node: c.cfg.Node, Created: b.time, Index: st.Index, Names: st.Entries, Blobs: st.Blobs, Bytes: st.Bytes,
		NoBlobs: opt.NoBlobs, StateSize: size, StateSum: hex.EncodeToString(stateSum.Sum(nil)),
	}
	r = BackupReport{Cluster: m.Cluster, Node: m.Node, Created: m.Created, Index: m.Index, Names: m.Names, NoBlobs: m.NoBlobs, Damaged: []string{}, Missing: []string{}}
	head, err := json.Marshal(m)
	if err != nil {
		return r, err
	}
	var end ending
	err = b.file(backupManifest, append(head, '\n'))
	if err == nil {
		err = b.file(backupKey, wrapped)
	}
	if err == nil {
		err = b.header(backupState, size)
	}
	if err == nil {
		_, err = s.WriteTo(b)
	}
	if err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	if !opt.NoBlobs {
		for d, known := range s.Blobs("") {
			wrong, err := c.backupBlob(ctx, b, d, known.Size)
			switch {
			case err != nil:
				return r, fmt.Errorf("backup: %w", err)
			case wrong == backupDamaged:
				end.Damaged++
				r.note(&r.Damaged, d)
			case wrong == backupMissing:
				end.Missing++
				if _, err := c.blobs.Stat(d.String()); errors.Is(err, blob.ErrDamaged) { // known before it was read
					r.note(&r.Damaged, d)
				} else {
					r.note(&r.Missing, d)
				}
			default:
				r.Blobs++
				r.Bytes += known.Size
			}
		}
	}
	end.Blobs, end.Bytes = r.Blobs, r.Bytes
	if err := b.Flush(); err != nil { // the padding belongs to the sum
		return r, fmt.Errorf("backup: %w", err)
	}
	last, err := end.bytes(b.sum.Sum(nil), key)
	if err == nil {
		err = b.file(backupEnd, last)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	return r, nil
}

func (r *BackupReport) note(list *[]string, d state.Digest) {
	r.Faults++
	if len(*list) < maxFaults {
		*list = append(*list, d.String())
	}
}

// backupBlob writes one blob, and returns the entry that says what is wrong with it, if something is. An error is of w
// or ctx.
func (c *Cluster) backupBlob(ctx context.Context, b *backupWriter, d state.Digest, size int64) (wrong string, err error) {
	digest := d.String()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f, err := c.replica.Open(ctx, digest)
	if err != nil {
		c.log.Error("backup", "blob", digest, "err", err)
		return backupMissing, b.file(blobEntry(backupMissing, digest), nil)
	}
	defer f.Close()
	if err := b.header(blobEntry(backupBlobs, digest), size); err != nil {
		return "", err
	}
	sum, have := blob.NewSum(digest)
	buf := make([]byte, 256<<10)
	left := size
	var cause error
	for cause == nil {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		var n int
		if left == 0 {
			cause = io.EOF // more bytes than that are for Scrub to find: those in the backup are right
			break
		}
		n, cause = f.Read(buf[:min(left, int64(len(buf)))])
		sum.Write(buf[:n])
		if _, err := b.Write(buf[:n]); err != nil {
			return "", err
		}
		left -= int64(n)
	}
	got := have()
	switch {
	case cause != io.EOF:
	case left > 0:
		cause = fmt.Errorf("it has %d of %d bytes", size-left, size)
	case got != digest:
		cause = fmt.Errorf("its bytes have the digest %s", got)
	default:
		return "", nil
	}
	c.log.Error("backup", "blob", digest, "err", cause)
	c.blobs.Verify(ctx, digest) // it is damaged: from now on everybody knows
	clear(buf)
	for left > 0 {
		n, err := b.Write(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return "", err
		}
		left -= int64(n)
	}
	return backupDamaged, b.file(blobEntry(backupDamaged, digest), nil)
}

// blobEntry is the name of a blob's entry: a directory, the algorithm, the digits.
func blobEntry(dir, digest string) string { return dir + "/" + strings.Replace(digest, ":", "/", 1) }

// backupWriter writes a backup's entries and sums up the bytes of the tar.
type backupWriter struct {
	*tar.Writer
	sum  hash.Hash
	time time.Time
}

func (b *backupWriter) header(name string, size int64) error {
	return b.WriteHeader(backupHeader(name, size, b.time))
}

func (b *backupWriter) file(name string, data []byte) error {
	if err := b.header(name, int64(len(data))); err != nil {
		return err
	}
	_, err := b.Write(data)
	return err
}

func backupHeader(name string, size int64, t time.Time) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: t}
}

// headerBlock is the header as it stands in the tar, for a name and a size that fit into one block.
func headerBlock(name string, size int64, t time.Time) []byte {
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(backupHeader(name, size, t)); err != nil {
		return nil
	}
	return buf.Bytes()
}
