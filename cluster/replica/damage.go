package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"syscall"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// lost is the error for a blob that the tree knows and whose bytes are not available: damage, which must not look like
// a miss. It is syscall.EIO.
type lost struct {
	digest string
	why    string // "not on this node's disk", "damaged on this node's disk (…)"
	alone  bool   // the cluster has no other node
}

// Error implements error.
func (e *lost) Error() string {
	elsewhere := ", nor whole on another node"
	if e.alone {
		elsewhere = ""
	}
	return fmt.Sprintf("blob %s: known, but %s%s: import or push it again", e.digest, e.why, elsewhere)
}

// Is makes the error syscall.EIO.
func (e *lost) Is(target error) bool { return target == syscall.EIO }

// notHere returns why the bytes are not on this disk, from an error of blob.Dir; ok is false if the error is about
// something else.
func notHere(err error) (why string, ok bool) {
	var d *blob.Damage
	switch {
	case errors.As(err, &d):
		return "damaged on this node's disk (" + d.Why + ")", true
	case errors.Is(err, fs.ErrNotExist):
		return "not on this node's disk", true
	}
	return "", false
}

// doubt reports to a node that it has sent wrong bytes. The node hashes its copy; if the copy is damaged, the node
// stops serving it and fetches the right bytes.
func (s *Store) doubt(node, digest string) {
	s.tasks.Background(func() {
		ctx, cancel, ok := s.peers.Alive(s.life, node)
		if !ok {
			return
		}
		defer cancel()
		_, err := s.peers.Ask(ctx, http.MethodPost, node, "/doubt/"+digest, http.NoBody)
		if err != nil && s.life.Err() == nil {
			s.log.Warn("could not report wrong bytes to the node that sent them", "peer", node, "blob", digest,
				"err", err)
		}
	})
}

// damaged handles each blob that is found to be damaged on this disk. It is fetched from another node, or stays damaged
// until an import or a push brings its bytes.
func (s *Store) damaged(b *blob.Damage) {
	s.log.Error("a blob is damaged on this disk", "blob", b.Digest, "why", b.Why)
	s.scrubs.faults.Add(1)
	d, err := state.ParseDigest(b.Digest)
	if err != nil || s.fetcher == nil {
		return
	}
	if known, ok := s.state.View().Blob(d); ok {
		s.fetcher.markMissing(d, known)
	}
}

// repaired handles each damaged blob whose right bytes have arrived.
func (s *Store) repaired(digest string) {
	s.log.Info("a damaged blob was repaired", "blob", digest)
	s.scrubs.repaired.Add(1)
}

// Damaged is the number of blobs that are known to be damaged on this disk.
func (s *Store) Damaged() int { return len(s.dir.Damaged()) }

// Lost is a blob that this node does not have intact.
type Lost struct {
	Digest string `json:"digest"`
	Why    string `json:"why"`
}

// Lost lists, up to most, the blobs that are damaged on this disk, or missing and could not be fetched, and returns how
// many there are. Clients of this node may not get them until an import or a push brings the bytes. Blobs that are
// being fetched for the first time are not included.
func (s *Store) Lost(most int) (list []Lost, all int) {
	view := s.state.View()
	add := func(digest, why string) {
		if all++; len(list) < most {
			list = append(list, Lost{digest, why})
		}
	}
	seen := map[string]bool{}
	for _, b := range s.dir.Damaged() {
		d, err := state.ParseDigest(b.Digest)
		if _, known := view.Blob(d); err == nil && known {
			seen[b.Digest] = true
			add(b.Digest, "damaged on this node's disk ("+b.Why+")")
		}
	}
	if s.fetcher == nil {
		return list, all
	}
	for _, d := range s.fetcher.unavailable(len(s.state.Others()) == 0) {
		if text := d.String(); !seen[text] {
			add(text, "not on this node's disk")
		}
	}
	return list, all
}
