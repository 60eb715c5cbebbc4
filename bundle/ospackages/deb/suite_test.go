package deb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/openpgp"
)

// stable is a suite with one package on a site of its own.
func stable(change func(d *dist)) *site {
	s := newSite()
	d := newDist("stable", pkg("a", "1"))
	if change != nil {
		change(d)
	}
	d.publish(s)
	return s
}

const stableSource = "deb " + host + " stable main\n"

// fault is something wrong with a repository.
type fault struct {
	name   string
	change func(d *dist)
	spoil  func(s *site)
	source string
	option func(o *Options)
	want   string // a part of the error; "": there is none
	note   string
}

var faults = []fault{
	{name: "nothing"},
	{name: "another key", change: func(d *dist) { d.key = newKey("somebody") }, want: "not among the given keys"},
	{name: "another key, allowed", change: func(d *dist) { d.key = newKey("somebody") }, option: allow,
		note: "its signature is not checked"},
	{name: "no key is known", option: func(o *Options) { o.Keyrings = nil },
		want: "give the publisher's with --keyring"},
	{name: "no key is known, allowed", option: func(o *Options) { o.Keyrings = nil; allow(o) },
		note: "its signature is not checked"},
	{name: "a changed byte of the text", spoil: replaced("InRelease", "Origin: Example", "Origin: Exbmple"),
		want: "InRelease: the signature of key"},
	{name: "text before the signed part", spoil: func(s *site) {
		s.files[host+"/dists/stable/InRelease"] = append([]byte("SHA256:\n"),
			s.files[host+"/dists/stable/InRelease"]...)
	}, want: "outside of the part that is signed"},
	{name: "text behind the signed part", spoil: func(s *site) {
		s.files[host+"/dists/stable/InRelease"] = append(s.files[host+"/dists/stable/InRelease"], "SHA256:\n"...)
	}, want: "outside of the part that is signed"},
	{name: "a login page", spoil: func(s *site) { s.files[host+"/dists/stable/InRelease"] = []byte("<html>") },
		want: "it is no signed document"},
	{name: "no such suite", spoil: func(s *site) { clear(s.files) }, want: "the source's URI or suite is wrong"},
	{name: "Release without a signature", spoil: unsigned, want: "it is not signed: --allow-unsigned " + host},
	{name: "Release without a signature, allowed", spoil: unsigned, option: allow, note: "it is not signed"},
	{name: "Release with a signature beside it", spoil: detached},
	{name: "Release with the signature of another text", spoil: func(s *site) {
		detached(s)
		s.files[host+"/dists/stable/Release.gpg"] = testKey().detach([]byte("another"))
	}, want: "try again later"},
	{name: "expired", change: header("Valid-Until: " + rfc(today.AddDate(0, 0, -1))),
		want: "expired on 2025-06-14T12:00:00Z, so apt on nodes refuses it"},
	{name: "expired, which the source allows", change: header("Valid-Until: " + rfc(today.AddDate(0, 0, -1))),
		source: "deb [check-valid-until=no] " + host + " stable main\n"},
	{name: "not yet expired", change: header("Valid-Until: " + rfc(today.AddDate(0, 0, 1)))},
	{name: "of the future", change: header("Date: " + rfc(today.AddDate(0, 0, 1))), want: "which is in the future"},
	{name: "no date that can be read", change: header("Date: yesterday"), want: `"yesterday" is not a date`},
	{name: "older than the last one", spoil: lastOf(today.AddDate(0, 0, 1)), want: "somebody withholds updates"},
	{name: "newer than the last one", spoil: lastOf(today.AddDate(0, 0, -1))},
	{name: "another suite", change: func(d *dist) { d.head = []string{"Suite: testing", "Codename: trixie"} },
		note: "its Release file is the one of trixie (testing)"},
	{name: "weak sums only", spoil: func(s *site) {
		resign(s, func(t string) string {
			return strings.Replace(t,
				"SHA256:", "MD5Sum:", 1)
		})
	},
		want: "MD5 and SHA1 sums only"},
	{name: "no sums", spoil: func(s *site) {
		resign(s, func(t string) string {
			t, _, _ = strings.Cut(t,
				"SHA256:")
			return t
		})
	},
		want: "it lists no indices with SHA256 sums"},
	{name: "a path out of the repository", spoil: func(s *site) {
		resign(s, func(t string) string { return strings.Replace(t, " main/binary-arm64", " ../main/binary-arm64", 1) })
	}, want: "leads out of the repository"},
	{name: "an index that was changed", spoil: func(s *site) {
		s.files[host+"/dists/stable/main/binary-amd64/Packages.gz"] = compress(".gz", []byte("Package: evil\n"))
	}, want: "main/binary-amd64/Packages.gz is not the file that the Release file lists"},
	{name: "an index that is absent", spoil: func(s *site) {
		delete(s.files, host+"/dists/stable/main/binary-amd64/Packages.gz")
	}, want: "but the server does not have it (main/binary-amd64/Packages.gz, main/binary-amd64/Packages)"},
	{name: "a component that does not exist", source: "deb " + host + " stable man\n",
		want: "it does not have the component man, only main"},
	{name: "an architecture that does not exist", source: "deb [arch=amd64,riscv64] " + host + " stable main\n",
		note: "it has no packages for riscv64, only for amd64, arm64, i386"},
	{name: "a bomb", change: func(d *dist) {
		d.indices["main/binary-amd64/Packages"] = "Package: a\nDescription: " + strings.Repeat("a", 1<<20) + "\n"
		d.plainSums = false
	}, want: "it expands to more than its repository says"},
	{name: "a package without a sum", change: func(d *dist) {
		d.indices["main/binary-amd64/Packages"] = "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: a\nSize: 1\n"
	}, want: "line 1: the package a has no SHA256"},
	{name: "a package with a weak sum", change: func(d *dist) {
		d.indices["main/binary-amd64/Packages"] = "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: a\nSize: " +
			"1\n" +
			"MD5sum: 00000000000000000000000000000000\n"
	}, want: "the package a has MD5 and SHA1 sums only"},
	{name: "a package outside of the repository", change: func(d *dist) {
		d.indices["main/binary-amd64/Packages"] = strings.Replace(pkg("a", "1"), "pool/main", "pool/../../../etc", 1)
	}, want: `the package a has the file name "pool/../../../etc`},
	{name: "a package of another architecture", change: func(d *dist) {
		d.indices["main/binary-amd64/Packages"] = pkg("a:arm64", "1")
	}, want: "the package a is for arm64"},
	{name: "an index that is no control file", change: func(d *dist) {
		d.indices["main/binary-amd64/Packages"] = "<html>\n"
	}, want: `"<html>" is not a field`},
}

func allow(o *Options) { o.AllowUnsigned = []string{host + "/"} }

func header(h ...string) func(*dist) { return func(d *dist) { d.head = h } }

// unsigned turns InRelease into a Release file.
func unsigned(s *site) {
	text, _, _ := openpgp.Clearsigned(s.files[host+"/dists/stable/InRelease"], &openpgp.Keyring{}, today)
	delete(s.files, host+"/dists/stable/InRelease")
	s.files[host+"/dists/stable/Release"] = append(text, '\n')
}

func detached(s *site) {
	unsigned(s)
	s.files[host+"/dists/stable/Release.gpg"] = testKey().detach(s.files[host+"/dists/stable/Release"])
}

// resign changes the text of InRelease, with a good signature.
func resign(s *site, change func(string) string) {
	text, _, _ := openpgp.Clearsigned(s.files[host+"/dists/stable/InRelease"], &openpgp.Keyring{}, today)
	s.files[host+"/dists/stable/InRelease"] = testKey().clearsign([]byte(change(string(text)) + "\n"))
}

func replaced(file, old, with string) func(*site) {
	return func(s *site) {
		at := host + "/dists/stable/" + file
		s.files[at] = []byte(strings.Replace(string(s.files[at]), old, with, 1))
	}
}

// lastOf remembers a Release file of a date from an earlier run.
func lastOf(date interface{ Format(string) string }) func(*site) {
	return func(s *site) {
		s.last[host+"/dists/stable/InRelease"] = []byte("Date: " + date.Format("Mon, 02 Jan 2006 15:04:05") +
			" UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 0 x\n")
	}
}

func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			s := stable(f.change)
			if f.spoil != nil {
				f.spoil(s)
			}
			source := f.source
			if source == "" {
				source = stableSource
			}
			opt := options(t, source, "a")
			if f.option != nil {
				f.option(&opt)
			}
			res, err := Collect(context.Background(), s, opt)
			switch {
			case f.want != "":
				if err == nil || !strings.Contains(err.Error(), f.want) || !strings.HasPrefix(err.Error(),
					"sources.list:1: ") {
					t.Fatalf("got %v, want %q", err, f.want)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			if got := labels(res); got != "a=1" {
				t.Errorf("collected %q", got)
			}
			if notes := strings.Join(res.Notes, "\n"); !strings.Contains(notes, f.note) || f.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, f.note)
			}
		})
	}
}

// A publisher that changes the suite while it is read is read again from InRelease, a few times.
func TestChangingSuite(t *testing.T) {
	for _, changes := range []int{0, 1, 2, 3} {
		t.Run(fmt.Sprint(changes), func(t *testing.T) {
			s := stable(nil)
			n := 0
			s.before = func(url string) {
				if strings.HasSuffix(url, "Packages.gz") && n < changes {
					n++
					newDist("stable", pkg("a", fmt.Sprint(n+1))).publish(s)
				}
			}
			res, err := Collect(context.Background(), s, options(t, stableSource, "a"))
			if changes >= maxAttempts {
				if err == nil || !strings.Contains(err.Error(), "seems to be changing the suite: try again later") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := labels(res), fmt.Sprintf("a=%d", changes+1); got != want {
				t.Errorf("collected %s, want %s", got, want)
			}
		})
	}
}

// With by-hash the old generation of an index is still there while the publisher changes the suite.
func TestByHash(t *testing.T) {
	s := newSite()
	d := newDist("stable", pkg("a", "1"))
	d.head = []string{"Acquire-By-Hash: yes"}
	d.publish(s)
	content := s.files[host+"/dists/stable/main/binary-amd64/Packages.gz"]
	s.files[host+"/dists/stable/main/binary-amd64/by-hash/SHA256/"+strings.TrimPrefix(digestOf(content),
		"sha256:")] = content
	s.files[host+"/dists/stable/main/binary-amd64/Packages.gz"] = []byte("the next generation")
	res, err := Collect(context.Background(), s, options(t, stableSource, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := urls(res); !slices.Contains(got, host+"/dists/stable/main/binary-amd64/Packages.gz") {
		t.Errorf("the index keeps its plain name: %v", got)
	}
}

func urls(r *ospackages.Result) (list []string) {
	for _, f := range r.Files {
		list = append(list, f.URL)
	}
	return list
}

// Which indices come along, and in which form.
func TestIndices(t *testing.T) {
	s := newSite()
	d := newDist("stable", pkg("a", "1"))
	d.indices["main/i18n/Translation-en"] = "Package: a\n"
	d.indices["main/i18n/Translation-de"] = "Package: a\n"
	d.indices["main/cnf/Commands-amd64"] = "x"
	d.indices["main/dep11/Components-amd64.yml"] = "x"
	d.indices["main/dep11/icons-48x48.tar"] = "x"
	d.indices["main/Contents-amd64"] = "x"
	d.indices["main/source/Sources"] = "x"
	d.indices["main/binary-all/Packages"] = ""
	d.indices["contrib/binary-amd64/Packages"] = ""
	d.forms["main/binary-amd64/Packages"] = []string{"", ".gz", ".xz"}
	d.forms["main/i18n/Translation-en"] = []string{""}
	d.publish(s)
	base := host + "/dists/stable/"
	usual := []string{"InRelease", "main/binary-amd64/Packages.xz", "main/cnf/Commands-amd64.gz",
		"main/dep11/Components-amd64.yml.gz", "main/i18n/Translation-en"}
	for source, more := range map[string][]string{
		"deb " + host + " stable main":                                   nil,
		"deb [lang=de,en] " + host + " stable main":                      {"main/i18n/Translation-de.gz"},
		"deb [target+=Contents-deb] " + host + " stable main":            {"main/Contents-amd64.gz"},
		"deb [target+=DEP-11-icons-small] " + host + " stable main":      {"main/dep11/icons-48x48.tar.gz"},
		"deb [arch=amd64,i386] " + host + " stable main":                 {"main/binary-i386/Packages.gz"},
		"deb " + host + " stable main\ndeb " + host + " stable main":     nil,
		"deb " + host + " stable main\ndeb-src " + host + " stable main": nil,
	} {
		res, err := Collect(context.Background(), s, options(t, source, "a"))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{host + "/pool/main/a_1_amd64.deb"}
		for _, name := range append(slices.Clone(usual), more...) {
			want = append(want, base+name)
		}
		slices.Sort(want)
		got := urls(res)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", source, got, want)
		}
	}
}

// Where the Release file names "all" among the architectures, apt asks for the index of that too.
func TestIndexOfAll(t *testing.T) {
	for _, no := range []bool{false, true} {
		s := newSite()
		d := newDist("stable", pkg("a", "1"), pkg("b:all", "1"))
		d.head = []string{"Architectures: all amd64"}
		if no {
			d.head = append(d.head, "No-Support-for-Architecture-all: Packages")
		}
		d.indices["main/binary-all/Packages"] = pkg("c:all", "1")
		d.publish(s)
		res, err := Collect(context.Background(), s, options(t, stableSource, "*"))
		if err != nil {
			t.Fatal(err)
		}
		want := "a=1 b=1 c=1"
		if no {
			want = "a=1 b=1"
		}
		if got := labels(res); got != want {
			t.Errorf("without support %v: got %s, want %s", no, got, want)
		}
	}
}

// A flat repository has its Release file in the directory itself, and file names are relative to the URI.
func TestFlatRepository(t *testing.T) {
	for source, base := range map[string]string{
		"deb " + host + " ./":     host + "/",
		"deb " + host + "/ /":     host + "/",
		"deb " + host + " sub/":   host + "/sub/",
		"deb " + host + " ./sub/": host + "/sub/",
	} {
		s := newSite()
		d := newDist("", strings.Replace(pkg("a", "1"), "Filename: ", "Filename: ./", 1))
		d.indices = map[string]string{"Packages": d.indices["main/binary-amd64/Packages"]}
		d.head = []string{"Suite: ", "Codename: ", "Components: ", "Architectures: "}
		s.files[base+"InRelease"] = d.key.clearsign(d.release(s, base))
		res, err := Collect(context.Background(), s, options(t, source, "a"))
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		want := []string{base + "InRelease", base + "Packages.gz", host + "/pool/main/a_1_amd64.deb"}
		if got := urls(res); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", source, got, want)
		}
	}
}

// Which keys may sign is said by the source.
func TestSignedBy(t *testing.T) {
	public := string(testKey().public)
	print := fmt.Sprintf("%X", testKey().entity.PrimaryKey.Fingerprint)
	inline := "Types: deb\nURIs: " + host + "\nSuites: stable\nComponents: main\nSigned-By:\n " +
		strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(public), "\n\n", "\n.\n"), "\n", "\n ") + "\n"
	other := ospackages.NamedKeyring{Name: "other.gpg", Keyring: newOther(t)}
	for name, x := range map[string]struct {
		source string
		change func(o *Options)
		want   string
	}{
		"inline": {source: inline, change: func(o *Options) { o.Keyrings = nil }},
		"inline alone": {source: strings.Replace(inline, "Signed-By:\n", "Signed-By: \n", 1),
			change: func(o *Options) { o.Keyrings = []ospackages.NamedKeyring{other} }},
		"fingerprint":  {source: signedBy(print)},
		"fingerprint!": {source: signedBy(print + "!")},
		"a fingerprint that no keyring has": {source: signedBy(strings.Repeat("A", 40)),
			want: "no given keyring has the key AAAA"},
		"a file of the same name": {source: signedBy("/usr/share/keyrings/publisher.asc"),
			change: func(o *Options) { o.Keyrings = append(o.Keyrings, other) }},
		"a file of the same name, of another": {source: signedBy("/usr/share/keyrings/other.gpg"),
			change: func(o *Options) { o.Keyrings = append(o.Keyrings, other) },
			want:   "not among the given keys"},
		"a file of this machine": {source: signedBy("/x/y.asc"), change: func(o *Options) {
			o.Keyrings = []ospackages.NamedKeyring{other}
			o.ReadFile = func(string) ([]byte, error) { return testKey().public, nil }
		}},
		"a file of this machine that is broken": {source: signedBy("/x/y.asc"), change: func(o *Options) {
			o.ReadFile = func(string) ([]byte, error) { return []byte("x"), nil }
		}, want: "/x/y.asc: it has no public key"},
		"a file that is not here": {source: signedBy("/x/y.asc")},
		"a file that is not here, and no other": {source: signedBy("/x/y.asc"),
			change: func(o *Options) { o.Keyrings = nil },
			want:   "its key /x/y.asc is not on this machine: give a copy with --keyring"},
		"not a path": {source: signedBy("keyring.asc"), want: "neither a path nor a fingerprint nor a key"},
	} {
		t.Run(name, func(t *testing.T) {
			opt := options(t, x.source, "a")
			if x.change != nil {
				x.change(&opt)
			}
			_, err := Collect(context.Background(), stable(nil), opt)
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("got %v, want %q", err, x.want)
			}
		})
	}
}

func newOther(t *testing.T) *openpgp.Keyring {
	k, err := openpgp.ReadKeyring(newKey("other").public)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signedBy(keys string) string { return "deb [signed-by=" + keys + "] " + host + " stable main\n" }

// Every source with an error is named.
func TestAllFaultsAtOnce(t *testing.T) {
	opt := options(t, stableSource+"deb "+host+" a main\ndeb "+host+" b main\n", "a")
	_, err := Collect(context.Background(), stable(nil), opt)
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("got %v", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Error("a suite that does not exist is no missing file of the caller")
	}
}
