// Package pages serves the bastions' own names and addresses, except for images and files: a page for people, the
// root certificates, revocation lists, health, and what nodes need to enrol and to diagnose faults.
package pages

import (
	"errors"
	"fmt"
	"html/template"
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
	Front      func() Front
	Site       func() (nodeconf.Site, error) // for the enrolment of nodes
	Samples    *Samples                      // content for casemate doctor
	Executable *Executable                   // this program
}

// Front is the content of the page for people.
type Front struct {
	Node, Domain string
	Resolvers    []string // addresses
	Origins      []string // hosts
}

// ServeHTTP implements http.Handler.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		reply.Refuse(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "these pages are read-only")
		return
	}
	switch path := r.URL.Path; {
	case path == "/":
		p.serveFront(w, r)
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

var frontTemplate = template.Must(template.New("front").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Casemate {{.Node}}</title>
<style>body{font-family:sans-serif;max-width:44em;margin:2em auto;line-height:1.5}
code,pre{background:#eee;padding:.1em .3em}</style></head><body>
<h1>Casemate</h1>
<p>This is {{.Node}}.{{.Domain}}, which stands in for the Internet in an air-gapped network.
A node needs this resolver and this certificate.</p>
<ul>
<li>Resolver: {{range .Resolvers}}<code>{{.}}</code> {{end}}</li>
<li>Certificate: <a href="/ca.crt">/ca.crt</a>, to be added to the node's trust store</li>
<li>To set up both: the line that <code>casemate enroll</code> prints on a bastion</li>
<li><a href="/files/">Files</a> by their upstream address,
images by their upstream name or below <code>registry.{{.Domain}}</code></li>
<li><a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a></li>
</ul>
<h2>Origins that are answered here</h2>
<p>{{range .Origins}}<code>{{.}}</code> {{end}}</p>
</body></html>
`))

func (p *Pages) serveFront(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	if err := frontTemplate.Execute(&b, p.Front()); err != nil {
		reply.Refuse(w, r, http.StatusInternalServerError, "", fmt.Sprintf("the page cannot be generated: %v", err))
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	reply.Send(w, r, "text/html; charset=utf-8", []byte(b.String()))
}
