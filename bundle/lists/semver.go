package lists

import (
	"cmp"
	"strings"
)

// compareSemver orders versions as https://semver.org 2.0 does, including the precedence of pre-releases. A leading v
// and build metadata are ignored; what is not a version comes first.
func compareSemver(a, b string) int {
	coreA, preA, okA := splitVersion(a)
	coreB, preB, okB := splitVersion(b)
	if !okA || !okB {
		return cmp.Or(compareBools(okA, okB), strings.Compare(a, b))
	}
	for i := range coreA {
		if c := compareNumbers(coreA[i], coreB[i]); c != 0 {
			return c
		}
	}
	if preA == "" || preB == "" {
		return compareBools(preA == "", preB == "")
	}
	fieldsA, fieldsB := strings.Split(preA, "."), strings.Split(preB, ".")
	for i := range min(len(fieldsA), len(fieldsB)) {
		x, y := fieldsA[i], fieldsB[i]
		var c int
		switch nx, ny := isNumber(x), isNumber(y); {
		case nx && ny:
			c = compareNumbers(x, y)
		case nx != ny: // numbers come before words
			c = compareBools(ny, nx)
		default:
			c = strings.Compare(x, y)
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(fieldsA), len(fieldsB))
}

// prerelease reports whether a version is a pre-release, or not a version at all.
func prerelease(v string) bool {
	_, pre, ok := splitVersion(v)
	return !ok || pre != ""
}

// splitVersion splits a version. Minor and patch may be missing, as charts have it.
func splitVersion(v string) (core [3]string, pre string, ok bool) {
	v, _, _ = strings.Cut(strings.TrimPrefix(v, "v"), "+")
	v, pre, dash := strings.Cut(v, "-")
	fields := strings.Split(v, ".")
	if len(fields) > 3 || dash && pre == "" {
		return core, "", false
	}
	core = [3]string{"0", "0", "0"}
	for i, f := range fields {
		if !isNumber(f) {
			return core, "", false
		}
		core[i] = f
	}
	return core, pre, true
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// compareNumbers compares decimal numbers of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
