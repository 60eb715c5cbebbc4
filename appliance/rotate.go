package appliance

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"casemate/appliance/origin"
	"casemate/pki"
)

// rotateRequest is the body of POST /v1/ca/rotate: begin a rotation, finish it, or undo the last of these two.
type rotateRequest struct {
	Permit, Exclude, Drop []string
	Own                   bool // leave an enterprise's CA certificate for a root of our own
	Finish, Undo          bool
	Yes                   bool // although clients may be cut off
}

// rotated is the answer.
type rotated struct {
	Undone pki.Undone `json:"undone,omitempty"`
}

func (a *Appliance) rotate(ctx context.Context, in rotateRequest) (rotated, error) {
	change := pki.Change{Permit: in.Permit, Exclude: in.Exclude, Drop: in.Drop, Own: in.Own, Abrupt: in.Yes}
	if changes := len(in.Permit)+len(in.Exclude)+len(in.Drop) > 0 || in.Own; in.Finish && in.Undo || changes && (in.Finish || in.Undo) {
		return rotated{}, usage("a request begins a rotation, or finishes one, or undoes that: finish, undo and what is changed exclude each other")
	}
	switch {
	case in.Undo:
		what, err := a.ca.Undo(ctx)
		return rotated{what}, err
	case !in.Finish:
		return rotated{}, a.ca.RotateTo(ctx, change)
	}
	if since, overlap := a.ca.Rotation(); overlap && !in.Yes {
		p, err := a.rotation.Progress()
		if err != nil {
			return rotated{}, err
		}
		if err := p.Ready(since, time.Now(), a.now.Load().settings.Overlap); err != nil {
			return rotated{}, err
		}
	}
	return rotated{}, a.ca.FinishRotation(ctx)
}

// rotationSentence says in an overlap how far it is; "" outside of one.
func (a *Appliance) rotationSentence() string {
	since, overlap := a.ca.Rotation()
	if !overlap {
		return ""
	}
	p, err := a.rotation.Progress()
	if err != nil {
		return fmt.Sprintf("two roots are handed out since %s; %v", since.Format(time.RFC3339), err)
	}
	return p.Sentence(since, time.Now(), a.now.Load().settings.Overlap)
}

// requested hears of every request.
func (a *Appliance) requested(service string, r *http.Request, status int, bytes int64, took time.Duration) {
	a.metrics.request(service, r, status, bytes, took)
	if r.TLS != nil {
		a.rotation.Seen(clientOf(r))
	}
	if service == "pages" && r.Method == http.MethodGet && status == http.StatusOK &&
		(r.URL.Path == "/ca.crt" || r.URL.Path == "/enroll") {
		a.rotation.Fetched(clientOf(r))
	}
}

// notPermitted is why names are not enabled, with the command that changes it.
func (a *Appliance) notPermitted(names ...string) string {
	flags := a.ca.Widening(names...).Flags()
	if flags == "" {
		return fmt.Sprintf("the root certificate permits it by now: casemate origin add %s", names[0])
	}
	return fmt.Sprintf("%s: casemate ca rotate %s makes one that permits it, then casemate origin add %s",
		origin.NotPermitted, flags, names[0])
}

// unpermitted is an origin that cannot be added. It is neither the request's fault nor ours (409): the state of the CA
// is against it.
type unpermitted string

func (u unpermitted) Error() string        { return string(u) }
func (u unpermitted) Is(target error) bool { return target == fs.ErrExist }
