package replica

import (
	"errors"
	"io"
	"net/http"
	"os"
	"syscall"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// Handle registers the requests of other nodes about blobs:
//
//	PUT  blob[/DIGEST]     bytes → answer: the index at which they were confirmed durable. Without a digest in the
//	path it
//	                       comes as the trailer Digest.
//	GET  blob/DIGEST       the bytes, with ranges, if the blob is intact on this disk; HEAD too
//	POST confirm/DIGEST    → answer as for PUT, or 404
//	POST doubt/DIGEST      → answer, after the blob on this disk was hashed: the requester received wrong bytes
func (s *Store) Handle(mux *http.ServeMux) {
	mux.HandleFunc("PUT /blob", s.serveCopy)
	mux.HandleFunc("PUT /blob/{digest}", s.serveCopy)
	mux.HandleFunc("GET /blob/{digest}", s.serveBlob)
	mux.HandleFunc("POST /confirm/{digest}", s.serveConfirm)
	mux.HandleFunc("POST /doubt/{digest}", s.serveDoubt)
}

func (s *Store) serveConfirm(w http.ResponseWriter, r *http.Request) {
	index, err := s.Confirm(r.PathValue("digest"))
	// the requester sends the bytes, which repairs the blob
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, blob.ErrDamaged) {
		peer.Reply(w, peer.Answer{Kind: peer.KindNotExist, Error: err.Error()})
		return
	}
	if err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindFailed, Error: err.Error()})
		return
	}
	peer.Reply(w, peer.Answer{Index: index})
}

// digestTrailer is the trailer with the digest of a blob whose digest was unknown when its bytes began to arrive.
const digestTrailer = "Digest"

func (s *Store) serveCopy(w http.ResponseWriter, r *http.Request) {
	index, err := s.takeCopy(r)
	switch {
	case err == nil:
		peer.Reply(w, peer.Answer{Index: index})
	case errors.Is(err, syscall.ENOSPC):
		peer.Reply(w, peer.Answer{Kind: peer.KindNoSpace, Error: err.Error()})
	case errors.Is(err, syscall.EBADMSG):
		peer.Reply(w, peer.Answer{Kind: peer.KindBadBytes, Error: err.Error()})
	default:
		peer.Reply(w, peer.Answer{Kind: peer.KindFailed, Error: err.Error()})
	}
}

// takeCopy stores the bytes of another node's upload. If no AddBlob follows, the blob is an orphan and the next GC
// removes it.
func (s *Store) takeCopy(r *http.Request) (uint64, error) {
	digest := r.PathValue("digest")
	if digest != "" {
		if _, _, err := blob.ParseDigest(digest); err != nil {
			return 0, err
		}
		if index, err := s.Confirm(digest); err == nil {
			return index, nil // small blobs are sent without asking
		}
		// Meanwhile the blob is not fetched, although the state may know it already.
		defer s.Receive(digest)()
	}
	w, err := s.dir.Create("")
	if err != nil {
		return 0, err
	}
	defer w.Close()
	if _, err := io.Copy(w, r.Body); err != nil {
		return 0, err
	}
	if digest == "" {
		digest = r.Trailer.Get(digestTrailer)
		if _, _, err := blob.ParseDigest(digest); err != nil {
			return 0, err
		}
		defer s.Receive(digest)()
	}
	if _, _, err := w.Place(digest); err != nil { // hashed here (promise 5)
		return 0, err
	}
	index, err := s.Confirm(digest)
	if err == nil {
		w.Done()
	}
	return index, err
}

func (s *Store) serveBlob(w http.ResponseWriter, r *http.Request) {
	f, err := s.openLocal(r.PathValue("digest"))
	if _, ok := notHere(err); ok || errors.Is(err, os.ErrInvalid) {
		peer.Reply(w, peer.Answer{Kind: peer.KindNotExist, Error: err.Error()})
		return
	}
	if err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindFailed, Error: err.Error()})
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (s *Store) serveDoubt(w http.ResponseWriter, r *http.Request) {
	digest := r.PathValue("digest")
	d, err := state.ParseDigest(digest)
	if err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindInvalid, Error: err.Error()})
		return
	}
	if _, known := s.state.View().Blob(d); known {
		s.dir.Verify(r.Context(), digest) // damaged handles the result
	}
	peer.Reply(w, peer.Answer{})
}
