package deb

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/ulikunitz/xz"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/openpgp"
)

// today is the clock of the tests. It is in the past for the real apt, which has another clock.
var today = time.Date(2025, 6, 15, 12, 0, 0, 0, time.UTC)

const host = "http://deb.example/debian"

// key is a signing key of a publisher.
type key struct {
	entity *pgp.Entity
	public []byte // armored
}

// testKey makes keys once for all tests.
var testKey = sync.OnceValue(func() *key { return newKey("publisher") })

func newKey(name string) *key {
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time {
		return today.AddDate(-1, 0,
			0)
	}}
	e, err := pgp.NewEntity(name, "", name+"@example.org", config)
	if err != nil {
		panic(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(w), w.Close())
	}
	if err != nil {
		panic(err)
	}
	return &key{e, b.Bytes()}
}

func (k *key) clearsign(text []byte) []byte {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, k.entity.PrivateKey, &packet.Config{Time: func() time.Time { return today }})
	if err == nil {
		_, err = w.Write(text)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (k *key) detach(text []byte) []byte {
	var b bytes.Buffer
	if err := pgp.DetachSign(&b, []*pgp.Entity{k.entity}, bytes.NewReader(text),
		&packet.Config{Time: func() time.Time { return today }}); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (k *key) keyring(t testing.TB) ospackages.NamedKeyring {
	t.Helper()
	r, err := openpgp.ReadKeyring(k.public)
	if err != nil {
		t.Fatal(err)
	}
	return ospackages.NamedKeyring{Name: "keys/publisher.asc", Keyring: r}
}

// site is a web server with repositories: content by URL. It is the Fetcher of tests.
type site struct {
	files  map[string][]byte
	last   map[string][]byte
	asked  []string
	before func(url string) // is called before a request is answered
}

func newSite() *site { return &site{files: map[string][]byte{}, last: map[string][]byte{}} }

func (s *site) get(url string) ([]byte, error) {
	s.asked = append(s.asked, url)
	if s.before != nil {
		s.before(url)
	}
	b, ok := s.files[url]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (s *site) Document(_ context.Context, url string, limit int64) ([]byte, string, error) {
	b, err := s.get(url)
	if int64(len(b)) > limit {
		return nil, "", errors.New("too large")
	}
	return b, digestOf(b), err
}

func (s *site) Content(_ context.Context, url, digest string, size int64) (io.ReadCloser, error) {
	b, err := s.get(url)
	if err == nil && (digestOf(b) != digest || int64(len(b)) != size) {
		err = syscall.EBADMSG
	}
	return io.NopCloser(bytes.NewReader(b)), err
}

func (s *site) Last(url string, _ int64) []byte { return s.last[url] }

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// dist is one suite of a repository in a test.
type dist struct {
	uri, suite string
	head       []string            // fields of the Release file beside the usual ones, which they replace
	indices    map[string]string   // content by path, without compression
	forms      map[string][]string // the suffixes under which an index exists; usually .gz
	plainSums  bool                // the sums of the uncompressed indices are listed too
	key        *key
}

// newDist is a suite with packages of main, for amd64 and for arm64 where packages name it.
func newDist(suite string, packages ...string) *dist {
	d := &dist{uri: host, suite: suite, indices: map[string]string{}, forms: map[string][]string{}, key: testKey(),
		plainSums: true}
	for _, arch := range []string{"amd64", "arm64", "i386"} {
		d.indices["main/binary-"+arch+"/Packages"] = index822(arch, packages)
	}
	return d
}

// index822 is an index of the packages for an architecture.
func index822(arch string, packages []string) string {
	var b strings.Builder
	for _, p := range packages {
		if strings.Contains(p, "\nArchitecture: "+arch+"\n") || strings.Contains(p, "\nArchitecture: all\n") {
			b.WriteString(p + "\n")
		}
	}
	return b.String()
}

// pkg is a stanza of an index: a name with :ARCH (amd64 without), a version and more fields.
func pkg(name, version string, fields ...string) string {
	name, arch, _ := strings.Cut(name, ":")
	if arch == "" {
		arch = "amd64"
	}
	file := fmt.Sprintf("pool/main/%s_%s_%s.deb", name, strings.ReplaceAll(version, ":", "%3a"), arch)
	s := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nFilename: %s\nSize: 7\nSHA256: %x\n"+
		"Maintainer: x <x@example.org>\nDescription: x\n", name, version, arch, file, sha256.Sum256([]byte(file)))
	for _, f := range fields {
		s += f + "\n"
	}
	return s
}

// publish puts the suite on a site.
func (d *dist) publish(s *site) {
	src := Source{URI: d.uri, Suite: d.suite}
	base := src.Base()
	release := d.release(s, base)
	s.files[base+"InRelease"] = d.key.clearsign(release)
}

// release puts the indices on a site and returns the text of the Release file.
func (d *dist) release(s *site, base string) []byte {
	fields := map[string]string{"Origin": "Example", "Suite": d.suite, "Codename": d.suite, "Date": rfc(today),
		"Architectures": "amd64 arm64 i386", "Components": "main"}
	for _, h := range d.head {
		k, v, _ := strings.Cut(h, ": ")
		fields[k] = v
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if fields[k] != "" {
			fmt.Fprintf(&b, "%s: %s\n", k, fields[k])
		}
	}
	b.WriteString("SHA256:\n")
	for _, name := range slices.Sorted(maps.Keys(d.indices)) {
		content := []byte(d.indices[name])
		forms := d.forms[name]
		if forms == nil {
			forms = []string{".gz"}
		}
		if d.plainSums && !slices.Contains(forms, "") {
			fmt.Fprintf(&b, " %x %d %s\n", sha256.Sum256(content), len(content), name)
		}
		for _, suffix := range forms {
			packed := compress(suffix, content)
			fmt.Fprintf(&b, " %x %d %s\n", sha256.Sum256(packed), len(packed), name+suffix)
			s.files[base+name+suffix] = packed
		}
	}
	return []byte(b.String())
}

func rfc(t time.Time) string { return t.Format("Mon, 02 Jan 2006 15:04:05") + " UTC" }

func compress(suffix string, content []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	case "":
		return content
	default:
		panic("no compressor for " + suffix)
	}
	if err == nil {
		_, err = w.Write(content)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// options are those of a test: the site's sources, the publisher's key, requested packages.
func options(t testing.TB, sources string, packages ...string) Options {
	t.Helper()
	var s Sources
	s.Read("sources.list", strings.NewReader(sources))
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	var p lists.Parser
	p.Packages("p.list", strings.NewReader(strings.Join(packages, "\n")))
	w, err := p.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Sources: s.List, Packages: w.Packages, Architectures: []string{"amd64"},
		Keyrings: []ospackages.NamedKeyring{testKey().keyring(t)},
		ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		Now:      func() time.Time { return today },
	}
}

// labels are the packages of a result, as NAME VERSION, or NAME:ARCH VERSION for other architectures than amd64.
func labels(r *ospackages.Result) string {
	var list []string
	for _, f := range r.Files {
		base := f.URL[strings.LastIndexByte(f.URL, '/')+1:]
		if name, ok := strings.CutSuffix(base, ".deb"); ok {
			words := strings.Split(name, "_")
			s := words[0]
			if words[2] != "amd64" && words[2] != "all" {
				s += ":" + words[2]
			}
			list = append(list, s+"="+words[1])
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// near suggests names that differ in one letter that one of them does not have.
func near(name string, names iter.Seq[string]) string {
	for n := range names {
		if len(n) == len(name)+1 && strings.HasPrefix(n, name[:2]) {
			return "; did you mean " + n + "?"
		}
	}
	return ""
}
