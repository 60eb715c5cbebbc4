// Package archive writes and reads backups: one file with the state of a cluster, its wrapped sealing key, and the
// bytes of its blobs.
//
// It knows neither raft nor a data directory: the caller supplies a state and its blobs to write a backup, and takes
// them from a Reader to restore one.
package archive

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
	"log/slog"
	"strings"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// A backup is a tar of exactly these entries, in this order:
//
//	manifest.json           what this is, see manifest
//	sealing.key.age         the file sealing.key, wrapped (see Wrap)
//	state                   the snapshot of the state, see package state
//	blobs/ALGORITHM/HEX     for every blob that the state knows, in the state's order (none if the manifest says
//	no_blobs) damaged/ALGORITHM/HEX   empty, directly after a blob whose bytes were found to be wrong, or could not be
//	read
//	                        (the rest is zeros)
//	missing/ALGORITHM/HEX   empty, instead of a blob that this node could not open because it is missing or known to
//	be
//	                        damaged
//	end.json                summary, see ending; with the checksum of all bytes before it
//
// Writer and reader keep nothing in memory except the state: the order of the state gives the next blob, and so shows
// whether one is missing. Every byte is verified: the reader generates the last entry from what it has read and
// compares.
const (
	version       = 1
	manifestEntry = "manifest.json"
	keyEntry      = "sealing.key.age"
	stateEntry    = "state"
	blobsDir      = "blobs"
	damagedDir    = "damaged"
	missingDir    = "missing"
	endEntry      = "end.json"

	maxManifest = 64 << 10
	maxKey      = 1 << 20
	maxEnd      = 4 << 10
)

// manifest is the first entry of a backup.
type manifest struct {
	Version   int       `json:"casemate_backup"`
	Cluster   string    `json:"cluster"`
	Node      string    `json:"node"` // that wrote the backup
	Created   time.Time `json:"created"`
	Index     uint64    `json:"index"` // of the newest log entry in the state
	Names     int       `json:"names"`
	Blobs     int       `json:"blobs"` // known to the state
	Bytes     int64     `json:"bytes"` // of those
	NoBlobs   bool      `json:"no_blobs"`
	StateSize int64     `json:"state_size"`
	StateSum  string    `json:"state_sha256"`
}

// ending is the last entry of a backup.
type ending struct {
	Blobs   int    `json:"blobs"` // intact ones in this file
	Bytes   int64  `json:"bytes"` // of those
	Damaged int    `json:"damaged"`
	Missing int    `json:"missing"`
	Sum     string `json:"sha256"` // of every byte before this entry's header
	// MAC is made with the sealing key over Sum: the backup was written, and not changed, by a holder of the key or of
	// the passphrase.
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

// Options select what a backup holds and who can read it. Exactly one of Passphrase and Recipients must be set.
type Options struct {
	// NoBlobs leaves the blobs out: names, settings, users and the CA only.
	NoBlobs bool
	// Passphrase wraps the sealing key; at least 12 bytes.
	Passphrase string
	// Recipients wraps the sealing key: the text of a recipients file of age, lines of age1….
	Recipients string

	// Work is scrypt's work factor, log2; 0 is 17.
	Work int
}

// Report is the summary of a backup.
type Report struct {
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"`
	Created time.Time `json:"created"`
	Index   uint64    `json:"index"` // of the newest log entry in the state
	Names   int       `json:"names"`
	Blobs   int       `json:"blobs"` // intact ones in it
	Bytes   int64     `json:"bytes"` // of those
	NoBlobs bool      `json:"no_blobs"`
	Damaged []string  `json:"damaged"` // digests whose bytes are wrong on this node; at most 100
	Missing []string  `json:"missing"` // digests that this node could not open; at most 100
	Faults  int       `json:"faults"`  // of both kinds
}

// maxFaults bounds the lists of a report, which has to fit into an HTTP trailer.
const maxFaults = 100

// Blobs gives access to the bytes of the blobs.
type Blobs interface {
	// Open opens a blob of the state, from this node or another.
	Open(ctx context.Context, digest string) (io.ReadCloser, error)
	// Damaged reports whether the bytes on this disk are known to be wrong.
	Damaged(digest string) bool
	// Doubt hashes the bytes on this disk, after wrong ones were read.
	Doubt(ctx context.Context, digest string)
}

// Source is the input of a backup.
type Source struct {
	Cluster string // its identity
	Node    string // that writes the backup
	Time    time.Time
	State   *state.State
	Key     []byte // the sealing keys
	Wrapped []byte // Key, encrypted by Wrap
	Blobs   Blobs
	Log     *slog.Logger
}

// Write writes a backup to w. Each blob is hashed while it is read. A blob with wrong bytes, or one that cannot be
// read, is marked in the backup and counted in the report, and the backup continues: an incomplete backup is better
// than none. After an error the output is not a backup.
func Write(ctx context.Context, w io.Writer, src Source, noBlobs bool) (r Report, err error) {
	s := src.State
	b := &writer{sum: sha256.New(), time: src.Time.UTC().Truncate(time.Second)}
	b.Writer = tar.NewWriter(io.MultiWriter(w, b.sum))
	// The state is written twice: tar needs the size first, and the snapshot may be too large for memory. The same
	// state gives the same bytes.
	stateSum := sha256.New()
	size, err := s.WriteTo(stateSum)
	if err != nil {
		return r, err
	}
	st := s.Stats()
	m := manifest{
		Version: version, Cluster: src.Cluster, Node: src.Node, Created: b.time,
		Index: st.Index, Names: st.Entries, Blobs: st.Blobs, Bytes: st.Bytes,
		NoBlobs: noBlobs, StateSize: size, StateSum: hex.EncodeToString(stateSum.Sum(nil)),
	}
	r = Report{
		Cluster: m.Cluster, Node: m.Node, Created: m.Created, Index: m.Index, Names: m.Names, NoBlobs: m.NoBlobs,
		Damaged: []string{}, Missing: []string{},
	}
	head, err := json.Marshal(m)
	if err != nil {
		return r, err
	}
	var end ending
	err = b.file(manifestEntry, append(head, '\n'))
	if err == nil {
		err = b.file(keyEntry, src.Wrapped)
	}
	if err == nil {
		err = b.header(stateEntry, size)
	}
	if err == nil {
		_, err = s.WriteTo(b)
	}
	if err != nil {
		return r, err
	}
	if !noBlobs {
		for d, known := range s.Blobs("") {
			wrong, err := src.blob(ctx, b, d, known.Size)
			switch {
			case err != nil:
				return r, err
			case wrong == damagedDir:
				end.Damaged++
				r.addFault(&r.Damaged, d)
			case wrong == missingDir:
				end.Missing++
				if src.Blobs.Damaged(d.String()) { // known before the read
					r.addFault(&r.Damaged, d)
				} else {
					r.addFault(&r.Missing, d)
				}
			default:
				r.Blobs++
				r.Bytes += known.Size
			}
		}
	}
	end.Blobs, end.Bytes = r.Blobs, r.Bytes
	if err := b.Flush(); err != nil { // the sum includes the padding
		return r, err
	}
	last, err := end.bytes(b.sum.Sum(nil), src.Key)
	if err == nil {
		err = b.file(endEntry, last)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return r, err
	}
	return r, nil
}

func (r *Report) addFault(list *[]string, d state.Digest) {
	r.Faults++
	if len(*list) < maxFaults {
		*list = append(*list, d.String())
	}
}

// blob writes one blob, and returns the directory of the entry that marks its fault, or "". An error is of w or ctx.
func (src Source) blob(ctx context.Context, b *writer, d state.Digest, size int64) (wrong string, err error) {
	digest := d.String()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f, err := src.Blobs.Open(ctx, digest)
	if err != nil {
		src.Log.Error("backup", "blob", digest, "err", err)
		return missingDir, b.file(blobEntry(missingDir, digest), nil)
	}
	defer f.Close()
	if err := b.header(blobEntry(blobsDir, digest), size); err != nil {
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
			cause = io.EOF // extra bytes on the disk are left for Scrub; those in the backup are right
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
	src.Log.Error("backup", "blob", digest, "err", cause)
	src.Blobs.Doubt(ctx, digest) // marks the blob as damaged on this node
	clear(buf)
	for left > 0 {
		n, err := b.Write(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return "", err
		}
		left -= int64(n)
	}
	return damagedDir, b.file(blobEntry(damagedDir, digest), nil)
}

// blobEntry is the name of a blob's entry: a directory, the algorithm, the digits.
func blobEntry(dir, digest string) string { return dir + "/" + strings.Replace(digest, ":", "/", 1) }

// writer writes a backup's entries and hashes the bytes of the tar.
type writer struct {
	*tar.Writer
	sum  hash.Hash
	time time.Time
}

func (b *writer) header(name string, size int64) error {
	return b.WriteHeader(tarHeader(name, size, b.time))
}

func (b *writer) file(name string, data []byte) error {
	if err := b.header(name, int64(len(data))); err != nil {
		return err
	}
	_, err := b.Write(data)
	return err
}

func tarHeader(name string, size int64, t time.Time) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: t}
}

// headerBlock is the tar header of an entry whose name and size fit into one block.
func headerBlock(name string, size int64, t time.Time) []byte {
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(tarHeader(name, size, t)); err != nil {
		return nil
	}
	return buf.Bytes()
}
