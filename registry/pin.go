package registry

import (
	"net/http"
	"sync"
	"time"

	"casemate/cluster/tree"
)

const (
	// pinAgain is how long a layer that a pusher asked for is not pinned again: half of the tree's pin time of an hour.
	pinAgain = 30 * time.Minute
	// maxPins bounds the remembered pins.
	maxPins = 1 << 16
)

// pins renews the pins of layers that a client is about to use in a new manifest, and remembers which were deleted.
//
// A client that pushes first asks for each layer, and does not send those that exist. If only a deleted image held the
// layer, a collection between that answer and the manifest would make the push fail for a layer that existed a moment
// ago. So the answer to a pusher pins.
type pins struct {
	mu      sync.Mutex
	pinned  map[string]time.Time // by the link's name
	deleted map[string]time.Time // by the link's name
}

// due reports whether the link's pin should be renewed, and records that it is.
func (k *pins) due(name string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t, ok := k.pinned[name]; ok && now.Sub(t) < pinAgain && !now.Before(t) {
		return false
	}
	if k.pinned == nil || len(k.pinned) >= maxPins {
		k.pinned = map[string]time.Time{}
	}
	k.pinned[name] = now
	return true
}

func (k *pins) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pinned, name)
}

// drop records that a client deleted the link: it stays deleted until it is pushed or mounted again, or pinAgain has
// passed.
func (k *pins) drop(name string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.deleted == nil || len(k.deleted) >= maxPins {
		k.deleted = map[string]time.Time{}
	}
	k.deleted[name] = now
	delete(k.pinned, name)
}

func (k *pins) wasDeleted(name string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, ok := k.deleted[name]
	return ok && now.Sub(t) < pinAgain && !now.Before(t)
}

// pinForPush pins the layer that a pusher's HEAD asks for. If only other repositories have it, it gets a name in this
// repository, as by a mount: a user who may push may read, and need not send what exists. It never fails the request:
// without a majority now, the manifest could not be pushed now either.
func (r *Registry) pinForPush(req *http.Request, rt *route) {
	name := layerPath(rt.repo, rt.digest)
	if !r.pushing(req, rt) {
		return
	}
	held := true
	if _, err := statLink(r.tree, name); err != nil {
		held = false
		if _, err := r.tree.HasBlob(req.Context(), rt.digest.String()); err != nil || r.pins.wasDeleted(name, r.now()) {
			return
		}
		r.pins.forget(name)
	}
	if !r.pins.due(name, r.now()) {
		return
	}
	// Reading needs no credentials where anonymous reads are allowed, so they have not been checked.
	account, _, _, fail := r.credentials(req)
	readsAll := r.cfg.Anonymous() || account != nil && account.May(actionPull, "")
	if fail != nil || account == nil || !account.May(actionPush, rt.repo) || !held && !readsAll {
		r.pins.forget(name)
		return
	}
	if err := r.nameBlob(tree.WithActor(req.Context(), account.Actor), rt.repo, rt.digest); err != nil {
		r.pins.forget(name)
		r.log.Debug("a layer could not be pinned for a push", "repository", rt.repo, "digest", rt.digest, "err", err)
	}
}
