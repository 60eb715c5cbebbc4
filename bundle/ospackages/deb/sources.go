package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"casemate/bundle/lists"
)

const (
	maxSources     = 4 << 20 // bytes of one file of sources
	maxSourceFiles = 1000    // suites of one file
)

// Source is one suite of one repository, as a sources.list or a .sources file names it.
type Source struct {
	URI        string   // without a slash at its end
	Suite      string   // ends in a slash if the repository is flat
	Components []string // none if the repository is flat
	// Architectures and Languages are nil if the source does not name any.
	Architectures []string
	Languages     []string
	// Targets are kinds of indices beside those that apt asks for by default.
	Targets []string
	// SignedBy is a path, fingerprints separated by commas or spaces, an armored key, or "".
	SignedBy string
	// Trusted says that apt takes the repository without a signature.
	Trusted bool
	// AnyDate says that an expired Release file is taken (check-valid-until=no).
	AnyDate bool
	Where   string // FILE:LINE
}

// Flat reports whether the repository has neither dists nor components (man 5 sources.list).
func (s *Source) Flat() bool { return strings.HasSuffix(s.Suite, "/") }

// Base is the URL of the directory with the Release file, with a slash at its end.
func (s *Source) Base() string {
	if !s.Flat() {
		return s.URI + "/dists/" + s.Suite + "/"
	}
	if dir := strings.Trim(path.Clean("/"+s.Suite), "/"); dir != "" {
		return s.URI + "/" + dir + "/"
	}
	return s.URI + "/"
}

// String names the source in messages.
func (s *Source) String() string { return s.URI + " " + s.Suite }

// Sources is what files of sources say.
type Sources struct {
	List  []Source
	Notes []string
	bad   []string
}

// Err returns the errors in all files, one a line, or nil.
func (s *Sources) Err() error {
	if len(s.bad) == 0 {
		return nil
	}
	return errors.New(strings.Join(s.bad, "\n"))
}

func (s *Sources) refuse(where, format string, args ...any) {
	if len(s.bad) < 100 {
		s.bad = append(s.bad, where+": "+fmt.Sprintf(format, args...))
	}
}

func (s *Sources) note(where, format string, args ...any) {
	if len(s.Notes) < 100 {
		s.Notes = append(s.Notes, where+": "+fmt.Sprintf(format, args...))
	}
}

// Read adds a file: lines of a sources.list, or stanzas of a .sources file (deb822). name is its name in messages; the
// two forms are told apart by their content. Errors in it are those of Err.
func (s *Sources) Read(name string, r io.Reader) {
	b, err := io.ReadAll(io.LimitReader(r, maxSources+1))
	switch {
	case err != nil:
		s.refuse(name, "%v", err)
		return
	case len(b) > maxSources:
		s.refuse(name, "larger than %d MiB: is it a list of sources?", maxSources>>20)
		return
	case bytes.IndexByte(b, 0) >= 0:
		s.refuse(name, "it is not a text: give a sources.list or a .sources file")
		return
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	before := len(s.List) + len(s.bad) + len(s.Notes)
	if isDeb822(b) {
		s.stanzas(name, b)
	} else {
		s.lines(name, b)
	}
	if len(s.List)+len(s.bad)+len(s.Notes) == before {
		s.refuse(name, "it names no source: write a line such as deb https://HOST/debian bookworm main")
	}
}

// isDeb822 reports whether the first line that says something is a field.
func isDeb822(b []byte) bool {
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, _, ok := bytes.Cut(line, []byte(":"))
		return ok && len(name) > 0 && !bytes.ContainsAny(name, " \t[/")
	}
	return false
}

// lines reads the one-line form: deb [OPTION=VALUE …] URI SUITE [COMPONENT …].
func (s *Sources) lines(name string, b []byte) {
	in := bufio.NewScanner(bytes.NewReader(b))
	in.Buffer(nil, maxSources+1)
	for n := 1; in.Scan(); n++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		if strings.TrimSpace(line) != "" {
			s.line(fmt.Sprintf("%s:%d", name, n), strings.TrimSpace(line))
		}
	}
	if err := in.Err(); err != nil {
		s.refuse(name, "%v", err)
	}
}

func (s *Sources) line(where, line string) {
	kind, rest := cutWord(line)
	options := map[string]string{}
	if strings.HasPrefix(rest, "[") {
		text, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			s.refuse(where, "the options have no end: write ] behind them")
			return
		}
		rest = strings.TrimSpace(after)
		for _, o := range strings.Fields(text) {
			k, v, ok := strings.Cut(o, "=")
			if !ok {
				s.refuse(where, "the option %.100q has no value: write %.100s=VALUE", o, o)
				return
			}
			options[strings.ToLower(k)] = strings.ReplaceAll(v, ",", " ")
		}
	}
	words := strings.Fields(rest)
	if len(words) < 2 {
		s.refuse(where, "write deb URI SUITE COMPONENT …, such as deb https://HOST/debian bookworm main")
		return
	}
	s.add(where, stanza{
		types: []string{kind}, uris: words[:1], suites: words[1:2], components: words[2:], options: options,
	})
}

// stanza is one entry of either form.
type stanza struct {
	types, uris, suites, components []string
	options                         map[string]string // by their names in the one-line form, words separated by spaces
}

// optionOf are the fields of the deb822 form by the names of the options in the one-line form.
var optionOf = map[string]string{
	"architectures": "arch", "languages": "lang", "targets": "target", "signed-by": "signed-by", "trusted": "trusted",
	"check-valid-until": "check-valid-until",
}

// stanzas reads the deb822 form.
func (s *Sources) stanzas(name string, b []byte) {
	p := newParagraphs(bytes.NewReader(b), maxSources, true)
	for {
		f, line, err := p.next()
		if err == io.EOF {
			return
		}
		where := fmt.Sprintf("%s:%d", name, line)
		if err != nil {
			s.refuse(where, "%v", err)
			return
		}
		e := stanza{options: map[string]string{}}
		enabled := true
		for field, value := range f {
			words := strings.Fields(value)
			switch base, change := cutChange(field); {
			case field == "types":
				e.types = words
			case field == "uris":
				e.uris = words
			case field == "suites":
				e.suites = words
			case field == "components":
				e.components = words
			case field == "enabled":
				enabled = isTrue(value, true)
			case field == "signed-by":
				e.options[field] = strings.TrimSpace(value)
			case optionOf[base] != "":
				e.options[optionOf[base]+change] = strings.Join(words, " ")
			}
		}
		switch {
		case !enabled:
			s.note(where, "it is not enabled, so it is left out")
		case len(e.types) == 0 || len(e.uris) == 0 || len(e.suites) == 0:
			s.refuse(where, "a source needs Types, URIs and Suites")
		default:
			s.add(where, e)
		}
	}
}

// cutChange returns a field without -Add or -Remove, and the sign by which the one-line form says the same.
func cutChange(field string) (base, change string) {
	if base, ok := strings.CutSuffix(field, "-add"); ok {
		return base, "+"
	}
	if base, ok := strings.CutSuffix(field, "-remove"); ok {
		return base, "-"
	}
	return field, ""
}

// add adds one source for each URI and suite of an entry.
func (s *Sources) add(where string, e stanza) {
	binary := false
	for _, kind := range e.types {
		switch kind {
		case "deb":
			binary = true
		case "deb-src":
			s.note(where, "source packages (deb-src) are not collected")
		default:
			s.refuse(where, "%.100q is not a type of source: write deb", kind)
			return
		}
	}
	if !binary {
		return
	}
	for _, uri := range e.uris {
		uri, err := checkURI(uri)
		if err != nil {
			s.refuse(where, "%v", err)
			return
		}
		for _, suite := range e.suites {
			src, err := e.source(uri, suite)
			switch {
			case err != nil:
				s.refuse(where, "%v", err)
				return
			case len(s.List) >= maxSourceFiles:
				s.refuse(where, "there are more than %d sources", maxSourceFiles)
				return
			}
			src.Where = where
			s.List = append(s.List, src)
		}
	}
}

// checkURI returns a URI that can be fetched, or says what to do about another one.
func checkURI(uri string) (string, error) {
	scheme, _, _ := strings.Cut(uri, ":")
	switch scheme = strings.ToLower(scheme); {
	case scheme == "http" || scheme == "https":
	case scheme == "cdrom" || scheme == "file" || scheme == "copy":
		return "", fmt.Errorf("%.200s is on one machine only: remove the source, or write its https address", uri)
	case strings.HasPrefix(scheme, "mirror"):
		return "", fmt.Errorf("%.200s is a list of mirrors: write the address of one of them", uri)
	default:
		return "", fmt.Errorf("%.200s: only https and http can be fetched", uri)
	}
	clean, err := lists.ParseFileURL(strings.TrimRight(uri, "/") + "/")
	if err != nil {
		return "", err
	}
	if strings.Contains(clean, "?") {
		return "", fmt.Errorf("%.200s: the address of a repository has no query", uri)
	}
	return strings.TrimRight(clean, "/"), nil
}

func (e *stanza) source(uri, suite string) (Source, error) {
	src := Source{
		URI: uri, Suite: strings.TrimPrefix(suite, "./"), Components: e.components,
		SignedBy: e.options["signed-by"], Trusted: isTrue(e.options["trusted"], false),
		AnyDate: !isTrue(e.options["check-valid-until"], true),
	}
	if src.Suite == "" {
		src.Suite = "/"
	}
	switch {
	case slices.Contains(strings.Split(suite, "/"), ".."):
		return src, fmt.Errorf("the suite %.100q leads out of the repository", suite)
	case src.Flat() && len(src.Components) > 0:
		return src, fmt.Errorf("the suite %.100q ends in a slash, so the repository is flat and has no components: "+
			"remove the components or the slash", suite)
	case !src.Flat() && len(src.Components) == 0:
		return src, fmt.Errorf("the suite %.100q needs a component, such as main; a suite of a flat repository ends "+
			"in a slash", suite)
	}
	for _, name := range append([]string{suite}, src.Components...) {
		if strings.Trim(name, pathCharacters) != "" {
			return src, fmt.Errorf("%.100q is not the name of a suite or component", name)
		}
	}
	src.Architectures = e.list("arch", nil)
	src.Languages = e.list("lang", nil)
	src.Targets = e.list("target", nil)
	return src, nil
}

const pathCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._~/$()"

// list returns the values of an option, as changed by its forms with + and -; nil if it is not set.
func (e *stanza) list(name string, usual []string) []string {
	set := e.options[name]
	list := strings.Fields(set)
	if set == "" {
		list = usual
	}
	list = append(slices.Clone(list), strings.Fields(e.options[name+"+"])...)
	return slices.DeleteFunc(list, func(v string) bool {
		return slices.Contains(strings.Fields(e.options[name+"-"]), v)
	})
}

// isTrue reads a switch as apt does.
func isTrue(value string, usual bool) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "yes", "true", "with", "on", "enable", "1", "allow", "force":
		return true
	case "no", "false", "without", "off", "disable", "0", "never":
		return false
	}
	return usual
}

// cutWord cuts the first word of a line.
func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t["); i >= 0 {
		return s[:i], strings.TrimSpace(s[i:])
	}
	return s, ""
}
