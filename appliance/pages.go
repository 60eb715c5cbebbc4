package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
)

// pages are what <domain>, <node>.<domain> and addresses show besides images and files.
type pages struct {
	roots   func() []byte
	crl     func(id string) ([]byte, error)
	ready   func() error // nil: this node serves
	metrics http.Handler
	front   func() frontPage
	site    http.HandlerFunc // what nodes have to know
	sample  http.HandlerFunc // what casemate doctor may try with
	binary  http.Handler     // this program
	enroll  http.HandlerFunc // the script that does it
}

// listsURL is the directory of the revocation lists: plain HTTP, because who checks a certificate has no certificate to
// trust yet (RFC 5280, 8).
func listsURL(domain string) string { return "http://" + domain + "/crl/" }

// frontPage is what people see at /.
type frontPage struct {
	Node, Domain string
	Resolvers    []string
	Origins      []string
}

func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, r, http.StatusMethodNotAllowed, "UNSUPPORTED", "these pages are for reading")
		return
	}
	switch path := r.URL.Path; {
	case path == "/":
		p.serveFront(w, r)
	case path == "/ca.crt":
		send(w, r, "application/x-pem-file", p.roots())
	case strings.HasPrefix(path, "/crl/") && strings.HasSuffix(path, ".crl"):
		der, err := p.crl(strings.TrimSuffix(strings.TrimPrefix(path, "/crl/"), ".crl"))
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid):
			refuse(w, r, http.StatusNotFound, "", "there is no such revocation list")
		case err != nil:
			refuse(w, r, http.StatusServiceUnavailable, "", "the revocation list cannot be had now")
		default:
			send(w, r, "application/pkix-crl", der)
		}
	case path == "/healthz":
		send(w, r, "text/plain; charset=utf-8", []byte("ok\n"))
	case path == "/readyz":
		if err := p.ready(); err != nil {
			refuse(w, r, http.StatusServiceUnavailable, "", err.Error())
			return
		}
		send(w, r, "text/plain; charset=utf-8", []byte("ok\n"))
	case path == "/site.json":
		p.site(w, r)
	case path == "/doctor.json":
		p.sample(w, r)
	case path == "/casemate":
		p.binary.ServeHTTP(w, r)
	case path == "/enroll":
		p.enroll(w, r)
	case path == "/metrics":
		p.metrics.ServeHTTP(w, r)
	default:
		refuse(w, r, http.StatusNotFound, "", "there is nothing here; / says what there is")
	}
}

func send(w http.ResponseWriter, r *http.Request, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

var frontTemplate = template.Must(template.New("front").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Casemate {{.Node}}</title>
<style>body{font-family:sans-serif;max-width:44em;margin:2em auto;line-height:1.5}code,pre{background:#eee;padding:.1em .3em}</style></head><body>
<h1>Casemate</h1>
<p>This is {{.Node}}.{{.Domain}}, the internet that a cluster needs. A node needs two things: this resolver and this certificate.</p>
<ul>
<li>Resolver: {{range .Resolvers}}<code>{{.}}</code> {{end}}</li>
<li>Certificate: <a href="/ca.crt">/ca.crt</a>, to be put into the node's trust store</li>
<li>Both at once: the line that <code>casemate enroll</code> prints on a bastion</li>
<li><a href="/files/">Files</a> by their upstream address, images by their upstream name or below <code>registry.{{.Domain}}</code></li>
<li><a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a></li>
</ul>
<h2>Origins that are answered here</h2>
<p>{{range .Origins}}<code>{{.}}</code> {{end}}</p>
</body></html>
`))

func (p *pages) serveFront(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	if err := frontTemplate.Execute(&b, p.front()); err != nil {
		refuse(w, r, http.StatusInternalServerError, "", fmt.Sprintf("the page cannot be made: %v", err))
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	send(w, r, "text/html; charset=utf-8", []byte(b.String()))
}

func jsonString(s string) []byte {
	data, _ := json.Marshal(s) // a string can always be written
	return data
}
