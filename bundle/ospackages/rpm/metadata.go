package rpm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Metadata is what a repository says of one package: an element of each of its documents, as createrepo_c writes them.
type Metadata struct{ Primary, Filelists, Other string }

// maxMetadata bounds a package's elements in bytes, all together. Those of a kernel's packages have 2 MB.
const maxMetadata = 24 << 20

// Stored is where and what the package's file is.
type Stored struct {
	Location string // URL reference below the repository
	SHA256   string // hex
	Size     int64
	Time     time.Time // when it was stored
}

// primaryFiles are the files that primary.xml lists; clients look for others in filelists.xml.
var primaryFiles = regexp.MustCompile(`^/etc/|bin/|^/usr/lib/sendmail$`)

// dependencyLists are the kinds of dependencies, in the order of primary.xml, with the tags of names, versions and
// flags.
var dependencyLists = []struct {
	element              string
	name, version, flags uint32
}{
	{"provides", 1047, 1113, 1112}, {"requires", 1049, 1050, 1048}, {"conflicts", 1054, 1055, 1053},
	{"obsoletes", 1090, 1115, 1114}, {"suggests", 5049, 5050, 5051}, {"enhances", 5055, 5056, 5057},
	{"recommends", 5046, 5047, 5048}, {"supplements", 5052, 5053, 5054},
}

// Flags of a dependency (rpm's rpmds.h).
const (
	senseLess, senseGreater, senseEqual = 1 << 1, 1 << 2, 1 << 3
	sensePre                            = 1<<6 | 1<<9 | 1<<10
	senseRPMLib                         = 1 << 24
)

// Metadata returns the elements for the package's file.
func (f *File) Metadata(at Stored) (Metadata, error) {
	var m Metadata
	x := &escaper{left: maxMetadata}
	version := fmt.Sprintf(`<version epoch="%d" ver="%s" rel="%s"/>`, f.evr.epoch, x.text(f.evr.version),
		x.text(f.evr.release))
	var b strings.Builder
	b.WriteString(`<package type="rpm">` + "\n")
	element := func(name, value string) { b.WriteString("  <" + name + ">" + x.text(value) + "</" + name + ">\n") }
	element("name", f.Name)
	element("arch", f.Arch)
	b.WriteString("  " + version + "\n")
	fmt.Fprintf(&b, "  <checksum type=\"sha256\" pkgid=\"YES\">%s</checksum>\n", x.text(at.SHA256))
	element("summary", f.main.english(tagSummary))
	element("description", f.main.english(tagDescription))
	element("packager", f.main.text(tagPackager))
	element("url", f.main.text(tagURL))
	fmt.Fprintf(&b, "  <time file=\"%d\" build=\"%d\"/>\n", at.Time.Unix(), f.built().Unix())
	installed := max(first(f.main.integers(tagLongSize)), first(f.main.integers(tagSize)))
	fmt.Fprintf(&b, "  <size package=\"%d\" installed=\"%d\" archive=\"%d\"/>\n", at.Size, installed, f.archive)
	b.WriteString("  <location href=\"" + x.text(at.Location) + "\"/>\n  <format>\n")
	for _, e := range []struct {
		name string
		tag  uint32
	}{
		{"license", tagLicense}, {"vendor", tagVendor}, {"group", tagGroup}, {"buildhost", tagBuildHost},
		{"sourcerpm", tagSourceRPM},
	} {
		element("rpm:"+e.name, f.main.english(e.tag))
	}
	fmt.Fprintf(&b, "  <rpm:header-range start=\"%d\" end=\"%d\"/>\n", f.start, f.end)
	own := map[string]bool{} // what the package provides to itself
	for _, file := range f.files {
		own[`    <rpm:entry name="`+escape(file.name)+`"`] = true
	}
	for _, l := range dependencyLists {
		entries, err := f.dependencies(x, l.element, l.name, l.version, l.flags, own)
		if err != nil {
			return m, err
		}
		if len(entries) > 0 {
			b.WriteString("  <rpm:" + l.element + ">\n" + strings.Join(entries, "") + "  </rpm:" + l.element + ">\n")
		}
	}
	for _, file := range f.files {
		if primaryFiles.MatchString(file.name) {
			b.WriteString(file.xml(x))
		}
	}
	b.WriteString("  </format>\n</package>\n")
	m.Primary = b.String()

	head := fmt.Sprintf("<package pkgid=\"%s\" name=\"%s\" arch=\"%s\">\n  %s\n", x.text(at.SHA256), x.text(f.Name),
		x.text(f.Arch), version)
	b.Reset()
	b.WriteString(head)
	for _, file := range f.files {
		b.WriteString(file.xml(x))
	}
	m.Filelists = b.String() + "</package>\n"
	m.Other = head + f.changelogs(x) + "</package>\n"
	if x.left < 0 || len(m.Primary)+len(m.Filelists)+len(m.Other) > maxMetadata {
		return Metadata{}, fmt.Errorf("its metadata has more than %d MiB", maxMetadata>>20)
	}
	return m, nil
}

func (e fileEntry) xml(x *escaper) string {
	if e.kind != "" {
		return `  <file type="` + e.kind + `">` + x.text(e.name) + "</file>\n"
	}
	return "  <file>" + x.text(e.name) + "</file>\n"
}

// dependencies are the entries of one kind, each once. Provides are added to own; requires that are in it are left out.
func (f *File) dependencies(
	x *escaper, element string, nameTag, versionTag, flagTag uint32, own map[string]bool,
) (list []string, err error) {
	names, versions, flags := f.main.all(nameTag), f.main.all(versionTag), f.main.integers(flagTag)
	if f.main.entries[nameTag].count > maxDeps || len(versions) != len(flags) ||
		len(versions) != 0 && len(versions) != len(names) {
		return nil, errors.New("its header lists dependencies in a way that cannot be read")
	}
	requires := element == "requires"
	seen := map[string]bool{}
	for i, name := range names {
		version, flag := "", int64(0)
		if len(versions) > 0 {
			version, flag = versions[i], flags[i]
		}
		if requires && (flag&senseRPMLib != 0 || strings.HasPrefix(name, "rpmlib(")) {
			continue // what rpm itself must support
		}
		entry := `    <rpm:entry name="` + x.text(name) + `"`
		if relation := relationOf(flag); relation != "" && version != "" {
			v := parseEVR(version)
			entry += fmt.Sprintf(` flags="%s" epoch="%d" ver="%s"`, relation, v.epoch, x.text(v.version))
			if v.release != "" {
				entry += ` rel="` + x.text(v.release) + `"`
			}
		}
		switch {
		case element == "provides":
			own[entry] = true
		case requires && own[entry]:
			continue
		}
		if requires && flag&sensePre != 0 {
			entry += ` pre="1"`
		}
		if entry += "/>\n"; !seen[entry] {
			seen[entry] = true
			list = append(list, entry)
		}
	}
	return list, nil
}

func relationOf(flags int64) string {
	switch flags & (senseLess | senseGreater | senseEqual) {
	case senseLess:
		return "LT"
	case senseGreater:
		return "GT"
	case senseEqual:
		return "EQ"
	case senseLess | senseEqual:
		return "LE"
	case senseGreater | senseEqual:
		return "GE"
	}
	return ""
}

// changelogs are the newest entries, the oldest of them first.
func (f *File) changelogs(x *escaper) string {
	times, names, texts := f.main.integers(tagChangeTime), f.main.all(tagChangeName), f.main.all(tagChangeText)
	var list []string
	for i := range min(len(times), len(names), len(texts), maxChangelogs) {
		list = append(list, fmt.Sprintf("  <changelog author=\"%s\" date=\"%s\">%s</changelog>\n", x.text(names[i]),
			number(times[i]), x.text(texts[i])))
	}
	slices.Reverse(list)
	return strings.Join(list, "")
}

// escaper writes values as XML. A header may refer to the same bytes in all its values, so they are bounded together.
type escaper struct{ left int }

// text is s as XML's character data or the value of an attribute; "" when there is nothing left.
func (x *escaper) text(s string) string {
	if x.left -= len(s); x.left < 0 {
		return ""
	}
	return escape(s)
}

// escape is s as XML. What XML cannot express becomes U+FFFD.
func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder does not fail
	return b.String()
}
