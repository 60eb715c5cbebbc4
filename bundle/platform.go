package bundle

import (
	"slices"
	"strings"
)

// Systems and Architectures are what images are built for, the two parts of a platform like linux/amd64: the image
// specification takes Go's names; the names that uname prints are accepted, too. A typo would be asked for in vain,
// image by image.
var (
	Systems = []string{"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "aix", "wasi",
		"wasip1"}
	Architectures = []string{"amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64", "ppc64",
		"mips64le", "mips64", "mipsle", "mips", "wasm", "x86_64", "aarch64"}
)

// KnownPlatform reports whether a platform like linux/arm64/v8 names a system and an architecture that exist. The
// variant is not looked at.
func KnownPlatform(platform string) bool {
	system, rest, _ := strings.Cut(strings.ToLower(platform), "/")
	architecture, _, _ := strings.Cut(rest, "/")
	return slices.Contains(Systems, system) && slices.Contains(Architectures, architecture)
}
