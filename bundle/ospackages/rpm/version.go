package rpm

import (
	"cmp"
	"strconv"
	"strings"

	rpmversion "github.com/knqyf263/go-rpm-version"
)

// evr is an epoch, a version and a release (rpm-version(7)). An empty release is one that does not count.
type evr struct {
	epoch            int
	version, release string
}

// parseEVR reads [EPOCH:]VERSION[-RELEASE].
func parseEVR(s string) evr {
	e := evr{version: s}
	if epoch, rest, ok := strings.Cut(s, ":"); ok {
		if n, err := strconv.Atoi(epoch); err == nil {
			e.epoch, e.version = n, rest
		}
	}
	e.version, e.release, _ = strings.Cut(e.version, "-")
	return e
}

// String is the form without an epoch of 0.
func (e evr) String() string {
	s := e.version
	if e.epoch > 0 {
		s = strconv.Itoa(e.epoch) + ":" + s
	}
	if e.release != "" {
		s += "-" + e.release
	}
	return s
}

// compare orders versions as rpm does. If one of them has no release, releases do not count.
func (e evr) compare(f evr) int {
	if c := cmp.Or(cmp.Compare(e.epoch, f.epoch), compareSegments(e.version, f.version)); c != 0 {
		return c
	}
	if e.release == "" || f.release == "" {
		return 0
	}
	return compareSegments(e.release, f.release)
}

// compareSegments orders versions, or releases.
func compareSegments(a, b string) int {
	if a == b {
		return 0
	}
	return rpmversion.NewVersion("0:" + a).Compare(rpmversion.NewVersion("0:" + b))
}

// The senses of a dependency. Those of a range are less|equal and so on.
const (
	less = 1 << iota
	greater
	equal
)

// senses are the flags of primary.xml, and the operators of rich dependencies.
var senses = map[string]uint8{
	"LT": less, "LE": less | equal, "EQ": equal, "GE": greater | equal, "GT": greater,
	"<": less, "<=": less | equal, "=": equal, ">=": greater | equal, ">": greater,
}

// operators are the texts of senses.
var operators = map[uint8]string{
	less: "<", less | equal: "<=", equal: "=", greater | equal: ">=", greater: ">",
}

// dep is one capability, with a range of versions: what a package needs, or what it provides.
type dep struct {
	name string
	evr  evr
	op   uint8 // 0: any version
}

func (d *dep) String() string {
	if d.op == 0 {
		return d.name
	}
	return d.name + " " + operators[d.op] + " " + d.evr.String()
}

// meets reports whether what is provided has a version in common with what is required, as rpmdsCompare does. The names
// are the same.
func (d *dep) meets(provided *dep) bool {
	if d.op == 0 || provided == nil || provided.op == 0 {
		return true
	}
	switch c := provided.evr.compare(d.evr); {
	case c < 0:
		return provided.op&greater != 0 || d.op&less != 0
	case c > 0:
		return provided.op&less != 0 || d.op&greater != 0
	default:
		return d.op&provided.op != 0
	}
}
