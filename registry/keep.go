package registry

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// keepTime is how long a layer that was asked for by a pusher is not pinned again: half of the tree's pin time of
	// an hour.
	keepTime = 30 * time.Minute
	// maxKept bounds what is remembered of pins.
	maxKept = 1 << 16
)

// keeper renews the pins of layers that somebody is about to use in a new manifest, and knows which ones were deleted.
//
// Who pushes asks for each layer first and does not send what is there. If nothing but a deleted image held the layer,
// a collection between that answer and the manifest would make the push fail for a layer that was there a moment ago.
// So the answer to a pusher pins.
type keeper struct {
	mu      sync.Mutex
	kept    map[string]time.Time // by the link's name
	deleted map[string]time.Time // by the link's name
}

// due reports whether the link's pin should be renewed, and takes note that it is.
func (k *keeper) due(name string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t, ok := k.kept[name]; ok && now.Sub(t) < keepTime && !now.Before(t) {
		return false
	}
	if k.kept == nil || len(k.kept) >= maxKept {
		k.kept = map[string]time.Time{}
	}
	k.kept[name] = now
	return true
}

func (k *keeper) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.kept, name)
}

// drop notes that a client deleted the link: until it is pushed or mounted again, or keepTime has passed, it stays
// away.
func (k *keeper) drop(name string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.deleted == nil || len(k.deleted) >= maxKept {
		k.deleted = map[string]time.Time{}
	}
	k.deleted[name] = now
	delete(k.kept, name)
}

func (k *keeper) wasDeleted(name string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, ok := k.deleted[name]
	return ok && now.Sub(t) < keepTime && !now.Before(t)
}

// keep pins the layer that a pusher's HEAD asks for. If only other repositories have it, it gets a name in this one, as
// by a mount: who may push may read, and need not send what is here. It never fails the request: without a majority
// now, the manifest could not be pushed now either.
func (r *Registry) keep(req *http.Request, rt *route) {
	name := layerPath(rt.repo, rt.digest)
	if !r.pushing(req, rt) {
		return
	}
	if _, _, err := r.digestOf(name); err != nil {
		if _, err := r.tree.HasBlob(req.Context(), rt.digest.String()); err != nil || r.keeper.wasDeleted(name, r.now()) {
			return
		}
		r.keeper.forget(name)
	}
	if !r.keeper.due(name, r.now()) {
		return
	}
	// A token has been looked at; a password has not, as reading needs none.
	if scheme, _, _ := strings.Cut(req.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Basic") {
		user, password, ok := req.BasicAuth()
		if !ok || r.authenticate(req, user, password) != nil {
			r.keeper.forget(name)
			return
		}
	}
	if err := r.nameBlob(req.Context(), rt.repo, rt.digest); err != nil {
		r.keeper.forget(name)
		r.log.Debug("a layer could not be pinned for a push", "repository", rt.repo, "digest", rt.digest, "error", err)
	}
}
