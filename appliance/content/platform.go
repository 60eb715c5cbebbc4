package content

import (
	"slices"
	"strings"

	"casemate/registry"
)

// allPlatforms asks for everything that an index lists.
const allPlatforms = "all"

func validPlatform(p string) bool {
	n := strings.Count(p, "/")
	return p == allPlatforms || len(p) <= 64 && (n == 1 || n == 2) && !strings.HasPrefix(p, "/") && !strings.HasSuffix(p, "/") && !strings.Contains(p, "//") &&
		strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789._/-") == ""
}

// lacking returns those of want that cannot be pulled. What has no platforms at all (a chart, a signature) is for every one.
func lacking(found registry.Found, want []string) []string {
	var list []string
	for _, w := range want {
		if w == allPlatforms {
			list = append(list, found.Absent...)
			continue
		}
		if len(found.Platforms) == 0 && !found.Sparse {
			continue
		}
		if !slices.ContainsFunc(found.Platforms, func(have string) bool { return serves(have, w) }) {
			list = append(list, w)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// serves reports whether a client that wants one platform is content with another, as containerd's matcher is: the variant of arm64 is v8 unless it says
// another, and without a variant any is taken.
func serves(have, want string) bool {
	if have == want {
		return true
	}
	have, want = strings.TrimSuffix(have, "arm64/v8")+arm64(have), strings.TrimSuffix(want, "arm64/v8")+arm64(want)
	return have == want || strings.Count(want, "/") == 1 && strings.HasPrefix(have, want+"/")
}

func arm64(platform string) string {
	if strings.HasSuffix(platform, "arm64/v8") {
		return "arm64"
	}
	return ""
}

// realPlatforms leaves out children that say none, which stand as their digests.
func realPlatforms(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(p string) bool { return strings.Contains(p, ":") })
}
