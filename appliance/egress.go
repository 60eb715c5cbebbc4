package appliance

import (
	"net/http"
	"net/netip"
	"path/filepath"

	"casemate/appliance/clientconn"
	"casemate/appliance/clients"
	"casemate/appliance/egress"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/setup"
	"casemate/dnssrv"
)

func (a *Appliance) openEgress() (err error) {
	a.egress, err = egress.Open(egress.Config{
		File: filepath.Join(a.cfg.Data, setup.EgressFile), Node: a.cfg.Node, Tree: a.tree.Sub("egress"),
		Now: a.opt.Now, Publish: publishBooks, Log: a.log.With("room", "egress"),
	})
	return err
}

// asked records what became of questions that DNS has counted.
func (a *Appliance) asked(list []dnssrv.Sighting) {
	verdicts := map[dnssrv.Verdict]string{dnssrv.Answered: egress.Answered, dnssrv.Forwarded: egress.Forwarded,
		dnssrv.Refused: egress.Refused}
	v := a.current.State()
	for _, s := range list {
		verdict := verdicts[s.Verdict]
		if verdict == egress.Forwarded && !a.rehearsal.forwarded(v.Settings, s.Name) {
			if verdict = egress.Refused; v.CertNames[s.Name] {
				verdict = egress.Answered
			}
		}
		a.egress.Note(s.Client, egress.DNS, s.Name, verdict, s.Count)
		a.clients.Asked(s.Client)
	}
}

// refusedTLS records a handshake for a name that has no certificate here.
func (a *Appliance) refusedTLS(client netip.Addr, name string) {
	a.miss(missing.TLS, name, "", client)
	a.egress.Note(client, egress.TLS, name, egress.Refused, 1)
	a.clients.Failed(client, clients.HTTPS, "TLS handshake for "+origin.Fold(name)+": the name is not served here")
}

// used records the host of a request. Those that no service has answered are refused.
func (a *Appliance) used(service string, r *http.Request) {
	kind, verdict := egress.HTTP, egress.Answered
	if r.TLS != nil {
		kind = egress.TLS
	}
	if service == "none" {
		verdict = egress.Refused
	}
	a.egress.Note(clientconn.AddrOf(r), kind, origin.Fold(r.Host), verdict, 1)
}

// unasked records a handshake without a request: the client does not trust the certificate, only looks whether the name
// answers, or speaks another protocol than HTTP.
func (a *Appliance) unasked(name string, client netip.Addr) {
	a.egress.Note(client, egress.Handshake, origin.Fold(name), egress.Answered, 1)
	a.clients.Handshake(client)
}
