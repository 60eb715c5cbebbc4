package content

import (
	"slices"
	"strings"

	"casemate/registry"
)

func validPlatform(p string) bool {
	n := strings.Count(p, "/")
	return len(p) <= 64 && (n == 1 || n == 2) && !strings.HasPrefix(p, "/") && !strings.HasSuffix(p, "/") && !strings.Contains(p, "//") &&
		strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") == ""
}

// lacking returns those of want that cannot be pulled. What has no platforms at all (a chart, a signature) is for every one.
func lacking(found registry.Found, want []string) []string {
	var list []string
	if len(found.Platforms) == 0 && !found.Sparse {
		return nil
	}
	for _, w := range want {
		if !slices.ContainsFunc(found.Platforms, func(have string) bool { return serves(have, w) }) {
			list = append(list, w)
		}
	}
	return list
}

// serves reports whether a client that wants one platform is content with another: without a variant any is taken, and arm64 is arm64/v8.
func serves(have, want string) bool {
	have, want = plain(have), plain(want)
	return have == want || strings.Count(want, "/") == 1 && strings.HasPrefix(have, want+"/")
}

// plain is a platform in one spelling: lower case, the processor as Go names it and not as uname does, without the only variant of arm64.
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

// realPlatforms leaves out children that say none, which stand as their digests.
func realPlatforms(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(p string) bool { return strings.Contains(p, ":") })
}
