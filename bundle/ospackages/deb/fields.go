package deb

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// One wrong field of one package makes apt refuse all its lists, those of other repositories too. So the fields that
// apt reads are checked as strictly as apt reads them, before a package gets into an index.

// relationFields are the fields of dependencies (Debian policy, 7), with what is special about them.
var relationFields = []struct {
	name         string
	alternatives bool // "|" is allowed
	exact        bool // versions only with "="
}{
	{"Pre-Depends", true, false}, {"Depends", true, false}, {"Recommends", true, false}, {"Suggests", true, false},
	{"Enhances", true, false}, {"Breaks", false, false}, {"Conflicts", false, false}, {"Replaces", false, false},
	{"Provides", false, true},
}

// relationForm is one dependency of a binary package: NAME[:ARCH] [(OPERATOR VERSION)]. Lists of architectures and
// build profiles are only for source packages.
var relationForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]*(:[a-z0-9][a-z0-9-]*)?` +
	`([ \t\n]*\([ \t\n]*(<<|<=|<|==?|>|>=|>>)[ \t\n]*[A-Za-z0-9.+~:-]+[ \t\n]*\))?$`)

// wordFields are the fields of a few words that apt warns about otherwise, at each of its commands.
var wordFields = []struct {
	name  string
	words []string
}{
	{"Multi-Arch", []string{"no", "same", "foreign", "allowed"}}, {"Essential", []string{"yes", "no"}},
	{"Protected", []string{"yes", "no"}}, {"Important", []string{"yes", "no"}},
}

// checkFields returns an error if apt cannot read a field. fields have names in lower case.
func checkFields(fields map[string]string) error {
	for _, f := range relationFields {
		value, ok := fields[strings.ToLower(f.name)]
		if !ok || value == "" {
			continue
		}
		for text := range strings.SplitSeq(strings.TrimSuffix(value, ","), ",") {
			alternatives := strings.Split(text, "|")
			if len(alternatives) > 1 && !f.alternatives {
				return fmt.Errorf("its control file has the field %s with %.100q: alternatives are not allowed there",
					f.name, strings.TrimSpace(text))
			}
			for _, one := range alternatives {
				m := relationForm.FindStringSubmatch(strings.Trim(one, " \t\n"))
				if m == nil {
					return fmt.Errorf("its control file has the field %s with %.100q, which apt cannot read: write "+
						"NAME, NAME:ARCH or NAME (>= VERSION), with commas between them", f.name,
						strings.TrimSpace(one))
				}
				if f.exact && m[3] != "" && m[3] != "=" {
					return fmt.Errorf("its control file has the field %s with %.100q: only (= VERSION) is allowed",
						f.name, strings.TrimSpace(one))
				}
			}
		}
	}
	for _, f := range wordFields {
		value, ok := fields[strings.ToLower(f.name)]
		if ok && !slices.Contains(f.words, strings.ToLower(value)) {
			return fmt.Errorf("its control file has the field %s: %.100q, which is not one of %s", f.name, value,
				strings.Join(f.words, ", "))
		}
	}
	return nil
}
