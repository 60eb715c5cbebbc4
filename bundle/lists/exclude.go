package lists

import (
	"regexp"
	"slices"
	"strings"
)

// Exclude removes what patterns match, and returns the removed names, and the patterns that matched nothing.
//
// A pattern is compared with a whole name: an image's repository, with or without its tag or digest; a file's,
// a redirect's or a Git repository's URL, with or without its scheme; a chart as REPOSITORY CHART VERSION, with or
// without its version. * matches any characters including slashes, and ? matches one. A pattern with neither also
// matches everything below it: quay.io, quay.io/team.
func Exclude(w *Wanted, patterns []string) (gone, idle []string) {
	used := make([]bool, len(patterns))
	var forms []*regexp.Regexp
	for _, p := range patterns {
		forms = append(forms, globForm(p))
	}
	matches := func(name string, spellings ...string) bool {
		any := false
		for i, f := range forms {
			if slices.ContainsFunc(spellings, f.MatchString) {
				used[i], any = true, true
			}
		}
		if any {
			gone = append(gone, name)
		}
		return any
	}
	w.Images = slices.DeleteFunc(w.Images, func(i Image) bool {
		plain := i
		plain.Digest = ""
		return matches(i.Ref(), i.Ref(), plain.Ref(), i.Repository)
	})
	w.Files = slices.DeleteFunc(w.Files, func(f File) bool {
		_, rest, _ := strings.Cut(f.URL, "://")
		return matches(f.URL, f.URL, rest)
	})
	w.Redirects = slices.DeleteFunc(w.Redirects, func(r Redirect) bool {
		_, rest, _ := strings.Cut(r.From, "://")
		return matches(r.From, r.From, rest)
	})
	w.Git = slices.DeleteFunc(w.Git, func(r Repository) bool {
		_, rest, _ := strings.Cut(r.URL, "://")
		return matches(r.URL, r.URL, rest)
	})
	w.Charts = slices.DeleteFunc(w.Charts, func(c Chart) bool {
		_, rest, _ := strings.Cut(c.Repo, "://")
		return matches(
			c.Label(),
			c.Repo,
			rest,
			c.Repo+" "+c.Name,
			rest+" "+c.Name,
			c.Repo+" "+c.Name+" "+c.Version,
			rest+" "+c.Name+" "+c.Version,
		)
	})
	for i, p := range patterns {
		if !used[i] {
			idle = append(idle, p)
		}
	}
	return gone, idle
}

// globForm turns a pattern into a regular expression.
func globForm(p string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(p)
	if quoted = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(quoted); !strings.ContainsAny(p, "*?") {
		quoted = strings.TrimSuffix(quoted, "/") + `(/.*)?`
	}
	return regexp.MustCompile(`^(?s:` + quoted + `)$`)
}
