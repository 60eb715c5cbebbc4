package lists

import (
	"strings"
	"testing"
)

func TestPlace(t *testing.T) {
	for repository, want := range map[string]string{
		"registry.k8s.io/pause":                 "registry.k8s.io/pause",
		"docker.io/library/nginx":               "docker.io/library/nginx",
		"team/app":                              "team/app",
		"app":                                   "app",
		"harbor:443/team/app":                   "harbor/team/app",
		"harbor2:443/team/app":                  "harbor2/team/app",
		"Harbor/team/app":                       "harbor/team/app",
		"localhost/team/app":                    "team/app",
		"localhost:443/app":                     "app",
		"registry.example.com:5000/a":           "registry.example.com/a",
		"Registry.Example.COM/a":                "registry.example.com/a",
		"10.0.0.1:5000/team/app":                "10.0.0.1/team/app",
		"10.0.0.1/team/app":                     "10.0.0.1/team/app",
		"[fd00::1]:5000/app":                    "",
		"a.example/App":                         "",
		"a.example/a..b":                        "",
		"a.example":                             "",
		"":                                      "",
		"a.example/":                            "",
		"a.example/" + strings.Repeat("x", 245): "a.example/" + strings.Repeat("x", 245),
		"a.example/" + strings.Repeat("x", 246): "",
	} {
		got, err := Place(repository)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", repository, got, err, want)
		}
		if again, err := Place(got); want != "" && (again != got || err != nil) {
			t.Errorf("%s is called %s inside, and that %s, %v", repository, got, again, err)
		}
		if said := Renamed(repository); (said != "") != (want != "" && want != repository) {
			t.Errorf("%s: %q", repository, said)
		}
	}
}

// TestPlacesInLists: a name without a place inside is a bad line, a different name is noted, and two names for one
// place are refused.
func TestPlacesInLists(t *testing.T) {
	var l Parser
	l.Images(
		"i",
		strings.NewReader(
			"nginx:1\nharbor:443/team/app:1.0\nlocalhost:443/app:1\n[fd00::1]:5000/app:2\nharbor:444/team/app:"+
				"1.0\nharbor:443/team/app:1.0\n",
		),
	)
	l.Files(
		"f",
		strings.NewReader(
			"https://a.example/"+strings.Repeat("x", 256)+"\nhttps://[fd00::1]/x\nhttps://a.example/ok\n",
		),
	)
	_, err := l.Wanted()
	if err == nil {
		t.Fatal("taken")
	}
	bad, notes := strings.Split(err.Error(), "\n"), l.Notes()
	for i, want := range []string{"i:4: \"[fd00::1]:5000/app\": an IPv6 address", "i:5: harbor:444/team/app:1.0 is " +
		"called harbor/team/app:1.0 inside, and so is that of harbor:443/team/app at i:2",
		"f:1: ", "f:2: "} {
		if len(bad) != 4 || !strings.HasPrefix(bad[i], want) {
			t.Errorf("bad line %d: %q, want %q", i, bad, want)
		}
	}
	if len(notes) != 2 ||
		notes[0] != "i:2: harbor:443/team/app:1.0 is called harbor/team/app:1.0 inside: no node can ask for a host "+
			"without a dot here, so it becomes a local image" ||
		!strings.HasPrefix(notes[1], "i:3: localhost:443/app:1 is called app:1 inside: localhost") {
		t.Errorf("notes %q", notes)
	}
}
