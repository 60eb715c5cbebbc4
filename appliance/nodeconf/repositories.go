package nodeconf

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

var (
	repositoryForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,60}[a-z0-9])?$`)
	// armorForm is a block of ASCII armor (RFC 9580, 6.2): no line of it has a meaning for a shell.
	armorForm = regexp.MustCompile(`^-----BEGIN PGP PUBLIC KEY BLOCK-----\n([A-Za-z0-9+/=]*\n)+` +
		`-----END PGP PUBLIC KEY BLOCK-----\n$`)
)

// checkRepositories refuses data of repositories that is not valid in a script.
func (s *Site) checkRepositories() error {
	for _, r := range s.Repositories {
		if !repositoryForm.MatchString(r.Name) || r.Format != "deb" && r.Format != "rpm" {
			return fmt.Errorf("the repository %q has a name or a format (%q) that nodes cannot use", r.Name, r.Format)
		}
	}
	if len(s.Repositories) > 0 && !armorForm.MatchString(s.RepositoryKey) {
		return fmt.Errorf("the key of the repositories is not an armored OpenPGP key")
	}
	return nil
}

// scriptRepositories writes what the script knows of them.
func (s *Site) scriptRepositories(line func(format string, args ...any)) {
	names := make([]string, len(s.Repositories))
	for i, r := range s.Repositories {
		names[i] = r.Name + " " + r.Format
	}
	line("# The repositories of packages, one per line: its name and format; and the key that signs them.")
	line("CASEMATE_REPOSITORIES='%s'", strings.Join(names, "\n"))
	line("repositoryKey() {")
	if s.RepositoryKey == "" {
		line("\t:")
	} else {
		line("\tcat <<'EOF'\n%sEOF", s.RepositoryKey)
	}
	line("}")
}

// choose checks that there are repositories of these names, and returns the script's arguments for them.
func (s *Site) choose(names []string) (arguments []string, err error) {
	for _, name := range names {
		if !slices.ContainsFunc(s.Repositories, func(r Repository) bool { return r.Name == name }) {
			return nil, fmt.Errorf("there is no repository %.100q of your own, see casemate repo list, or make it "+
				"with casemate repo add: %w", name, fs.ErrNotExist)
		}
		arguments = append(arguments, "--repo", name)
	}
	return arguments, nil
}
