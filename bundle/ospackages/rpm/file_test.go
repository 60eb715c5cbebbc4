package rpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/bundle/ospackages/unpack"
)

// ownFile is a package as a build writes it: without a signature of a publisher.
func ownFile(change func(values []tagValue) []tagValue) []byte {
	payload := []byte("payload")
	values := []tagValue{
		{tagName, typeString, "app"}, {tagVersion, typeString, "1.0~rc1"}, {tagRelease, typeString, "1.el9"},
		{tagEpoch, typeInt32, uint32(2)}, {tagArch, typeString, "noarch"}, {tagSourceRPM, typeString, "app.src.rpm"},
		{tagSummary, typeI18N, "a <b>"}, {tagPayloadDigest, typeStrings, fmt.Sprintf("%x", sha256.Sum256(payload))},
		{tagPayloadAlgorithm, typeInt32, uint32(8)},
	}
	if change != nil {
		values = change(values)
	}
	main := buildHeader(63, values)
	sig := buildHeader(62, []tagValue{{tagHeaderSHA256, typeString, fmt.Sprintf("%x", sha256.Sum256(main))}})
	lead := make([]byte, leadSize)
	copy(lead, []byte{0xed, 0xab, 0xee, 0xdb, 3, 0})
	return slices.Concat(lead, sig, make([]byte, (8-len(sig)%8)%8), main, payload)
}

// having replaces or adds a value.
func having(tag, kind uint32, value any) []byte {
	return ownFile(func(values []tagValue) []tagValue {
		values = slices.DeleteFunc(values, func(v tagValue) bool { return v.tag == tag })
		if value != nil {
			values = append(values, tagValue{tag, kind, value})
		}
		return values
	})
}

func TestReadFile(t *testing.T) {
	f, err := ReadFile(bytes.NewReader(ownFile(nil)))
	if err != nil || f.Name != "app" || f.EVR() != "2:1.0~rc1-1.el9" || f.Arch != "noarch" ||
		f.Base() != "app-1.0~rc1-1.el9.noarch.rpm" {
		t.Fatalf("%+v, %v", f, err)
	}
	m, err := f.Metadata(Stored{Location: "Packages/a&b.rpm", SHA256: "00", Size: 5, Time: time.Unix(7, 0)})
	if err != nil || !strings.Contains(m.Primary, `<location href="Packages/a&amp;b.rpm"/>`) ||
		!strings.Contains(m.Primary, "<summary>a &lt;b&gt;</summary>") {
		t.Errorf("%s, %v", m.Primary, err)
	}
}

func TestReadFileRefuses(t *testing.T) {
	good := ownFile(nil)
	damaged := bytes.Clone(good)
	damaged[len(damaged)-20]++ // in the main header
	for name, c := range map[string]struct {
		file []byte
		says string
	}{
		"empty":           {nil, "not an RPM package"},
		"a DEB":           {[]byte("!<arch>\n" + strings.Repeat("x", 200)), "not an RPM package"},
		"cut off":         {good[:150], "ends in"},
		"cut payload":     {good[:len(good)-1], "not what its signed header says"},
		"damaged":         {damaged, "digest"},
		"no name":         {having(tagName, 0, nil), "name"},
		"a path":          {having(tagName, typeString, "../app"), "name"},
		"a flag":          {having(tagName, typeString, "-app"), "name"},
		"a version":       {having(tagVersion, typeString, "1/2"), "version"},
		"a hyphen":        {having(tagVersion, typeString, "1-2"), "version"},
		"a line":          {having(tagRelease, typeString, "1\n"), "version"},
		"no release":      {having(tagRelease, 0, nil), "version"},
		"an architecture": {having(tagArch, typeString, "x86/64"), "architecture"},
		"a source":        {having(tagSourceRPM, 0, nil), "source package"},
		"files":           {having(tagBaseNames, typeStrings, "x"), "lists files"},
		"a directory": {ownFile(func(v []tagValue) []tagValue {
			return append(v, tagValue{tagBaseNames, typeStrings, "x"}, tagValue{tagDirIndexes, typeInt32, uint32(7)},
				tagValue{tagDirNames, typeStrings, "/"})
		}), "directory that it does not list"},
		"many files": {having(tagOldFileNames, typeStrings, claimed{"/x", 1 << 31}), "lists files"},
		"many names": {having(tagBaseNames, typeStrings, claimed{"x", 1 << 31}), "lists files"},
	} {
		f, err := ReadFile(bytes.NewReader(c.file))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v, want %q", name, f, err, c.says)
		}
	}
	f, err := ReadFile(bytes.NewReader(having(1047, typeStrings, "x")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Metadata(Stored{}); err != nil { // provides without versions, as old packages have them
		t.Error(err)
	}
	f, err = ReadFile(bytes.NewReader(having(1113, typeStrings, "x")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Metadata(Stored{}); err == nil {
		t.Error("versions without names are accepted")
	}
}

// What a header claims to have, or refers to many times, does not become memory.
func TestClaims(t *testing.T) {
	for _, tag := range []uint32{1047, 1049, 1090} { // names of provides, requires, obsoletes
		f, err := ReadFile(bytes.NewReader(having(tag, typeStrings, claimed{"x", 1 << 31})))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Metadata(Stored{}); err == nil || !strings.Contains(err.Error(), "lists dependencies") {
			t.Errorf("tag %d: %v", tag, err)
		}
	}
	x := escaper{left: 3}
	if got := x.text("<a") + x.text("bc") + x.text("d"); got != "&lt;a" || x.left >= 0 {
		t.Errorf("%q, %d left", got, x.left)
	}
	text := strings.Repeat("x", maxMetadata/4)
	f, err := ReadFile(bytes.NewReader(ownFile(func(v []tagValue) []tagValue {
		for _, tag := range []uint32{tagDescription, tagPackager, tagURL, tagVendor} {
			v = append(v, tagValue{tag, typeString, text})
		}
		return v
	})))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := f.Metadata(Stored{}); err == nil || m != (Metadata{}) {
		t.Errorf("large texts: %d bytes, %v", len(m.Primary), err)
	}
}

const spec = `Name: app
Version: 1.0~rc1
Release: 3%{?x}
Epoch: 1
Summary: a <summary> & more
License: MIT
URL: https://example.org/?a&b
Vendor: someone
Group: Tools
BuildArch: noarch
Provides: virtual = 2:3.0-1
Provides: bare
Requires: lib >= 1.0, other < 2, (a if b)
Requires(pre): /bin/sh
Conflicts: bad = 1
Obsoletes: old <= 1:0.9-1
Recommends: nice
Suggests: maybe
Supplements: thing
Enhances: that > 1
%description
Two lines,
"quoted".
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/etc/app %{buildroot}/usr/share/app
echo x > %{buildroot}/usr/bin/app
echo y > %{buildroot}/etc/app/conf
echo z > "%{buildroot}/usr/share/app/a & b"
%post
true
%files
/usr/bin/app
%config /etc/app/conf
%dir /usr/share/app
/usr/share/app/*
%ghost /var/lib/app.state
%changelog
* Mon Jun 16 2025 B <b@example.org> - 2-1
- second <line>
* Sun Jun 15 2025 A <a@example.org> - 1-1
- first
`

// TestMetadataIsThatOfCreaterepo: what is written of a package that rpmbuild made is what createrepo_c writes of it.
func TestMetadataIsThatOfCreaterepo(t *testing.T) {
	for _, tool := range []string{"rpmbuild", "createrepo_c"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.spec"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("rpmbuild", "-bb", "--define", "_topdir "+dir, filepath.Join(dir, "app.spec")).
		CombinedOutput(); err != nil {
		t.Fatalf("rpmbuild: %v\n%s", err, out)
	}
	repo := filepath.Join(dir, "RPMS/noarch")
	if out, err := exec.Command("createrepo_c", "--quiet", repo).CombinedOutput(); err != nil {
		t.Fatalf("createrepo_c: %v\n%s", err, out)
	}
	file := "app-1.0~rc1-3.noarch.rpm"
	data, err := os.ReadFile(filepath.Join(repo, file))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ReadFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Metadata(Stored{Location: file, SHA256: fmt.Sprintf("%x", sha256.Sum256(data)), Size: int64(len(data)),
		Time: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ kind, ours string }{
		{"primary", m.Primary}, {"filelists", m.Filelists}, {"other", m.Other},
	} {
		theirs := createrepo(t, repo, c.kind)
		if got := tokens(t, c.ours); !slices.Equal(got, theirs) {
			t.Errorf("%s: ours\n%s\ncreaterepo_c's\n%s", c.kind, strings.Join(got, "\n"), strings.Join(theirs, "\n"))
		}
	}
}

// createrepo is the element of the package in a document of createrepo_c.
func createrepo(t *testing.T, repo, kind string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(repo, "repodata", "*-"+kind+".xml.*"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	packed, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	r, err := unpack.Reader(bytes.NewReader(packed), found[0], 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	_, element, _ := strings.Cut(string(text), "<package ")
	element, _, _ = strings.Cut(element, "</package>")
	return tokens(t, "<package "+element+"</package>")
}

var fileTime = regexp.MustCompile(`file="[0-9]+"`)

// tokens is XML without what does not matter: blanks between elements, the time of a file, the order of attributes and
// of dependencies and files.
func tokens(t *testing.T, text string) (list []string) {
	t.Helper()
	dec := xml.NewDecoder(strings.NewReader(fileTime.ReplaceAllString(text, `file="0"`)))
	dec.Strict = false
	var way []string
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			slices.Sort(list)
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := tok.(type) {
		case xml.StartElement:
			name := x.Name.Local
			var attrs []string
			for _, a := range x.Attr {
				attrs = append(attrs, a.Name.Local+"="+a.Value)
			}
			slices.Sort(attrs)
			way = append(way, name)
			list = append(list, strings.Join(way, "/")+" "+strings.Join(attrs, " "))
		case xml.EndElement:
			way = way[:len(way)-1]
		case xml.CharData:
			if s := strings.TrimSpace(string(x)); s != "" {
				list = append(list, strings.Join(way, "/")+": "+s)
			}
		}
	}
}

// FuzzReadFile: nothing panics, and what is accepted is one element of each document.
func FuzzReadFile(f *testing.F) {
	f.Add(ownFile(nil))
	f.Add(having(1047, typeStrings, "x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadFile(bytes.NewReader(data))
		if err != nil {
			return
		}
		m, err := p.Metadata(Stored{Location: p.Base(), SHA256: "00"})
		if err != nil {
			return
		}
		for _, text := range []string{m.Primary, m.Filelists, m.Other} {
			var any struct {
				XMLName xml.Name
			}
			dec := xml.NewDecoder(strings.NewReader(strings.ReplaceAll(text, "rpm:", "")))
			if err := dec.Decode(&any); err != nil || any.XMLName.Local != "package" {
				t.Errorf("%v: %s", err, text)
			}
			if _, err := dec.Token(); err == nil { // the line feed at the end
				_, err = dec.Token()
				if !errors.Is(err, io.EOF) {
					t.Errorf("more than one element: %s", text)
				}
			}
		}
	})
}
