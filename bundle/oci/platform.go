package oci

import (
	"fmt"
	"strings"
)

// ParsePlatform reads "os/arch" or "os/arch/variant".
func ParsePlatform(s string) (Platform, error) {
	f := strings.Split(strings.ToLower(s), "/")
	if len(f) < 2 || len(f) > 3 || !ValidPlatform(s) || strings.Contains(s, "//") || strings.HasSuffix(s, "/") {
		return Platform{}, fmt.Errorf("platform %.100q is not OS/ARCH or OS/ARCH/VARIANT, like linux/arm64", s)
	}
	p := Platform{OS: f[0], Architecture: f[1]}
	if len(f) == 3 {
		p.Variant = f[2]
	}
	switch p.Architecture { // the names that uname prints
	case "x86_64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	return p, nil
}

// In reports whether p is one of the requested platforms. A platform requested without a variant includes all its
// variants; arm64 and arm64/v8 are the same.
func (p *Platform) In(asked []Platform) bool {
	for _, a := range asked {
		if a.OS != p.OS || a.Architecture != p.Architecture {
			continue
		}
		if a.Variant == "" || a.Variant == p.Variant ||
			p.Architecture == "arm64" && a.Variant == "v8" && p.Variant == "" {
			return true
		}
	}
	return false
}
