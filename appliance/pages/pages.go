// Package pages serves what programs read at the bastions' own names and addresses, besides images and files: the root
// certificates, revocation lists, health, and what nodes need to enrol and to diagnose faults.
package pages

import (
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"casemate/appliance/nodeconf"
	"casemate/appliance/reply"
)

// Pages serves <domain>, <node>.<domain> and addresses.
type Pages struct {
	Roots      func() []byte                           // PEM
	Revocation func(id string) (der []byte, err error) // fs.ErrNotExist if there is no such list
	Ready      func() error                            // nil: this node serves
	Metrics    http.Handler
	Site       func() (nodeconf.Site, error) // for the enrolment of nodes
	Samples    *Samples                      // content for casemate doctor
	Executable *Executable                   // this program
}

// ServeHTTP implements http.Handler.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		reply.Refuse(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "these pages are read-only")
		return
	}
	switch path := r.URL.Path; {
	case path == "/ca.crt":
		reply.Send(w, r, "application/x-pem-file", p.Roots())
	case strings.HasPrefix(path, "/crl/") && strings.HasSuffix(path, ".crl"):
		der, err := p.Revocation(strings.TrimSuffix(strings.TrimPrefix(path, "/crl/"), ".crl"))
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid):
			reply.Refuse(w, r, http.StatusNotFound, "", "there is no such revocation list")
		case err != nil:
			reply.Refuse(w, r, http.StatusServiceUnavailable, "", "the revocation list is temporarily unavailable")
		default:
			reply.Send(w, r, "application/pkix-crl", der)
		}
	case path == "/healthz":
		reply.Send(w, r, "text/plain; charset=utf-8", []byte("ok\n"))
	case path == "/readyz":
		if err := p.Ready(); err != nil {
			reply.Refuse(w, r, http.StatusServiceUnavailable, "", err.Error())
			return
		}
		reply.Send(w, r, "text/plain; charset=utf-8", []byte("ok\n"))
	case path == "/site.json":
		p.serveSite(w, r)
	case path == "/doctor.json":
		p.serveSample(w, r)
	case path == "/casemate":
		p.Executable.ServeHTTP(w, r)
	case path == "/enroll":
		p.serveEnroll(w, r)
	case path == "/metrics":
		p.Metrics.ServeHTTP(w, r)
	default:
		reply.Refuse(w, r, http.StatusNotFound, "", "this page does not exist; / lists the pages")
	}
}
