package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"casemate/appliance/usage"
	"casemate/pki"
)

// rotateRequest is the body of POST /v1/ca/rotate: begin a rotation, finish it, or undo the last of these steps.
type rotateRequest struct {
	Permit  []string `json:"permit,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	Drop    []string `json:"drop,omitempty"`
	Own     bool     `json:"own,omitempty"` // replace an enterprise's CA certificate by our own root
	Finish  bool     `json:"finish,omitempty"`
	Undo    bool     `json:"undo,omitempty"`
	Yes     bool     `json:"yes,omitempty"` // even if clients may be cut off
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
	if !in.Yes {
		if err := a.readyToFinish(); err != nil {
			return rotated{}, err
		}
	}
	return rotated{}, a.CA.FinishRotation(ctx)
}

// readyToFinish refuses to finish a rotation that would cut off clients.
func (a *API) readyToFinish() error {
	since, overlap := a.CA.Rotation()
	if !overlap {
		return nil
	}
	p, err := a.Rotation.Progress()
	if err != nil {
		return err
	}
	return p.Ready(since, time.Now(), a.Current.State().Settings.Overlap)
}

// rootToRemove lists the root that finishing a rotation drops. It fails where finishing would be refused.
func (a *API) rootToRemove(r *http.Request) (*Removal, error) {
	var in rotateRequest
	if err := read(r, &in); err != nil {
		return nil, err
	}
	if !in.Finish {
		return nil, usage.Errorf("only the end of a rotation (finish) removes a root: there is no dry run of other " +
			"steps")
	}
	root, err := a.CA.FinishDrops()
	if err == nil && !in.Yes {
		err = a.readyToFinish()
	}
	if err != nil {
		return nil, err
	}
	p, err := a.Rotation.Progress()
	if err != nil {
		return nil, err
	}
	out := &Removal{Notes: []string{fmt.Sprintf("%d clients have fetched the new root; for 30 days the step can be "+
		"undone", p.Fetched)}}
	out.add("root certificate", root, 0)
	for _, c := range p.Waiting {
		out.Notes = append(out.Notes, c.String()+" was here lately and has not fetched the new root")
	}
	return out, nil
}
