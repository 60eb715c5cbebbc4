package status

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/forecast"
	"casemate/cluster"
	"casemate/pki"
)

// The soonest are first, what has ended is left out, and there are no more than an operator reads.
func TestSoonest(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	list := []Expiry{{"root", "r", now.AddDate(10, 0, 0), ""}, {"join token", "b", now.Add(time.Hour), ""},
		{"API key", "a", now.Add(time.Hour), ""}, {"API key", "ended", now, ""}, {"API key", "old", now.Add(-1), ""}}
	got := fmt.Sprint(names(soonest(list, now)))
	if want := "[a b r]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for i := range 100 {
		list = append(list, Expiry{"API key", fmt.Sprint("k", i), now.Add(time.Duration(i+1) * time.Minute), ""})
	}
	if got := soonest(list, now); len(got) != mostExpiries || got[0].Name != "k0" {
		t.Errorf("%d: %v", len(got), names(got))
	}
	if got := soonest(nil, now); got == nil {
		t.Error("an empty list must be [] as JSON")
	}
}

func names(list []Expiry) (names []string) {
	for _, e := range list {
		names = append(names, e.Name)
	}
	return names
}

// Keys of logins end by themselves and are not in the list, nor are keys without an end.
func TestExpiringKeys(t *testing.T) {
	end := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	got := expiringKeys([]access.Key{{Name: "robot", Expires: end}, {Name: "forever"},
		{Name: "login-x", Owner: "ann", Expires: end}})
	if len(got) != 1 || got[0].Name != "robot" || !got[0].At.Equal(end) ||
		!strings.Contains(got[0].Cure, "casemate apikey create") {
		t.Errorf("%+v", got)
	}
}

// A certificate's cure depends on whose key signs it; one that decides about connections has the cure of status.
func TestCureOf(t *testing.T) {
	begin := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	root := pki.Expiry{Kind: "root", Name: "r", NotBefore: begin, NotAfter: begin.AddDate(10, 0, 0)}
	served := []pki.Served{{Owner: pki.OwnerEnterprise, NotBefore: root.NotBefore, NotAfter: root.NotAfter}}
	if got := cureOf(root, served, pki.OwnerRoot); !strings.Contains(got, "pki.issuer") {
		t.Errorf("an enterprise's root: %s", got)
	}
	if got := cureOf(root, nil, pki.OwnerRoot); !strings.Contains(got, "casemate ca rotate") {
		t.Errorf("an own root: %s", got)
	}
}

// A disk is a warning when it will be full soon and that is sure enough; a full one is a problem already.
func TestDiskWarnings(t *testing.T) {
	day := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	of := func(days float64, sure bool) Member {
		return Member{cluster.Member{Node: "n1"}, &forecast.Forecast{Days: days, Sure: sure, Since: day,
			Full: day.Add(time.Duration(days * 24 * float64(time.Hour)))}}
	}
	for _, c := range []struct {
		m    Member
		want string
	}{
		{Member{}, ""}, {of(14, true), ""}, {of(0, true), ""}, {of(5, false), ""},
		{of(13.9, true), "in 13 days, on 2026-05-18, at the rate since 2026-05-04"},
		{of(1.5, true), "in 1 day, "}, {of(.4, true), "within a day, "},
	} {
		got := strings.Join(diskWarnings([]Member{c.m}), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.m.Forecast, got, c.want)
		}
	}
}

// Serial numbers of issued certificates are for those who may list certificates.
func TestCertificatesByRole(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ends := []pki.Expiry{{Kind: "root", NotAfter: now.AddDate(9, 0, 0)}, {Kind: "issued", Name: "0123", NotAfter: now},
		{Kind: "issued", Name: "4567", NotAfter: now.AddDate(0, 1, 0)},
		{Kind: "host", Name: "dl.k8s.io", NotAfter: now.Add(time.Hour)}}
	for inspect, want := range map[bool]string{
		true: "root issued 0123 host dl.k8s.io ", false: "root host dl.k8s.io ",
	} {
		got := ""
		for _, c := range certificates(ends, now, inspect) {
			got += c.Name + " "
		}
		if got != want {
			t.Errorf("inspect %v: %s", inspect, got)
		}
	}
}
