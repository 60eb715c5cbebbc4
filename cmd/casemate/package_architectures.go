package main

import (
	"strings"
)

// rpmArchitectures are the names that rpm has for the processors of platforms.
func rpmArchitectures(platforms []string) (list []string) {
	for _, p := range platforms {
		_, arch, _ := strings.Cut(strings.ToLower(p), "/")
		arch, variant, _ := strings.Cut(arch, "/")
		switch arch {
		case "amd64":
			arch = "x86_64"
			if variant == "v2" || variant == "v3" || variant == "v4" {
				arch += "_" + variant
			}
		case "arm64":
			arch = "aarch64"
		case "386":
			arch = "i686"
		case "arm":
			arch = "armv7hl"
		}
		list = append(list, arch)
	}
	return list
}

// debArchitectures are the names that dpkg has for the processors of platforms.
func debArchitectures(platforms []string) (list []string) {
	for _, p := range platforms {
		_, arch, _ := strings.Cut(strings.ToLower(p), "/")
		arch, variant, _ := strings.Cut(arch, "/")
		switch arch {
		case "x86_64":
			arch = "amd64"
		case "aarch64":
			arch = "arm64"
		case "386":
			arch = "i386"
		case "ppc64le":
			arch = "ppc64el"
		case "mips64le":
			arch = "mips64el"
		case "mipsle":
			arch = "mipsel"
		case "arm":
			if arch = "armhf"; variant == "v5" || variant == "v6" {
				arch = "armel"
			}
		}
		list = append(list, arch)
	}
	return list
}
