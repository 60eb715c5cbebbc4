package appliance

import (
	"context"
	"errors"

	"casemate/appliance/admin"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/rehearsal"
	"casemate/appliance/upstream"
	"casemate/appliance/usage"
	"casemate/pki"
)

const (
	maxLearning = 256  // names that wait to be learnt
	maxLearnt   = 2000 // origins of a rehearsal
)

// learner makes origins of names that clients asked for, while an install is rehearsed.
type learner struct {
	book  *rehearsal.Book
	names chan string
}

func (a *Appliance) openRehearsal() error {
	if a.opt.Rehearsal == "" {
		return nil
	}
	domain := a.current.State().Settings.Domain
	if domain != pki.LabDomain {
		return usage.Errorf("the domain of a rehearsal is %s, got %s: begin one in an empty directory", pki.LabDomain,
			domain)
	}
	book, err := rehearsal.Open(rehearsal.Config{Path: a.opt.Rehearsal, Domain: domain,
		Log: a.log.With("room", "rehearsal")})
	if err != nil {
		return err
	}
	a.rehearsal = &learner{book: book, names: make(chan string, maxLearning)}
	return nil
}

// transcript returns the record for the admin API, nil if there is none.
func (a *Appliance) transcript() admin.Transcript {
	if a.rehearsal == nil {
		return nil
	}
	return a.rehearsal.book
}

// fetched is called at the end of each fetch.
func (l *learner) fetched(e upstream.Event) {
	if l != nil && e.Kind == "file" && e.Err == nil && e.Digest != "" {
		l.book.Fetched(e.Name, e.Digest, e.Size)
	}
}

// missing is called for each name that clients did not get. It does not wait.
func (l *learner) missing(kind, name string) {
	if l == nil || kind != missing.DNS && kind != missing.TLS && kind != missing.Host {
		return
	}
	select {
	case l.names <- origin.Fold(name):
	default: // it is asked again
	}
}

// learn makes origins of public names. It is the only goroutine that does so: the client that asks first gets no
// address, and asks again.
func (a *Appliance) learn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case name := <-a.rehearsal.names:
			_, known := a.current.State().Origins.Get(name)
			if known || origin.Check(name) != nil || len(a.current.State().OriginHosts) >= maxLearnt {
				continue
			}
			switch err := a.ca.Permits(name); {
			case errors.Is(err, pki.ErrNotPermitted):
				a.log.Warn("a name is not learnt: the root of this rehearsal does not permit it", "name", name)
				continue
			case err != nil:
				return err
			}
			if _, err := a.changes.AddOrigin(ctx, name, nil); err != nil && ctx.Err() == nil {
				a.log.Warn("a name is not learnt", "name", name, "err", err)
			}
		}
	}
}
