package status

import (
	"fmt"
	"time"

	"casemate/pki"
)

// endsSoon is how long before its end a certificate of the served chain is a warning.
const endsSoon = 30 * 24 * time.Hour

// chainSentences returns what an operator should know about the dates of the certificates that every new connection
// depends on. What stops connections now is a problem; what will do so is a warning.
func chainSentences(served []pki.Served, now time.Time) (problems, warnings []string) {
	for _, s := range served {
		who := "clients refuse every new TLS connection to this cluster"
		if s.Old {
			who = "clients that trust only the old root refuse every new TLS connection"
		}
		switch left := s.NotAfter.Sub(now); {
		case now.Before(s.NotBefore):
			problems = append(problems, fmt.Sprintf("the certificate %s is valid from %s on, and the clock of this "+
				"node shows %s: if that clock is wrong, set it; if it is right, the certificate was made while a "+
				"clock was ahead, and %s: %s", s.Subject, stamp(s.NotBefore), stamp(now), who, cure(s)))
		case left < 0:
			problems = append(problems, fmt.Sprintf("the certificate %s ended on %s, so %s: %s", s.Subject,
				stamp(s.NotAfter), who, cure(s)))
		case left < endsSoon:
			warnings = append(warnings, fmt.Sprintf("the certificate %s ends on %s (in %d days); after that %s: %s",
				s.Subject, stamp(s.NotAfter), int(left/(24*time.Hour)), who, cure(s)))
		}
	}
	return problems, warnings
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// cure returns what replaces a certificate of the served chain; that depends on whose key signs it.
func cure(s pki.Served) string {
	switch {
	case s.Old:
		return "install the new root on them (casemate ca), then run casemate ca rotate --finish"
	case s.Owner == pki.OwnerEnterprise:
		return "it belongs to your enterprise's CA: have it renewed there, and set the renewed certificates and " +
			"the key with casemate config set pki.issuer"
	case s.Owner == pki.OwnerRoot:
		return "run casemate ca rotate, install the new root on every client (casemate ca), then run casemate ca " +
			"rotate --finish"
	}
	return "casemate replaces it by itself as long as a majority of the nodes is connected; the log says why it has " +
		"not (journalctl -u casemate)"
}
