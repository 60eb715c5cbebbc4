package python

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Targets are the Pythons and machines that wheels are for; without any, all wheels are.
type Targets struct {
	versions  []int    // minor versions of Python 3
	platforms []string // FAMILY_ARCH: linux_x86_64
}

var (
	pythonForm   = regexp.MustCompile(`^3\.([0-9]{1,2})(\.[0-9]{1,2})?$`)
	platformForm = regexp.MustCompile(`^(linux|manylinux[0-9_]+|musllinux[0-9_]+|macosx(?:_[0-9_]+)?|win)_?(.*)$`)
	pythonTag    = regexp.MustCompile(`^(py|cp)([23])([0-9]*)$`)
)

// NewTargets reads versions of Python ("3.11") and platforms: "linux_x86_64", "macosx_arm64", "win_amd64", or the tags
// that pip takes ("manylinux2014_aarch64"), of which system and processor count.
func NewTargets(versions, platforms []string) (*Targets, error) {
	t := &Targets{}
	for _, v := range versions {
		m := pythonForm.FindStringSubmatch(v)
		if m == nil {
			return nil, fmt.Errorf("%.50q is not a version of Python, like 3.11", v)
		}
		minor, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, err
		}
		t.versions = append(t.versions, minor)
	}
	for _, p := range platforms {
		family, ok := familyOf(p)
		if !ok {
			return nil, fmt.Errorf("%.100q is not a platform of wheels, like linux_x86_64, linux_aarch64, "+
				"macosx_arm64 or win_amd64", p)
		}
		t.platforms = append(t.platforms, family)
	}
	return t, nil
}

// familyOf returns the system and the processor of a platform's tag.
func familyOf(tag string) (string, bool) {
	if tag == "win32" {
		return tag, true
	}
	m := platformForm.FindStringSubmatch(tag)
	if m == nil || m[2] == "" {
		return "", false
	}
	family, _, _ := strings.Cut(m[1], "_")
	if strings.HasPrefix(family, "manylinux") || strings.HasPrefix(family, "musllinux") {
		family = "linux"
	}
	return family + "_" + m[2], true
}

// Want reports whether a file may be installed on one of the targets. Source distributions may be anywhere. It errs on
// the side of more: which C library a machine has is unknown here.
func (t *Targets) Want(f File) bool {
	if !f.Wheel() {
		return true
	}
	return t.wantPlatform(f.Platform) && t.wantPython(f.Python, f.ABI)
}

func (t *Targets) wantPlatform(tags string) bool {
	if len(t.platforms) == 0 {
		return true
	}
	for tag := range strings.SplitSeq(tags, ".") {
		family, _ := familyOf(tag)
		arch, universal := strings.CutPrefix(family, "macosx_universal")
		if tag == "any" || slices.Contains(t.platforms, family) || universal && arch == "2" &&
			slices.ContainsFunc(t.platforms, func(p string) bool { return strings.HasPrefix(p, "macosx_") }) {
			return true
		}
	}
	return false
}

func (t *Targets) wantPython(tags, abis string) bool {
	if len(t.versions) == 0 {
		return true
	}
	stable := slices.Contains(strings.Split(abis, "."), "abi3")
	none := slices.Contains(strings.Split(abis, "."), "none")
	for tag := range strings.SplitSeq(tags, ".") {
		m := pythonTag.FindStringSubmatch(tag)
		if m == nil || m[2] != "3" {
			continue
		}
		if m[3] == "" {
			return true
		}
		minor, err := strconv.Atoi(m[3])
		if err != nil {
			continue
		}
		for _, v := range t.versions {
			if v == minor || v > minor && (stable || none) {
				return true
			}
		}
	}
	return false
}
