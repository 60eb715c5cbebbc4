package status

import (
	"strings"
	"testing"
	"time"

	"casemate/pki"
)

// TestChainSentences: every owner, before, at and after each end, has the right weight and the right cure.
func TestChainSentences(t *testing.T) {
	now := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for _, owner := range []struct {
		name, cure string
		old        bool
	}{
		{pki.OwnerRoot, "run casemate ca rotate,", false},
		{pki.OwnerEnterprise, "casemate config set pki.issuer", false},
		{pki.OwnerSelf, "journalctl -u casemate", false},
		{pki.OwnerRoot, "casemate ca rotate --finish", true},
	} {
		for _, c := range []struct {
			from, to         time.Duration
			problem, warning string
		}{
			{-day, 31 * day, "", ""},
			{-day, 30*day - time.Second, "", "ends on 2030-07-01"},
			{-day, time.Second, "", "(in 0 days)"},
			{-day, -time.Second, "ended on 2030-06-01", ""},
			{-day, -400 * day, "ended on 2029-04-27", ""},
			{time.Second, 400 * day, "is valid from 2030-06-01", ""},
		} {
			problems, warnings := chainSentences([]pki.Served{{Subject: "CN=X", Owner: owner.name, Old: owner.old,
				NotBefore: now.Add(c.from), NotAfter: now.Add(c.to)}}, now)
			for _, of := range []struct {
				got  []string
				want string
			}{{problems, c.problem}, {warnings, c.warning}} {
				text := strings.Join(of.got, "\n")
				if (of.want == "") != (text == "") || !strings.Contains(text, of.want) {
					t.Errorf("%s %v: %q, want %q", owner.name, c, text, of.want)
				}
				if text != "" && (!strings.Contains(text, owner.cure) || !strings.Contains(text, "CN=X")) {
					t.Errorf("%s %v: %q does not have the cure %q", owner.name, c, text, owner.cure)
				}
			}
		}
	}
}
