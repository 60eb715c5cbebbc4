package rpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages/openpgp"
)

// fault is something wrong with a repository.
type fault struct {
	name   string
	change func(r *rpmRepo)
	spoil  func(s *site)
	lines  []string // of the .repo file, beside baseurl
	option func(o *Options)
	want   string // a part of the error; "": there is none
	note   string
}

const repomdURL = host + "repodata/repomd.xml"

var faults = []fault{
	{name: "nothing"},
	{name: "repo_gpgcheck", lines: []string{"repo_gpgcheck=1"}},
	{name: "another key", change: func(r *rpmRepo) { r.key = newKey("x") }, lines: []string{"repo_gpgcheck=1"},
		want: "not among the given keys"},
	{name: "another key, not asked for", change: func(r *rpmRepo) { r.key = newKey("x") }},
	{name: "another key, allowed", change: func(r *rpmRepo) { r.key = newKey("x") }, lines: []string{"repo_gpgcheck=1"},
		option: allow, note: "its signature is not checked"},
	{name: "not signed", change: unsigned, lines: []string{"repo_gpgcheck=1"}, want: "--allow-unsigned " + host},
	{name: "not signed, packages are", change: unsigned},
	{name: "nothing is signed", change: unsigned, lines: []string{"gpgcheck=0"}, want: "--allow-unsigned " + host},
	{name: "nothing is signed, allowed", change: unsigned, lines: []string{"gpgcheck=0"}, option: allow,
		note: "nothing says who made its packages"},
	{name: "no key", option: func(o *Options) { o.Keyrings = nil }, want: "give the publisher's with --keyring"},
	{name: "a key that is not on this machine", lines: []string{"gpgkey=file:///etc/pki/rpm-gpg/KEY"},
		option: func(o *Options) { o.Keyrings = nil }, want: "is not on this machine: give a copy with --keyring"},
	{name: "a key under another directory", lines: []string{
		"gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-publisher"}},
	{name: "a key over http", lines: []string{"gpgkey=http://rpm.example/key"}, option: func(o *Options) {
		o.Keyrings = nil
	}, spoil: func(s *site) { s.files["http://rpm.example/key"] = testKey().public }, want: "is not on this machine"},
	{name: "a key over https", lines: []string{"repo_gpgcheck=1", "gpgkey=https://rpm.example/key"},
		option: func(o *Options) { o.Keyrings = nil },
		spoil:  func(s *site) { s.files["https://rpm.example/key"] = testKey().public }},
	{name: "no repository", spoil: func(s *site) { clear(s.files) }, want: "the repository's address is wrong"},
	{name: "a web page", spoil: func(s *site) { s.files[repomdURL] = []byte("<html>log in</html>") },
		want: "it is a web page"},
	{name: "primary of another generation", spoil: func(s *site) {
		s.files[host+"repodata/primary.xml.gz"] = gz("<metadata/>")
	}, want: "the publisher seems to be changing the repository"},
	{name: "primary is absent", spoil: func(s *site) { delete(s.files, host+"repodata/primary.xml.gz") },
		want: "the server does not have it"},
	{name: "an older one", spoil: func(s *site) {
		newer := newRepo(pkg("a", "1-1"))
		newer.date = today.Add(time.Hour)
		other := newSite()
		newer.publish(other)
		s.last[repomdURL] = other.files[repomdURL]
	}, want: "the mirror lags"},
	{name: "modules that cannot be read", change: func(r *rpmRepo) { r.modules = "{" }, want: "cannot be read"},
}

func allow(o *Options)          { o.AllowUnsigned = []string{host} }
func unsigned(r *rpmRepo)       { r.unsigned = true }
func aRepo(at ...string) string { return repoFile("os", append([]string{"baseurl=" + host}, at...)...) }

func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			s, r := newSite(), newRepo(pkg("a", "1-1"))
			if f.change != nil {
				f.change(r)
			}
			r.publish(s)
			if f.spoil != nil {
				f.spoil(s)
			}
			opt := options(t, aRepo(f.lines...), "a")
			if f.option != nil {
				f.option(&opt)
			}
			res, err := Collect(context.Background(), s, opt)
			switch {
			case f.want == "" && err != nil:
				t.Fatal(err)
			case f.want != "" && (err == nil || !strings.Contains(err.Error(), f.want)):
				t.Fatalf("want %q, got %v", f.want, err)
			case err == nil && !strings.Contains(strings.Join(res.Notes, "\n"), f.note):
				t.Errorf("want the note %q, got %q", f.note, res.Notes)
			}
		})
	}
}

// Everything that repomd.xml names comes along, and the keys that nodes fetch.
func TestWhole(t *testing.T) {
	s, r := newSite(), newRepo(pkg("a", "1-1"))
	r.modules, r.groups = streams, "<comps/>"
	r.publish(s)
	s.files["https://rpm.example/key"] = testKey().public
	res, err := Collect(context.Background(), s, options(t, aRepo("gpgkey=https://rpm.example/key"), "a"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, f := range res.Files {
		have[f.URL] = f.Digest
	}
	for url, content := range s.files {
		if have[url] != digestOf(content) {
			t.Errorf("%s is %q, want %q", url, have[url], digestOf(content))
		}
	}
}

// A repository that changes while it is read is read again.
func TestChanging(t *testing.T) {
	s, changed := newSite(), false
	newRepo(pkg("a", "1-1")).publish(s)
	s.before = func(url string) {
		if strings.HasSuffix(url, "primary.xml.gz") && !changed {
			changed = true
			newRepo(pkg("a", "2-1")).publish(s)
		}
	}
	res, err := Collect(context.Background(), s, options(t, aRepo(), "a"))
	if err != nil || names(res) != "a-2-1" {
		t.Fatalf("got %v, %v", res, err)
	}
}

// The file of each package is checked: its signature, its name, its content.
func TestPackageSignature(t *testing.T) {
	other := newKey("somebody")
	good := rpmFile("a", parseEVR("1:2-3"), "x86_64", testKey())
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	p := &Package{Name: "a", Arch: "x86_64", evr: parseEVR("1:2-3")}
	for name, x := range map[string]struct {
		content []byte
		want    string
	}{
		"good":            {good, ""},
		"another key":     {rpmFile("a", p.evr, "x86_64", other), "not among the given keys"},
		"no signature":    {rpmFile("a", p.evr, "x86_64", nil), "it is not signed"},
		"another package": {rpmFile("b", p.evr, "x86_64", testKey()), "it is the package b-1:2-3"},
		"another version": {rpmFile("a", parseEVR("2-3"), "x86_64", testKey()), "it is the package a-2-3"},
		"payload":         {flip(len(good) - 1), "not what its signed header says"},
		"header":          {flip(len(good) - len("payload of a1:2-3x86_64") - 3), "is not good"},
		"a web page":      {[]byte("<html>"), "it is not an RPM package"},
		"half":            {good[:200], "it ends in"},
		"nothing":         {nil, "it is not an RPM package"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkSignature(bytes.NewReader(x.content), p, testKey().keyring(t).Keyring, today)
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("want %q, got %v", x.want, err)
			}
		})
	}
}

// gpgcheck decides whether packages are checked.
func TestPackagesAreChecked(t *testing.T) {
	for line, want := range map[string]bool{"gpgcheck=1": true, "": true, "gpgcheck=0": false} {
		s := newSite()
		newRepo(pkg("a", "1-1")).publish(s)
		res, err := Collect(context.Background(), s, options(t, aRepo(line), "a"))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(res.Files, func(f lists.File) bool { return strings.HasSuffix(f.URL, ".rpm") })
		if got := res.Files[i].Check != nil; got != want || res.Suites[0].Checked != want {
			t.Errorf("%q: checked %v, want %v", line, got, want)
		}
		if want {
			err := res.Files[i].Check(bytes.NewReader(s.files[res.Files[i].URL]))
			if err != nil {
				t.Error(err)
			}
		}
	}
}

const (
	metalinkURL = "https://mirrors.example/metalink?repo=os-9&arch=x86_64"
	listURL     = "https://mirrors.example/list?repo=os-9&arch=x86_64"
)

// metalink is a document of mirrors with the sum of a repomd.xml.
func metalink(repomd []byte, bases ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<metalink version="3.0" xmlns="http://www.metalinker.org/" xmlns:mm0="http://x/"><files>
<file name="repomd.xml"><mm0:timestamp>1</mm0:timestamp><size>1</size><verification><hash type="md5">x</hash>
<hash type="sha256">%x</hash></verification><resources maxconnections="1">
<url protocol="rsync" type="rsync">rsync://x/repodata/repomd.xml</url>`, sha256.Sum256(repomd))
	for _, base := range bases {
		fmt.Fprintf(&b, `<url protocol="https" location="DE" preference="100">%srepodata/repomd.xml</url>`, base)
	}
	return []byte(b.String() + "</resources></file></files></metalink>")
}

// Of the mirrors the first that can be used is read; nodes get the document that bastions generate for that one.
func TestMirrors(t *testing.T) {
	const second, third = "https://second.example/os/", "https://third.example/os/"
	for _, x := range []struct {
		name, line string
		document   func(repomd []byte) []byte
		last       string // the mirror of an earlier run
		want       string // the mirror
	}{
		{name: "metalink", line: "metalink=https://mirrors.example/metalink?repo=os-$releasever&arch=$basearch",
			document: func(b []byte) []byte { return metalink(b, host, second, third) }, want: second},
		{name: "mirrorlist", line: "mirrorlist=" + listURL,
			document: func([]byte) []byte {
				return []byte("# mirrors\nftp://x/\n" + host + "\nhttps://gone.example/os\n" +
					strings.TrimRight(second, "/") + "\n")
			}, want: second},
		{name: "the mirror of an earlier run", line: "metalink=" + metalinkURL,
			document: func(b []byte) []byte { return metalink(b, host, second, third) },
			last:     third, want: third},
	} {
		t.Run(x.name, func(t *testing.T) {
			s, a := newSite(), pkg("a", "1-1")
			for _, base := range []string{host, second, third} {
				r := newRepo(a)
				r.base = base
				r.publish(s)
			}
			s.files[metalinkURL] = x.document(s.files[repomdURL])
			if x.last != "" {
				s.last[x.last+"repodata/repomd.xml"] = s.files[x.last+"repodata/repomd.xml"]
			}
			s.files[listURL] = s.files[metalinkURL]
			res, err := Collect(context.Background(), s, options(t, repoFile("os", x.line), "a"))
			if err != nil {
				t.Fatal(err)
			}
			kind, from := "metalink", metalinkURL
			if strings.HasPrefix(x.line, "mirrorlist") {
				kind, from = "mirrorlist", listURL
			}
			to := x.want + "repodata/repomd.xml." + kind
			if len(res.Redirects) != 1 || res.Redirects[0].From != from || res.Redirects[0].To != to {
				t.Errorf("got %v, want a redirect of %s to %s", res.Redirects, from, to)
			}
			for _, f := range res.Files {
				if strings.HasPrefix(f.URL, "https://mirrors.") {
					t.Errorf("the publisher's document %s comes along", f.URL)
				}
			}
		})
	}
}

// A mirror that has another repomd.xml than the metalink lists is not used.
func TestLaggingMirror(t *testing.T) {
	s, lagging := newSite(), newRepo(pkg("a", "1-1"))
	lagging.base = "https://lags.example/"
	lagging.publish(s)
	newRepo(pkg("a", "2-1")).publish(s)
	s.files[metalinkURL] = metalink(s.files[repomdURL], lagging.base, host)
	res, err := Collect(context.Background(), s, options(t, repoFile("os", "metalink="+metalinkURL), "a"))
	if err != nil || names(res) != "a-2-1" {
		t.Fatalf("got %v, %v", res, err)
	}
	if notes := strings.Join(res.Notes, "\n"); !strings.Contains(notes, "is not the file that the metalink lists") {
		t.Errorf("the notes should say why: %s", notes)
	}
}

// Packages may be outside of the repository's directory.
func TestLocations(t *testing.T) {
	for href, want := range map[string]string{
		"Packages/a.rpm": host + "Packages/a.rpm", "../../pool/a.rpm": "http://rpm.example/pool/a.rpm",
		"https://cdn.example/a.rpm": "https://cdn.example/a.rpm", "a+b~c^d:1.rpm": host + "a+b~c%5Ed:1.rpm",
		"a%zz.rpm": host + "a%25zz.rpm", "": "", "file:///etc/passwd": "",
		"../../../../../a.rpm": "http://rpm.example/a.rpm",
	} {
		got, err := resolve(host, "", href)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", href, got, err, want)
		}
	}
	if got, _ := resolve(host, "https://cdn.example/x", "a.rpm"); got != "https://cdn.example/x/a.rpm" {
		t.Errorf("xml:base gives %q", got)
	}
}

func TestUnavailable(t *testing.T) {
	s := newSite()
	newRepo(pkg("a", "1-1", "Requires: b"), pkg("b", "1-1", "Requires: libgone.so()(64bit)"),
		pkg("c", "1-1")).publish(s)
	res, err := Collect(context.Background(), s, options(t, aRepo(), "a", "zzz", "c=9", "c"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range res.Unavailable {
		got = append(got, u.Where+": "+u.Name+": "+u.Err.Error())
	}
	want := []string{
		"p.list:1: package a: a-1-1.x86_64 needs b, b-1-1.x86_64 needs libgone.so()(64bit), no repository provides " +
			"libgone.so()(64bit)",
		"p.list:2: package zzz: no repository has it",
		"p.list:3: package c=9: the repositories have it only as 1-1.x86_64",
	}
	if !slices.Equal(got, want) || names(res) != "c-1-1" {
		t.Errorf("got %q and %s", got, names(res))
	}
}

func FuzzParsers(f *testing.F) {
	s, r := newSite(), newRepo(pkg("a", "1-1", "Requires: (b or c)", "File: /bin/x"))
	r.publish(s)
	f.Add(s.files[repomdURL])
	f.Add([]byte("<metadata>" + r.packages[0].xml() + "</metadata>"))
	f.Add(metalink(nil, host))
	f.Add([]byte(streams))
	f.Add([]byte("[a]\nbaseurl=http://x/$basearch\n  http://y\n"))
	f.Add(r.packages[0].content)
	f.Add([]byte("((a and b) or (c with d < 1))"))
	f.Add([]byte("a-1-1.x86_64\n"))
	keys := &openpgp.Keyring{}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRepomd(b, host); err == nil && r.find("primary") == nil {
			t.Error("a repomd.xml without primary is taken")
		}
		_, _ = parseMetalink(b)
		_, _ = parseMirrorlist(b)
		_ = newPool().readPrimary(bytes.NewReader(b), func(p *Package) error {
			if p.Name == "" || p.digest == "" || p.size <= 0 {
				t.Error("a package without a name, a digest or a size is taken")
			}
			newUniverse([]*Package{p}, nil).sort()
			return nil
		})
		_ = readFilelists(bytes.NewReader(b), func(string) bool { return true }, func(string, string) {})
		var m modules
		_ = m.read(bytes.NewReader(b))
		m.enabled(nil)
		repos := Repos{}
		repos.Read("x", bytes.NewReader(b))
		if e, err := parseExpr(string(b)); err == nil {
			e.leaves(func(d *dep) { _ = d.String() })
		}
		if _, err := ReadInstalled(bytes.NewReader(b)); err == nil && !IsInstalled(b) {
			t.Log("only later lines are packages")
		}
		if checkSignature(io.LimitReader(bytes.NewReader(b), 1<<20), &Package{}, keys, today) == nil {
			t.Error("a package without a key is taken")
		}
	})
}
