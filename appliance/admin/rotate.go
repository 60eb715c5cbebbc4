package admin

import (
	"context"
	"time"

	"casemate/appliance/usage"
	"casemate/pki"
)

// rotateRequest is the body of POST /v1/ca/rotate: begin a rotation, finish it, or undo the last of these steps.
type rotateRequest struct {
	Permit, Exclude, Drop []string
	Own                   bool // replace an enterprise's CA certificate by our own root
	Finish, Undo          bool
	Yes                   bool // even if clients may be cut off
}

// rotated is the response.
type rotated struct {
	Undone pki.Undone `json:"undone,omitempty"`
}

func (a *API) rotate(ctx context.Context, in rotateRequest) (rotated, error) {
	change := pki.Change{Permit: in.Permit, Exclude: in.Exclude, Drop: in.Drop, Own: in.Own, Abrupt: in.Yes}
	if changes := len(in.Permit)+len(in.Exclude)+len(in.Drop) > 0 || in.Own; in.Finish && in.Undo || changes &&
		(in.Finish || in.Undo) {
		return rotated{}, usage.Errorf("a request begins, finishes or undoes a rotation: finish, undo and changes " +
			"exclude each other")
	}
	switch {
	case in.Undo:
		what, err := a.CA.Undo(ctx)
		return rotated{what}, err
	case !in.Finish:
		return rotated{}, a.CA.RotateTo(ctx, change)
	}
	if since, overlap := a.CA.Rotation(); overlap && !in.Yes {
		p, err := a.Rotation.Progress()
		if err != nil {
			return rotated{}, err
		}
		if err := p.Ready(since, time.Now(), a.Current.State().Settings.Overlap); err != nil {
			return rotated{}, err
		}
	}
	return rotated{}, a.CA.FinishRotation(ctx)
}
