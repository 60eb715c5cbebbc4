package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// tarOf is an archive of files: names and contents in turns.
func tarOf(files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))})
		if _, err2 := io.WriteString(w, files[i+1]); err != nil || err2 != nil {
			panic(errors.Join(err, err2))
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// packed is data in the compression of a suffix.
func packed(suffix string, data []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	default:
		return data
	}
	if err == nil {
		_, err = w.Write(data)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// arOf is an ar archive of members: names and contents in turns.
func arOf(members ...string) []byte {
	out := []byte("!<arch>\n")
	for i := 0; i < len(members); i += 2 {
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", members[i], 0, 0, 0, "100644", len(members[i+1]),
			members[i+1])
		if len(members[i+1])%2 == 1 {
			out = append(out, '\n')
		}
	}
	return out
}

const control = "Package: app\nVersion: 1:2.0~rc1+x-1\nArchitecture: amd64\nMaintainer: x\nDescription: x\n y\n"

func debFile(control string) []byte {
	return arOf("debian-binary", "2.0\n", "control.tar.gz", string(packed(".gz", tarOf("./control", control))),
		"data.tar.xz", "data")
}

func TestReadFile(t *testing.T) {
	scripts := tarOf("./", "", "./postinst", "#!/bin/sh\n", "./control", control+"\n")
	for name, file := range map[string][]byte{
		"gz":  debFile(control),
		"zst": arOf("debian-binary", "2.0\n", "control.tar.zst", string(packed(".zst", scripts)), "data.tar.zst", "x"),
		"xz": arOf("debian-binary", "2.0\n", "control.tar.xz/", string(packed(".xz", scripts)), "data.tar", "x",
			"_gpgbuilder", "a signature"),
		"plain": arOf("debian-binary", "2.0\n", "control.tar", string(scripts), "data.tar", ""),
		// Some builders leave out the padding at the end.
		"no padding": bytes.TrimSuffix(arOf("debian-binary", "2.0\n", "control.tar", string(scripts), "data.tar", "x"),
			[]byte("\n")),
	} {
		f, err := ReadFile(bytes.NewReader(file))
		if err != nil || *f != (File{"app", "1:2.0~rc1+x-1", "amd64", control}) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestReadFileRefuses(t *testing.T) {
	archive := string(tarOf("control", control))
	with := func(old, text string) []byte { return debFile(strings.Replace(control, old, text, 1)) }
	for name, c := range map[string]struct {
		file []byte
		says string
	}{
		"empty":           {nil, "not a DEB package"},
		"an RPM":          {[]byte{0xed, 0xab, 0xee, 0xdb, 3, 0, 0, 0, 0, 0}, "not a DEB package"},
		"no member":       {arOf(), "not complete"},
		"no data":         {arOf("debian-binary", "2.0\n", "control.tar", archive), "not complete"},
		"format 3":        {arOf("debian-binary", "3.0\n"), "format 2"},
		"another archive": {arOf("a.o", "x"), "format 2"},
		"members swapped": {arOf("debian-binary", "2.0\n", "data.tar", "x"), "second member"},
		"no third":        {arOf("debian-binary", "2.0\n", "control.tar", archive, "x", ""), "third member"},
		"a bad size":      {bytes.Replace(debFile(control), []byte("  4 "), []byte("  -4"), 1), "no valid header"},
		"cut off":         {debFile(control)[:100], "not complete"},
		"no gzip":         {arOf("debian-binary", "2.0\n", "control.tar.gz", "x"), "decompressed"},
		"no control": {arOf("debian-binary", "2.0\n", "control.tar", string(tarOf("x", "y"))),
			"no control file"},
		"two controls": {arOf("debian-binary", "2.0\n", "control.tar", string(tarOf("control", control, "./control",
			control))), "two control files"},
		"a large control":   {debFile(control + strings.Repeat(" x\n", maxControl)), "more than"},
		"two paragraphs":    {debFile(control + "\nPackage: b\n"), "only one paragraph"},
		"a blank line":      {debFile(control + " \nPackage: b\n"), "only one paragraph"},
		"a continuation":    {debFile(" x\n" + control), "begins with"},
		"no field":          {debFile(control + "x\n"), "not a field"},
		"twice":             {debFile(control + "version: 2\n"), "twice"},
		"Filename":          {debFile(control + "Filename: ../../etc/passwd\n"), "the field Filename"},
		"a sum":             {debFile(control + "sHa256 : x\n"), "the field sHa256"},
		"Size":              {debFile("Size: 1\n" + control), "the field Size"},
		"no name":           {with("Package: app\n", ""), "Package"},
		"a path":            {with("app", "../app"), "Package"},
		"an upper case":     {with("app", "App"), "Package"},
		"a long name":       {with("app", strings.Repeat("a", 201)), "Package"},
		"no version":        {with("Version: 1:2.0~rc1+x-1\n", ""), "Version"},
		"a version's path":  {with("2.0", "2/../0"), "Version"},
		"a version's word":  {with("1:2.0~rc1+x-1", "latest"), "Version"},
		"two epochs":        {with("1:2.0", "1:2:3"), "Version"},
		"architecture any":  {with("amd64", "any"), "Architecture"},
		"source":            {with("amd64", "source"), "Architecture"},
		"two architectures": {with("amd64", "amd64 arm64"), "Architecture"},
		"an empty revision": {with("x-1", "x-"), "Version"},
		"a field's name":    {debFile(control + "A B: x\n"), "not a field"},
		"a wide name":       {debFile(control + "\u202eegapemoH: x\n"), "not a field"},
		"a NUL":             {with("Description: x", "Description: x\x00"), "control character"},
		"a CR":              {with("Description: x", "Description: x\r"), "control character"},
		"not UTF-8":         {with("Description: x", "Description: \xff"), "UTF-8"},
		"a folded name":     {with("Package: app", "Package: app\n b"), "Package"},
		"a bomb": {arOf("debian-binary", "2.0\n", "control.tar.zst", string(packed(".zst", append(tarOf("x", ""),
			make([]byte, maxControlArchive)...)))), "no control file"},
	} {
		f, err := ReadFile(bytes.NewReader(c.file))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v, want %q", name, f, err, c.says)
		}
	}
	broken := errors.New("broken")
	for _, n := range []int64{0, 4, 50, 100, 200} {
		_, err := ReadFile(io.MultiReader(io.LimitReader(bytes.NewReader(debFile(control)), n), failing{broken}))
		if !errors.Is(err, broken) {
			t.Errorf("a reader that breaks after %d bytes: %v", n, err)
		}
	}
}

// What apt cannot read in one package makes all its lists unusable on every node. What is refused here is what real apt
// refuses or warns about, and dpkg too.
func TestControlFields(t *testing.T) {
	for field, good := range map[string]bool{
		"Depends:": true, "Depends: a": true, "Depends: a,": true, "Depends: a(>=1)": true, "Depends: a ( >= 1 )": true,
		"Depends: a (< 1) | b:any,\n c\n  (<< 2:3~x-1)": true, "Suggests: a\t|\tb (== 1)": true,
		"Pre-Depends: A_b":     true,
		"Provides: a (= 1), b": true, "Breaks: a (<= 1)": true, "Multi-Arch: foreign": true, "Essential: no": true,

		"Depends: a (>>> 1)": false, "Depends: a (": false, "Depends: a (>= 1": false, "Depends: a b": false,
		"Depends: ,": false, "Depends: , a": false, "Depends: a, , b": false, "Depends: a,,": false,
		"Depends: (x)":   false,
		"Depends: a (1)": false, "Depends: a (= )": false, "Depends: a (= 1)b": false, "Depends: a (= 1 2)": false,
		"Depends: a [amd64]": false, "Depends: a <!x>": false, "Depends: ${x}": false, "Depends: |a": false,
		"Depends: a|": false, "Depends: a ; b": false, "Depends: a:any:any": false, "Pre-Depends: a (": false,
		"Recommends: a (": false, "Suggests: a (((": false, "Enhances: a (= 1": false, "Conflicts: a b": false,
		"Breaks: a | b": false, "Replaces: a (": false, "Provides: a (=": false, "Provides: a (>= 1)": false,
		"Provides: a | b": false, "depends: a\n b": false, "Multi-Arch: bogus": false, "Essential: maybe": false,
		"Protected: 1": false,
	} {
		_, err := ReadFile(bytes.NewReader(debFile(control + field + "\n")))
		if (err == nil) != good {
			t.Errorf("%q: %v", field, err)
		}
		name, _, _ := strings.Cut(field, ":")
		if err != nil && !strings.Contains(strings.ToLower(err.Error()), "the field "+strings.ToLower(name)) {
			t.Errorf("%q: the error does not name the field: %v", field, err)
		}
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// FuzzReadFile: what is accepted is one paragraph that an index reads as the same package.
func FuzzReadFile(f *testing.F) {
	f.Add(debFile(control))
	f.Add(arOf("debian-binary", "2.0\n", "control.tar", string(tarOf("control", control)), "data.tar", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadFile(bytes.NewReader(data))
		if err != nil {
			return
		}
		checkEntry(t, p)
	})
}

// FuzzControl does the same for control files alone.
func FuzzControl(f *testing.F) {
	f.Add(control)
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := readControl(text); err == nil {
			checkEntry(t, p)
		}
	})
}

func checkEntry(t *testing.T, p *File) {
	t.Helper()
	sum := strings.Repeat("0", 64)
	n := 0
	err := readPackages(strings.NewReader(p.Control+"Filename: pool/x.deb\nSize: 1\nSHA256: "+sum+"\n\n"), 1<<20,
		func(q *Package) error {
			if n++; q.Name != p.Name || q.Version != p.Version || q.Arch != p.Arch || q.filename != "pool/x.deb" ||
				q.digest != "sha256:"+sum {
				t.Errorf("the index has %+v for %q", q, p.Control)
			}
			return nil
		})
	if err != nil || n != 1 {
		t.Errorf("%d packages, %v, of %q", n, err, p.Control)
	}
}
