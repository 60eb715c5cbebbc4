package deb

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/openpgp"
)

// The stored copy of a suite is read like that of the publisher, once and without looking for the cause elsewhere.
func TestStored(t *testing.T) {
	const index = "main/binary-amd64/Packages"
	for _, c := range []struct {
		name   string
		spoil  func(s *site)
		option func(o *Options)
		want   string // in the error; "": it is right
	}{
		{name: "right"},
		{name: "without keys", option: func(o *Options) { o.Keyrings = nil }},
		{name: "signed by another key, without keys", option: func(o *Options) { o.Keyrings = nil },
			spoil: func(s *site) {
				at := host + "/dists/stable/InRelease"
				text, _, _ := openpgp.Clearsigned(s.files[at], &openpgp.Keyring{}, today)
				s.files[at] = newKey("other").clearsign(append(text, '\n'))
			}},
		{name: "unsigned, without keys", option: func(o *Options) { o.Keyrings = nil }, spoil: unsigned},
		{name: "unsigned", spoil: unsigned, want: "it is not signed"},
		{name: "tampered with", spoil: replaced("InRelease", "Example", "Exomple"), want: "is not good"},
		{name: "no Release file", spoil: func(s *site) { delete(s.files, host+"/dists/stable/InRelease") },
			want: "/dists/stable/InRelease nor Release is stored here: import a bundle of it"},
		{name: "no index", spoil: func(s *site) { delete(s.files, host+"/dists/stable/"+index+".gz") },
			want: "the Release file lists " + index + ", which is not stored here"},
		{name: "another index", spoil: func(s *site) { s.files[host+"/dists/stable/"+index+".gz"] = []byte("x") },
			want: index + ".gz is not the file that the Release file lists"},
		{name: "expired", want: "expired on", spoil: func(s *site) {
			resign(s, func(text string) string { return text + "Valid-Until: " + rfc(today.AddDate(0, 0, -1)) + "\n" })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := stable(nil)
			if c.spoil != nil {
				c.spoil(s)
			}
			opt := options(t, stableSource, "a")
			if opt.Stored = true; c.option != nil {
				c.option(&opt)
			}
			res, err := Collect(context.Background(), s, opt)
			if c.want == "" {
				if err != nil || labels(res) != "a=1" {
					t.Fatalf("got %v, %v", res, err)
				}
				return
			}
			source := (*ospackages.SourceError)(nil)
			if !errors.As(err, &source) || !strings.Contains(err.Error(), c.want) ||
				strings.Contains(err.Error(), "try again later") {
				t.Fatalf("got %v, want %q of a source", err, c.want)
			}
			first := slices.IndexFunc(s.asked, func(u string) bool { return strings.HasSuffix(u, "/InRelease") })
			if again := slices.IndexFunc(s.asked[first+1:], func(u string) bool {
				return strings.HasSuffix(u, "/InRelease")
			}); again >= 0 {
				t.Error("the suite is read again")
			}
		})
	}
}

// What was chosen is described, so that a gap can be named.
func TestPackagesAreDescribed(t *testing.T) {
	s := newSite()
	newDist("stable", pkg("a", "1:2", "Depends: b"), pkg("b:all", "3")).publish(s)
	res, err := Collect(context.Background(), s, options(t, stableSource, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]ospackages.Package{
		host + "/pool/main/a_1%253a2_amd64.deb": {Name: "a", Version: "1:2", Arch: "amd64",
			Repository: host + " stable", Why: "requested"},
		host + "/pool/main/b_3_all.deb": {Name: "b", Version: "3", Arch: "all", Repository: host + " stable",
			Why: "needed by a (b)"},
	} {
		if got := res.Packages[url]; got != want {
			t.Errorf("%s is %+v, want %+v (of %v)", url, got, want, res.Packages)
		}
	}
}

// A package that only some installations need is left out with a note if no source has it, or something that it needs.
func TestOptionalPackages(t *testing.T) {
	s := newSite()
	newDist("stable", pkg("a", "1"), pkg("broken", "1", "Depends: nothing")).publish(s)
	opt := options(t, stableSource, "a")
	for _, name := range []string{"none", "broken"} {
		opt.Packages = append(opt.Packages, lists.Package{Name: name, Where: "roles/x.yml:1", Optional: true})
	}
	res, err := Collect(context.Background(), s, opt)
	if err != nil || len(res.Unavailable) > 0 || labels(res) != "a=1" {
		t.Fatalf("got %v, %v", res, err)
	}
	for _, want := range []string{"the package none is left out, because no source has it",
		"the package broken is left out, because broken:amd64 1 needs nothing"} {
		if !strings.Contains(strings.Join(res.Notes, "\n"), want) {
			t.Errorf("notes %q, want %q", res.Notes, want)
		}
	}
}

// A signature that --allow-unsigned overrules is recorded with the reason.
func TestUnverified(t *testing.T) {
	for _, form := range []struct {
		name, document string
		spoil          func(*site)
	}{{"inline", "InRelease", func(*site) {}}, {"detached", "Release", detached}} {
		t.Run(form.name, func(t *testing.T) {
			s := stable(nil)
			form.spoil(s)
			opt := options(t, stableSource, "a")
			opt.Keyrings = []ospackages.NamedKeyring{{Name: "other.asc", Keyring: newOther(t)}}
			allow(&opt)
			res, err := Collect(context.Background(), s, opt)
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Unverified) != 1 || res.Unverified[0].URL != host+"/dists/stable/"+form.document ||
				!strings.Contains(res.Unverified[0].Why, "which is not among the given keys") {
				t.Errorf("got %v", res.Unverified)
			}
		})
	}
}
