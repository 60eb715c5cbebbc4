package access

import (
	"encoding/json"
	"slices"
	"strings"

	"casemate/appliance/usage"
)

// Bounds of an account's record, which must fit into a record of the tree.
const (
	maxGrants   = 16
	maxPrefixes = 16  // of one grant, of each kind
	maxPrefix   = 255 // bytes
	maxRecord   = 4 << 10
)

// A Grant gives a role, everywhere or below prefixes.
type Grant struct {
	Role string `json:"role"`
	// Images are prefixes of repositories ("team" is team and everything below team/), Files of files' URLs without
	// the scheme ("dl.example.com/tools"). Without any the grant is for everything; with one kind only, it allows
	// nothing of the other.
	Images []string `json:"images,omitempty"`
	Files  []string `json:"files,omitempty"`
}

// An Object is what somebody wants to act on. The zero value is everything.
type Object struct {
	Kind string // KindImage, KindFile, or another noun
	Name string // a canonical repository, a URL without its scheme, or a name
}

// The kinds of objects that grants can be limited to.
const (
	KindImage = "image"
	KindFile  = "file"
)

// Image and File are the objects of content; a file is named by its URL, with or without its scheme.
func Image(repository string) Object { return Object{KindImage, repository} }

func File(url string) Object {
	if _, rest, ok := strings.Cut(url, "://"); ok {
		url = rest
	}
	return Object{KindFile, url}
}

func (o Object) String() string {
	if o == (Object{}) {
		return ""
	}
	return strings.TrimSpace(o.Kind + " " + o.Name)
}

func (g Grant) limited() bool { return len(g.Images)+len(g.Files) > 0 }

// gives reports whether the grant allows a verb on an object.
func (g Grant) gives(v Verb, o Object) bool {
	role, ok := roleOf(g.Role)
	if !ok || !slices.Contains(role.Verbs, v) {
		return false
	}
	if !g.limited() {
		return true
	}
	switch o.Kind {
	case KindImage:
		return below(g.Images, o.Name)
	case KindFile:
		return below(g.Files, o.Name)
	}
	return false
}

// covers reports whether everything that other allows for a verb is allowed by g, too.
func (g Grant) covers(v Verb, other Grant) bool {
	if role, ok := roleOf(g.Role); !ok || !slices.Contains(role.Verbs, v) {
		return false
	}
	if !g.limited() {
		return true
	}
	in := func(mine, theirs []string) bool {
		return !slices.ContainsFunc(theirs, func(p string) bool { return !below(mine, p) })
	}
	return other.limited() && in(g.Images, other.Images) && in(g.Files, other.Files)
}

// below reports whether name is one of the prefixes or below it. Prefixes end at a slash.
func below(prefixes []string, name string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		rest, ok := strings.CutPrefix(name, p)
		return ok && (rest == "" || rest[0] == '/') && !hasDots(name)
	})
}

// hasDots reports a path that could lead out of a prefix, if somebody resolved it.
func hasDots(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

// Check normalizes a grant and returns what is wrong with it.
func (g *Grant) Check() error {
	role, ok := roleOf(g.Role)
	if !ok {
		return usage.Errorf("there is no role %.64q: the roles are %s", g.Role, roleNames())
	}
	if g.limited() && !role.Limits {
		return usage.Errorf("the role %s cannot be limited to prefixes: only reader and pusher can", g.Role)
	}
	for kind, list := range map[string]*[]string{"image": &g.Images, "file": &g.Files} {
		if len(*list) > maxPrefixes {
			return usage.Errorf("a role has at most %d prefixes of %ss, got %d", maxPrefixes, kind, len(*list))
		}
		var clean []string
		for _, p := range *list {
			if _, rest, ok := strings.Cut(p, "://"); ok && kind == "file" {
				p = rest
			}
			p = strings.TrimRight(p, "/")
			if p == "" || len(p) > maxPrefix || p[0] == '/' || strings.Contains(p, "//") || hasDots(p) ||
				strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '?' || r == '#' }) {
				return usage.Errorf("a prefix of %ss has 1 to %d bytes, like %s, got %.100q", kind, maxPrefix,
					map[string]string{"image": "team/app", "file": "dl.example.com/tools"}[kind], p)
			}
			clean = append(clean, p)
		}
		slices.Sort(clean)
		*list = slices.Compact(clean)
	}
	return nil
}

// checkGrants normalizes all grants of an account.
func checkGrants(list []Grant) error {
	if len(list) > maxGrants {
		return usage.Errorf("an account has at most %d roles, got %d", maxGrants, len(list))
	}
	for i := range list {
		if err := list[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

func (g Grant) String() string {
	if !g.limited() {
		return g.Role
	}
	var where []string
	if len(g.Images) > 0 {
		where = append(where, "images "+strings.Join(g.Images, ", "))
	}
	if len(g.Files) > 0 {
		where = append(where, "files "+strings.Join(g.Files, ", "))
	}
	return g.Role + " (" + strings.Join(where, "; ") + ")"
}

// describe returns grants as one text.
func describe(list []Grant) string {
	var texts []string
	for _, g := range list {
		texts = append(texts, g.String())
	}
	return strings.Join(texts, ", ")
}

// encode returns a record, which must fit into the tree.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(data) > maxRecord {
		return nil, usage.Errorf("the roles need %d bytes, at most %d can be stored: use fewer or shorter prefixes",
			len(data), maxRecord)
	}
	return data, nil
}
