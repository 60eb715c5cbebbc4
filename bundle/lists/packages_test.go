package lists

import (
	"fmt"
	"strings"
	"testing"
)

func TestPackages(t *testing.T) {
	var l Parser
	l.Packages("p.list", strings.NewReader(`# what nodes need
conntrack
socat=1.7.4.4-2
libc6:arm64   # for the other processor
libc6:arm64=2.36-9+deb12u13
*
linux-image-*
g++
conntrack
a=1:2.0~rc1-1
@core
`))
	w, err := l.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range w.Packages {
		got = append(got, p.Where+" "+p.Label())
	}
	want := "[p.list:2 conntrack p.list:3 socat=1.7.4.4-2 p.list:4 libc6:arm64 p.list:5 libc6:arm64=2.36-9+deb12u13 " +
		"p.list:6 * p.list:7 linux-image-* p.list:8 g++ p.list:10 a=1:2.0~rc1-1 p.list:11 @core]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBadPackages(t *testing.T) {
	for line, want := range map[string]string{
		"a b":                           "one a line",
		"@^minimal":                     "dnf group info",
		"@":                             "dnf group list",
		"@core=1":                       "dnf group list",
		"@*":                            "dnf group list",
		"https://x/a.deb":               "--files",
		"a_1.0_amd64.deb":               "the name of the package",
		"a/bookworm-backports":          "NAME=VERSION",
		"a=":                            "not a version",
		"a:":                            "not an architecture",
		"a:AMD 64":                      "one a line",
		"a=1=2":                         "not a version",
		"-a":                            "not the name",
		"=1":                            "not the name",
		"ä":                             "not the name",
		strings.Repeat("a", 300):        "not the name",
		"a=" + strings.Repeat("1", 300): "not a version",
	} {
		var l Parser
		l.Packages("p.list", strings.NewReader(line))
		if _, err := l.Wanted(); err == nil || !strings.Contains(err.Error(), want) ||
			!strings.HasPrefix(err.Error(), "p.list:1: ") {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
}
