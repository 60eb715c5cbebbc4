package collect

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// override names the mirror of everything below a name.
type override struct{ upstream, mirror string }

// parseOverrides reads overrides of the form UPSTREAM=MIRROR, and returns the longest first.
func parseOverrides(list []string) ([]override, error) {
	var all []override
	for _, s := range list {
		upstream, mirror, ok := strings.Cut(s, "=")
		upstream, mirror = strings.Trim(upstream, "/"), strings.Trim(mirror, "/")
		host, _, _ := strings.Cut(mirror, "/")
		if !ok || upstream == "" || !strings.ContainsAny(host, ".:") && host != "localhost" ||
			strings.Contains(s, "://") {
			return nil, fmt.Errorf(
				"a registry override is UPSTREAM=MIRROR, like docker.io=artifactory.example/docker-remote, got %q",
				s,
			)
		}
		if at, rest, _ := strings.Cut(upstream, "/"); at == "index.docker.io" ||
			at == "registry-1.docker.io" { // lists have one name for these
			upstream = strings.TrimSuffix("docker.io/"+rest, "/")
		}
		if slices.ContainsFunc(all, func(o override) bool { return o.upstream == upstream }) {
			return nil, fmt.Errorf("%s has two registry overrides", upstream)
		}
		all = append(all, override{upstream, mirror})
	}
	slices.SortFunc(all, func(a, b override) int { return cmp.Compare(len(b.upstream), len(a.upstream)) })
	return all, nil
}

// mirrorOf returns where a repository is requested: the longest override that it lies below is used.
func mirrorOf(overrides []override, canonical string) string {
	for _, o := range overrides {
		if rest, ok := strings.CutPrefix(canonical, o.upstream); ok && (rest == "" || rest[0] == '/') {
			return o.mirror + rest
		}
	}
	return canonical
}
