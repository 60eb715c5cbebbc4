package rpm

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
)

// The stored copy of a repository is read like that of the publisher, once and without looking for the cause elsewhere.
// Without keys nothing is verified; with them the signature of each package is, too.
func TestStored(t *testing.T) {
	const primary = host + "repodata/primary.xml.gz"
	other := func(r *rpmRepo) { r.key = newKey("x") }
	noKeys := func(o *Options) { o.Keyrings = nil }
	spoiled := func(url, old, text string) func(*site) {
		return func(s *site) { s.files[url] = bytes.Replace(s.files[url], []byte(old), []byte(text), 1) }
	}
	removed := func(url string) func(*site) { return func(s *site) { delete(s.files, url) } }
	for _, c := range []struct {
		name   string
		change func(r *rpmRepo)
		spoil  func(s *site)
		option func(o *Options)
		want   string // in the error; "": it is right
		// unchecked says that the signature of the package is not checked, verdict what is said of it; "": it is good.
		unchecked bool
		verdict   string
	}{
		{name: "right"},
		{name: "without keys", option: noKeys, unchecked: true},
		{name: "signed by another key, without keys", change: other, option: noKeys, unchecked: true},
		{name: "unsigned, without keys", change: unsigned, option: noKeys, unchecked: true},
		{name: "tampered with, without keys", spoil: spoiled(repomdURL, "<revision>", "<revision>1"), option: noKeys,
			unchecked: true},
		{name: "signed by another key", change: other, want: "not among the given keys"},
		{name: "signed by another key, allowed", change: other, option: allow, unchecked: true},
		{name: "unsigned", change: unsigned, want: "it is not signed"},
		{name: "tampered with", spoil: spoiled(repomdURL, "<revision>", "<revision>1"), want: "is not good"},
		{name: "a package signed by another key", spoil: func(s *site) {
			for url := range s.files {
				if strings.HasSuffix(url, ".rpm") {
					s.files[url] = rpmFile("a", parseEVR("1-1"), "x86_64", newKey("x"))
				}
			}
		}, verdict: "not among the given keys"},
		{name: "a package without a signature", spoil: func(s *site) {
			for url := range s.files {
				if strings.HasSuffix(url, ".rpm") {
					s.files[url] = rpmFile("a", parseEVR("1-1"), "x86_64", nil)
				}
			}
		}, verdict: "it is not signed"},
		{name: "no repomd.xml", spoil: removed(repomdURL), want: "is not stored here: import a bundle of it"},
		{name: "no index", spoil: removed(primary), want: "repomd.xml lists " + primary + ", which is not stored here"},
		{name: "another index", spoil: func(s *site) { s.files[primary] = gz("<metadata/>") },
			want: primary + " is not the file that repomd.xml lists"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, r := newSite(), newRepo(pkg("a", "1-1"))
			if c.change != nil {
				c.change(r)
			}
			r.publish(s)
			if c.spoil != nil {
				c.spoil(s)
			}
			opt := options(t, aRepo("repo_gpgcheck=1"), "a")
			if opt.Stored = true; c.option != nil {
				c.option(&opt)
			}
			res, err := Collect(context.Background(), s, opt)
			if first := slices.Index(s.asked, repomdURL); slices.Contains(s.asked[first+1:], repomdURL) {
				t.Error("the repository is read again")
			}
			if c.want != "" {
				source := (*ospackages.SourceError)(nil)
				if !errors.As(err, &source) || !strings.Contains(err.Error(), c.want) ||
					strings.Contains(err.Error(), "try again later") {
					t.Fatalf("got %v, want %q of a source", err, c.want)
				}
				return
			}
			if err != nil || names(res) != "a-1-1" {
				t.Fatalf("got %v, %v", res, err)
			}
			i := slices.IndexFunc(res.Files, func(f lists.File) bool { return strings.HasSuffix(f.URL, ".rpm") })
			check := res.Files[i].Check
			if (check == nil) != c.unchecked || res.Suites[0].Checked == c.unchecked {
				t.Fatalf("checked: %v, and said to be: %v", check != nil, res.Suites[0].Checked)
			}
			if check == nil {
				return
			}
			err = check(bytes.NewReader(s.files[res.Files[i].URL]))
			if (err == nil) != (c.verdict == "") || err != nil && !strings.Contains(err.Error(), c.verdict) {
				t.Errorf("the package: %v, want %q", err, c.verdict)
			}
		})
	}
}
