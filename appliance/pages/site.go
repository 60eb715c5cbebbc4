package pages

import (
	"encoding/json"
	"net/http"

	"casemate/appliance/reply"
)

// serveSite is GET /site.json: what a node may know about the bastions before it trusts them.
func (p *Pages) serveSite(w http.ResponseWriter, r *http.Request) {
	s, err := p.Site()
	if err != nil {
		reply.Refuse(w, r, http.StatusServiceUnavailable, "", err.Error())
		return
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		reply.Refuse(w, r, http.StatusInternalServerError, "", err.Error())
		return
	}
	reply.Send(w, r, "application/json", append(data, '\n'))
}

// serveEnroll is GET /enroll: the script for nodes, the same bytes from every bastion.
func (p *Pages) serveEnroll(w http.ResponseWriter, r *http.Request) {
	s, err := p.Site()
	if err != nil {
		reply.Refuse(w, r, http.StatusServiceUnavailable, "", err.Error())
		return
	}
	script, err := s.Script()
	if err != nil {
		reply.Refuse(w, r, http.StatusInternalServerError, "", err.Error())
		return
	}
	reply.Send(w, r, "text/x-shellscript; charset=utf-8", []byte(script))
}

// serveSample is GET /doctor.json.
func (p *Pages) serveSample(w http.ResponseWriter, r *http.Request) {
	found, err := p.Samples.get(r.Context(), p.Samples.Find)
	if err != nil {
		return // the client has gone
	}
	data, err := json.MarshalIndent(found, "", "  ")
	if err != nil {
		reply.Refuse(w, r, http.StatusInternalServerError, "", err.Error())
		return
	}
	reply.Send(w, r, "application/json", append(data, '\n'))
}
