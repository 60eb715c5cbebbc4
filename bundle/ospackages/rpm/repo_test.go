package rpm

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/openpgp"
)

// today is the clock of the tests.
var today = time.Date(2025, 6, 15, 12, 0, 0, 0, time.UTC)

const host = "http://rpm.example/el9/os/"

// key is a signing key of a publisher.
type key struct {
	entity *pgp.Entity
	public []byte // armored
}

// testKey makes a key once for all tests.
var testKey = sync.OnceValue(func() *key { return newKey("publisher") })

func newKey(name string) *key {
	config := &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048,
		Time: func() time.Time { return today.AddDate(-1, 0, 0) }}
	e, err := pgp.NewEntity(name, "", name+"@example.org", config)
	var b bytes.Buffer
	if err == nil {
		var w io.WriteCloser
		if w, err = armor.Encode(&b, pgp.PublicKeyType, nil); err == nil {
			err = errors.Join(e.Serialize(w), w.Close())
		}
	}
	if err != nil {
		panic(err)
	}
	return &key{e, b.Bytes()}
}

// detach signs text; armored for repomd.xml.asc, binary for packages.
func (k *key) detach(text []byte, armored bool) []byte {
	var b bytes.Buffer
	config := &packet.Config{Time: func() time.Time { return today }}
	err := pgp.DetachSign(&b, []*pgp.Entity{k.entity}, bytes.NewReader(text), config)
	if armored && err == nil {
		raw := bytes.Clone(b.Bytes())
		b.Reset()
		var w io.WriteCloser
		if w, err = armor.Encode(&b, pgp.SignatureType, nil); err == nil {
			_, err = w.Write(raw)
			err = errors.Join(err, w.Close())
		}
	}
	if err != nil {
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
	return ospackages.NamedKeyring{Name: "keys/RPM-GPG-KEY-publisher", Keyring: r}
}

// site is a web server with repositories: content by URL. It is the Fetcher of tests.
type site struct {
	files  map[string][]byte
	last   map[string][]byte
	asked  []string
	before func(url string) // is called before a request is answered
}

func newSite() *site {
	return &site{files: map[string][]byte{}, last: map[string][]byte{}}
}

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
	if err == nil && (digestOf(b) != digest || size >= 0 && int64(len(b)) != size) {
		err = syscall.EBADMSG
	}
	return io.NopCloser(bytes.NewReader(b)), err
}

func (s *site) Last(url string, _ int64) []byte { return s.last[url] }

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	b, ok := s.files["http://"+r.Host+at.String()]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(b)
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// rpmRepo is one repository of a test.
type rpmRepo struct {
	base     string
	packages []testPackage
	modules  string
	groups   string
	unsigned bool
	key      *key
	date     time.Time
}

func newRepo(packages ...testPackage) *rpmRepo {
	return &rpmRepo{base: host, packages: packages, key: testKey(), date: today}
}

// testPackage is one package: NAME or NAME.ARCH, [EPOCH:]VERSION-RELEASE, then lines such as "Requires: libc.so.6".
type testPackage struct {
	name, arch string
	evr        evr
	fields     []string
	href, base string
	content    []byte
}

func pkg(name, version string, fields ...string) testPackage {
	arch := "x86_64"
	if n, a, ok := strings.Cut(name, "@"); ok {
		name, arch = n, a
	}
	p := testPackage{name: name, arch: arch, evr: parseEVR(version), fields: fields}
	p.href = fmt.Sprintf("Packages/%s-%s-%s.%s.rpm", name, p.evr.version, p.evr.release, arch)
	p.content = rpmFile(p.name, p.evr, arch, testKey())
	return p
}

// lists that a field of a test package is written into.
var fieldLists = []struct{ field, list string }{
	{"Provides", "provides"}, {"Requires", "requires"}, {"Obsoletes", "obsoletes"}, {"Recommends", "recommends"},
	{"Suggests", "suggests"}, {"Supplements", "supplements"},
}

func (p *testPackage) values(field string) (list []string) {
	for _, f := range p.fields {
		if k, v, _ := strings.Cut(f, ": "); k == field {
			list = append(list, v)
		}
	}
	return list
}

// xml is the package in primary.xml, as createrepo_c writes it.
func (p *testPackage) xml() string {
	var b strings.Builder
	source := fmt.Sprintf("%s-%s-%s.src.rpm", p.name, p.evr.version, p.evr.release)
	if s := p.values("Source"); s != nil {
		source = s[0]
	}
	xmlBase := ""
	if p.base != "" {
		xmlBase = fmt.Sprintf(` xml:base="%s"`, p.base)
	}
	fmt.Fprintf(&b, `<package type="rpm"><name>%s</name><arch>%s</arch><version epoch="%d" ver="%s" rel="%s"/>
<checksum type="sha256" pkgid="YES">%s</checksum><summary>x</summary><description>x &amp; y</description>
<packager></packager><url></url><time file="1" build="1"/><size package="%d" installed="7" archive="7"/>
<location%s href="%s"/><format><rpm:license>MIT</rpm:license><rpm:vendor/><rpm:group>x</rpm:group>
<rpm:buildhost>x</rpm:buildhost><rpm:sourcerpm>%s</rpm:sourcerpm><rpm:header-range start="1" end="2"/>
`, p.name, p.arch, p.evr.epoch, p.evr.version, p.evr.release, p.sum(), len(p.content), xmlBase, p.href, source)
	for _, l := range fieldLists {
		entries := p.values(l.field)
		if l.field == "Provides" {
			entries = append(entries, p.name+" = "+p.evr.String())
		}
		if len(entries) == 0 {
			continue
		}
		fmt.Fprintf(&b, "<rpm:%s>\n", l.list)
		for _, e := range entries {
			b.WriteString(entryXML(e))
		}
		fmt.Fprintf(&b, "</rpm:%s>\n", l.list)
	}
	for _, f := range p.values("File") {
		fmt.Fprintf(&b, "<file>%s</file>\n", f)
	}
	b.WriteString("</format></package>\n")
	return b.String()
}

func (p *testPackage) sum() string { return strings.TrimPrefix(digestOf(p.content), "sha256:") }

var flagNames = map[uint8]string{less: "LT", less | equal: "LE", equal: "EQ", greater | equal: "GE", greater: "GT"}

func entryXML(text string) string {
	words := strings.Fields(text)
	if isRich(text) || len(words) != 3 {
		return fmt.Sprintf("<rpm:entry name=\"%s\"/>\n", html.EscapeString(text))
	}
	v := parseEVR(words[2])
	rel := ""
	if v.release != "" {
		rel = fmt.Sprintf(` rel="%s"`, v.release)
	}
	return fmt.Sprintf("<rpm:entry name=\"%s\" flags=\"%s\" epoch=\"%d\" ver=\"%s\"%s/>\n",
		html.EscapeString(words[0]), flagNames[senses[words[1]]], v.epoch, v.version, rel)
}

// publish puts the repository on a site.
func (r *rpmRepo) publish(s *site) {
	primary, filelists := &strings.Builder{}, &strings.Builder{}
	fmt.Fprintf(primary, `<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="%d">
`, len(r.packages))
	fmt.Fprintf(filelists, `<?xml version="1.0" encoding="UTF-8"?>
<filelists xmlns="http://linux.duke.edu/metadata/filelists" packages="%d">
`, len(r.packages))
	for i := range r.packages {
		p := &r.packages[i]
		primary.WriteString(p.xml())
		fmt.Fprintf(filelists, `<package pkgid="%s" name="%s" arch="%s"><version epoch="%d" ver="%s" rel="%s"/>`+"\n",
			p.sum(), p.name, p.arch, p.evr.epoch, p.evr.version, p.evr.release)
		for _, f := range append(p.values("File"), p.values("Path")...) {
			fmt.Fprintf(filelists, "<file>%s</file>\n", f)
		}
		filelists.WriteString("</package>\n")
		s.files[mustResolve(r.base, p.base, p.href)] = p.content
	}
	data := &strings.Builder{}
	r.data(s, data, "primary", primary.String()+"</metadata>\n")
	r.data(s, data, "filelists", filelists.String()+"</filelists>\n")
	r.data(s, data, "other", "<otherdata/>\n")
	if r.modules != "" {
		r.data(s, data, "modules", r.modules)
	}
	if r.groups != "" {
		r.data(s, data, "group", r.groups)
	}
	repomd := []byte(`<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo" xmlns:rpm="http://linux.duke.edu/metadata/rpm">
<revision>1</revision>
` + data.String() + "</repomd>\n")
	s.files[r.base+"repodata/repomd.xml"] = repomd
	if delete(s.files, r.base+"repodata/repomd.xml.asc"); !r.unsigned {
		s.files[r.base+"repodata/repomd.xml.asc"] = r.key.detach(repomd, true)
	}
}

func (r *rpmRepo) data(s *site, to *strings.Builder, kind, text string) {
	packed := gz(text)
	name := "repodata/" + kind + ".xml.gz"
	fmt.Fprintf(to, `<data type="%s"><checksum type="sha256">%x</checksum>
<open-checksum type="sha256">%x</open-checksum><location href="%s"/><timestamp>%d</timestamp><size>%d</size>
<open-size>%d</open-size></data>
`, kind, sha256.Sum256(packed), sha256.Sum256([]byte(text)), name, r.date.Unix(), len(packed), len(text))
	s.files[r.base+name] = packed
}

func mustResolve(base, xmlBase, href string) string {
	u, err := resolve(base, xmlBase, href)
	if err != nil {
		panic(err)
	}
	return u
}

func gz(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil || w.Close() != nil {
		panic(err)
	}
	return b.Bytes()
}

// rpmFile is a package without files, as rpm reads it, signed by k unless that is nil.
func rpmFile(name string, v evr, arch string, k *key) []byte {
	payload := []byte("payload of " + name + v.String() + arch)
	main := buildHeader(62, []tagValue{
		{tagName, typeString, name}, {tagVersion, typeString, v.version}, {tagRelease, typeString, v.release},
		{tagEpoch, typeInt32, uint32(v.epoch)}, {1022, typeString, arch},
		{tagPayloadDigest, typeStrings, fmt.Sprintf("%x", sha256.Sum256(payload))}, {tagPayloadAlgorithm, typeInt32,
			uint32(8)},
	})
	var sigs []tagValue
	if k != nil {
		sigs = append(sigs, tagValue{tagRSAHeader, typeBin, k.detach(main, false)})
	}
	sig := buildHeader(62, sigs)
	var b bytes.Buffer
	lead := make([]byte, leadSize)
	copy(lead, []byte{0xed, 0xab, 0xee, 0xdb, 3, 0})
	copy(lead[10:76], name)
	lead[79] = 5
	b.Write(lead)
	b.Write(sig)
	b.Write(make([]byte, (8-len(sig)%8)%8))
	b.Write(main)
	b.Write(payload)
	return b.Bytes()
}

type tagValue struct {
	tag   uint32
	kind  uint32
	value any
}

// claimed is a string whose tag says that there are count of them.
type claimed struct {
	text  string
	count int
}

// buildHeader writes a header as readHeader reads it.
func buildHeader(_ uint32, values []tagValue) []byte {
	slices.SortFunc(values, func(a, b tagValue) int { return int(a.tag) - int(b.tag) })
	var index, data bytes.Buffer
	for _, v := range values {
		count := 1
		if v.kind == typeInt32 {
			data.Write(make([]byte, (4-data.Len()%4)%4))
		}
		at := data.Len()
		switch x := v.value.(type) {
		case string:
			data.WriteString(x + "\x00")
		case claimed:
			data.WriteString(x.text + "\x00")
			count = x.count
		case []byte:
			data.Write(x)
			count = len(x)
		case uint32:
			_ = binary.Write(&data, binary.BigEndian, x)
		}
		_ = binary.Write(&index, binary.BigEndian, []uint32{v.tag, v.kind, uint32(at), uint32(count)})
	}
	out := slices.Clone(headerMagic)
	out = binary.BigEndian.AppendUint32(out, uint32(len(values)))
	out = binary.BigEndian.AppendUint32(out, uint32(data.Len()))
	return append(append(out, index.Bytes()...), data.Bytes()...)
}

// repoFile is a .repo file of a repository.
func repoFile(id string, lines ...string) string {
	return "[" + id + "]\nname=" + id + "\n" + strings.Join(lines, "\n") + "\n"
}

// options are those of a test: a .repo file, the publisher's key, requested packages.
func options(t testing.TB, repo string, packages ...string) Options {
	t.Helper()
	r := Repos{Vars: map[string]string{"releasever": "9"}}
	r.Read("a.repo", strings.NewReader(repo))
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	var p lists.Parser
	p.Packages("p.list", strings.NewReader(strings.Join(packages, "\n")))
	w, err := p.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Repos: r.List, Packages: w.Packages, Keyrings: []ospackages.NamedKeyring{testKey().keyring(t)},
		ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		Now:      func() time.Time { return today },
	}
}

// names are the packages of a result: NAME-VERSION-RELEASE, with .ARCH for others than x86_64 and noarch.
func names(r *ospackages.Result) string {
	var list []string
	for _, f := range r.Files {
		base, _ := url.PathUnescape(f.URL[strings.LastIndexByte(f.URL, '/')+1:])
		if name, ok := strings.CutSuffix(base, ".rpm"); ok {
			list = append(list, strings.TrimSuffix(strings.TrimSuffix(name, ".x86_64"), ".noarch"))
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}
