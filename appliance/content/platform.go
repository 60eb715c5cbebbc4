package content

import (
	"fmt"
	"slices"
	"strings"

	"casemate/registry"
)

func validPlatform(p string) bool {
	n := strings.Count(p, "/")
	return len(p) <= 64 && (n == 1 || n == 2) && !strings.HasPrefix(p, "/") && !strings.HasSuffix(p, "/") &&
		!strings.Contains(p, "//") &&
		strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") == ""
}

// lacking returns those of want that cannot be pulled. Content without platforms (a chart, a signature, a build
// cache) matches every platform.
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

// hollow returns why a stored index is unusable, "" if it is usable.
func hollow(found registry.Resolution) string {
	switch {
	case !found.Sparse:
	case len(found.Platforms) == 0:
		return "its index is stored, but none of its manifests"
	case len(realPlatforms(found.Platforms)) == 0 && len(realPlatforms(found.Absent)) > 0:
		return "its index is stored, but none of its platforms"
	}
	return ""
}

// sparse describes which part of an index is stored.
func sparse(found registry.Resolution) string {
	if len(realPlatforms(found.Platforms)) > 0 {
		return "other manifests that it lists are not stored"
	}
	return fmt.Sprintf("%d of the %d that it lists are stored", len(found.Platforms),
		len(found.Platforms)+len(found.Absent))
}

// mattering returns the wrong sizes that affect a client for one of the platforms (nil: for any).
func mattering(list []registry.WrongSize, platforms []string) []registry.WrongSize {
	return slices.DeleteFunc(slices.Clone(list), func(w registry.WrongSize) bool {
		return len(platforms) > 0 && w.Platform != "" && !slices.ContainsFunc(platforms,
			func(p string) bool { return serves(w.Platform, p) })
	})
}

// sizesText describes wrong sizes.
func sizesText(list []registry.WrongSize) string {
	w := list[0]
	text := fmt.Sprintf("%s states that %s has %d bytes, but it has %d: containerd refuses it", w.Of, w.Digest,
		w.Says, w.Has)
	if len(list) > 1 {
		text += fmt.Sprintf("; and %d more", len(list)-1)
	}
	return text
}

// serves reports whether content for the platform have satisfies a client that wants want: without a variant any
// variant does, and arm64 is arm64/v8.
func serves(have, want string) bool {
	have, want = plain(have), plain(want)
	return have == want || strings.Count(want, "/") == 1 && strings.HasPrefix(have, want+"/")
}

// plain normalizes a platform: lower case, the architecture as in GOARCH and not as in uname, and arm64 without its
// only variant.
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

// realPlatforms leaves out entries with an unknown platform, which are listed by digest.
func realPlatforms(list []string) []string {
	var real []string
	for _, p := range list {
		if !strings.Contains(p, ":") {
			real = append(real, p)
		}
	}
	return real
}
