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

// lost is the error for a blob that the tree knows and whose bytes cannot be had: damage, which must not look like a
// miss. It is syscall.EIO.
type lost struct {
	digest string
	why    string // "not on this node's disk", "damaged on this node's disk (…)"
	alone  bool   // there is no other node to ask
}

// Error implements error.
func (e *lost) Error() string {
	elsewhere := ", nor whole on another node"
	if e.alone {
		elsewhere = ""
	}
	return fmt.Sprintf("blob %s: known, but %s%s: import or push it again", e.digest, e.why, elsewhere)
}

// Is makes it syscall.EIO.
func (e *lost) Is(target error) bool { return target == syscall.EIO }

// notHere says why the bytes are not on this disk, given the error of blob.Dir; ok is false for an error that says
// nothing of the blob.
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

// doubt tells a node that it has sent wrong bytes. It looks, and if that is so, no longer gives them to anybody and
// fetches the right ones.
func (s *Store) doubt(node, digest string) {
	s.tasks.Background(func() {
		ctx, cancel, ok := s.peers.Alive(s.life, node)
		if !ok {
			return
		}
		defer cancel()
		_, err := s.peers.Ask(ctx, http.MethodPost, node, "/doubt/"+digest, http.NoBody)
		if err != nil && s.life.Err() == nil {
			s.log.Warn("a node that sent wrong bytes could not be told", "peer", node, "blob", digest, "err", err)
		}
	})
}

// damaged hears of each blob that is found to be damaged on this disk. It is fetched from another node, or waits until
// somebody brings its bytes.
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

// repaired hears of each damaged blob whose right bytes have come.
func (s *Store) repaired(digest string) {
	s.log.Info("a damaged blob is whole again", "blob", digest)
	s.scrubs.repaired.Add(1)
}

// Damaged is how many blobs are damaged on this disk, as far as is known.
func (s *Store) Damaged() int { return len(s.dir.Damaged()) }

// Lost is a blob that this node does not have whole.
type Lost struct {
	Digest string `json:"digest"`
	Why    string `json:"why"`
}

// Lost lists blobs that are damaged on this disk, or that it does not have and could not fetch, at most so many, and
// says how many there are: what clients of this node may not get until somebody brings the bytes. What is on its way is
// not among them.
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
