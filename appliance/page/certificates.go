package page

import (
	"net/http"
	"strings"
	"time"
)

// certificateActions are the actions of the page about certificates.
var certificateActions = map[string]action{
	"cert-issue": {
		title: "Issue a certificate", button: "Issue the certificate", verb: "operate", method: http.MethodPost,
		path: "/v1/certs", back: "/certificates", command: "casemate cert issue --name {names}", show: "certificate",
		note: "For another service inside the gap. Without a request (CSR) the key is made here, and shown once.",
		fields: []field{
			{name: "names", label: "Names and addresses, one a line", kind: "lines", list: true, optional: true,
				help: "Empty: those of the request."},
			{name: "csr", label: "Certificate request (CSR), PEM", kind: "lines", optional: true,
				help: "Then the key stays where it is."},
		},
	},
	"cert-revoke": {
		title: "Revoke a certificate", button: "Revoke the certificate", verb: "operate", method: http.MethodPost,
		path: "/v1/certs/{serial}/revoke", removes: true, back: "/certificates",
		command: "casemate cert revoke {serial}", fields: []field{{name: "serial", kind: "hidden"}},
	},
}

// certificate is an issued certificate: GET /v1/certs.
type certificate struct {
	Serial    string
	Names     []string
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Revoked   time.Time
}

// certificatesPage shows the certificates that were issued for other services.
func certificatesPage(c *call) (view, error) {
	certs, err := table(c, list[certificate]{
		Name: "certificates", Title: "Issued certificates", Path: "/v1/certs", Paged: true,
		Command: "casemate cert list",
		Head:    []string{"Names", "State", "Valid from (UTC)", "Valid until (UTC)", "Serial"},
		Row:     func(v certificate) []Cell { return certificateRow(c, v) },
		Empty: "No certificates were issued for other services. Those of the bastions are made and renewed " +
			"automatically.",
	})
	if err != nil {
		return view{}, err
	}
	return view{Command: "casemate cert list", Live: []string{"tree"},
		Parts: []part{certs, c.offers(actionLink("Issue a certificate", "cert-issue"))}}, nil
}

func certificateRow(c *call, v certificate) []Cell {
	state, now := Cell{Text: "valid", Class: "good"}, c.p.cfg.Now()
	switch {
	case !v.Revoked.IsZero():
		state = Cell{Text: "revoked", Class: "bad", More: when(v.Revoked)}
	case now.After(v.NotAfter):
		state = Cell{Text: "expired", Class: "bad"}
	case v.NotAfter.Sub(now) < 30*24*time.Hour:
		state = Cell{Text: "valid", Class: "warn", More: "for " + sinceText(v.NotAfter.Sub(now))}
	}
	row := []Cell{text(strings.Join(v.Names, " ")), state, at(v.NotBefore), at(v.NotAfter), code(v.Serial)}
	if v.Revoked.IsZero() {
		row = append(row, c.offer(actionLink("Revoke", "cert-revoke", "serial", v.Serial)))
	} else {
		row = append(row, Cell{})
	}
	return row
}
