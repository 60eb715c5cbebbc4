package oci

import (
	"fmt"
	"strings"
)

// ParsePlatform reads "os/arch" or "os/arch/variant", as people write it.
func ParsePlatform(s string) (Platform, error) {
	f := strings.Split(strings.ToLower(s), "/")
	if len(f) < 2 || len(f) > 3 || !ValidPlatform(s) || strings.Contains(s, "//") || strings.HasSuffix(s, "/") {
		return Platform{}, fmt.Errorf("platform %.100q is not OS/ARCH or OS/ARCH/VARIANT, like linux/arm64", s)
	}
	p := Platform{OS: f[0], Architecture: f[1]}
	if len(f) == 3 {
		p.Variant = f[2]
	}
	switch p.Architecture { // as uname says it
	case "x86_64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	return p, nil
}

// In says whether an image for p is one of those asked for. A platform that was asked for without a variant is all
// of its variants; arm64 and arm64/v8 are one.
func (p *Platform) In(asked []Platform) bool {
	for _, a := range asked {
		if a.OS != p.OS || a.Architecture != p.Architecture {
			continue
		}
		if a.Variant == "" || a.Variant == p.Variant || p.Architecture == "arm64" && a.Variant == "v8" && p.Variant == "" {
			return true
		}
	}
	return false
}
