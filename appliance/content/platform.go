package content

import (
	"fmt"
	"slices"
	"strings"

	"casemate/registry"
)

func validPlatform(p string) bool {
	n := strings.Count(p, "/")
	return len(p) <= 64 && (n == 1 || n == 2) && !strings.HasPrefix(p, "/") && !strings.HasSuffix(p, "/") && !strings.Contains(p, "//") &&
		strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") == ""
}

// lacking returns those of want that cannot be pulled. What has no platforms at all (a chart, a signature, a build
// cache) is for every one.
func lacking(found registry.Resolution, want []string) []string {
	var list []string
	here := realPlatforms(found.Platforms)
	if len(here) == 0 && len(realPlatforms(found.Absent)) == 0 {
		return nil
	}
	for _, w := range want {
		if !slices.ContainsFunc(here, func(have string) bool { return serves(have, w) }) {
			list = append(list, w)
		}
	}
	return list
}

// hollow says why nobody can use an index that is here, "" if somebody can.
func hollow(found registry.Resolution) string {
	switch {
	case !found.Sparse:
	case len(found.Platforms) == 0:
		return "its index is here and nothing that it lists"
	case len(realPlatforms(found.Platforms)) == 0 && len(realPlatforms(found.Absent)) > 0:
		return "its index is here and none of its platforms"
	}
	return ""
}

// sparse says in words what is here of an index that lists more.
func sparse(found registry.Resolution) string {
	if len(realPlatforms(found.Platforms)) > 0 {
		return "others that it lists are not here"
	}
	return fmt.Sprintf("%d of the %d that it lists are here", len(found.Platforms),
		len(found.Platforms)+len(found.Absent))
}

// mattering returns the wrong sizes that a client for one of the platforms meets (nil: for any).
func mattering(list []registry.WrongSize, platforms []string) []registry.WrongSize {
	return slices.DeleteFunc(slices.Clone(list), func(w registry.WrongSize) bool {
		return len(platforms) > 0 && w.Platform != "" && !slices.ContainsFunc(platforms,
			func(p string) bool { return serves(w.Platform, p) })
	})
}

// sizesText says in words what is wrong with sizes.
func sizesText(list []registry.WrongSize) string {
	w := list[0]
	text := fmt.Sprintf("%s says that %s has %d bytes, it has %d: containerd refuses it", w.Of, w.Digest, w.Says, w.Has)
	if len(list) > 1 {
		text += fmt.Sprintf("; and %d more", len(list)-1)
	}
	return text
}

// serves reports whether a client that wants one platform is content with another: without a variant any is taken, and
// arm64 is arm64/v8.
func serves(have, want string) bool {
	have, want = plain(have), plain(want)
	return have == want || strings.Count(want, "/") == 1 && strings.HasPrefix(have, want+"/")
}

// plain is a platform in one spelling: lower case, the processor as Go names it and not as uname does, without the only
// variant of arm64.
func plain(platform string) string {
	p := strings.Split(strings.ToLower(platform), "/")
	if len(p) < 2 {
		return platform
	}
	switch p[1] {
	case "x86_64":
		p[1] = "amd64"
	case "aarch64":
		p[1] = "arm64"
	}
	if p[1] == "arm64" && len(p) == 3 && p[2] == "v8" {
		p = p[:2]
	}
	return strings.Join(p, "/")
}

// realPlatforms leaves out entries of which nobody says a platform, which stand as their digests.
func realPlatforms(list []string) []string {
	var real []string
	for _, p := range list {
		if !strings.Contains(p, ":") {
			real = append(real, p)
		}
	}
	return real
}
