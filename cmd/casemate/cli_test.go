package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestNearest(t *testing.T) {
	names := []string{
		"registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10.1",
		"registry.k8s.io/kube-apiserver:v1.35.4", "registry.k8s.io/kube-proxy:v1.35.4", "quay.io/cilium/cilium:v1.18.2",
		"docker.io/library/nginx:1.29",
	}
	for typed, want := range map[string][]string{
		"registry.k8s.io/puase:3.10":             names[:3],
		"Registry.K8s.io/pause:3.1":              names[:3],
		"registry.k8s.io/kube-apiservr:v1.35.4":  {"registry.k8s.io/kube-apiserver:v1.35.4"},
		"nginx:1.29":                             {"docker.io/library/nginx:1.29"},
		"quay.io/cilium/cilium:main-2026-latest": {"quay.io/cilium/cilium:v1.18.2"},
		"ghcr.io/something/else:1":               nil,
		"":                                       nil,
		strings.Repeat("x", 10_000):              nil,
	} {
		got := nearest(typed, slices.Values(names))
		if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("%.40q: got %q, want %q", typed, got, want)
		}
	}
	if got := nearest("stauts", slices.Values([]string{"start", "status"})); got[0] != "status" {
		t.Errorf("two swapped letters are one mistake: %q", got)
	}
	if got := nearestPrefix("registry.k8s.io/puase", slices.Values(names)); !slices.Contains(got, names[0]) {
		t.Errorf("the beginning of a name: %q", got)
	}
	many := func(yield func(string) bool) {
		for i := 0; yield(fmt.Sprintf("name%d", i%1000)) && i < 100_000; i++ {
		}
	}
	if got := nearest("name", many); len(got) != maxSuggestions {
		t.Errorf("%d suggestions", len(got))
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b             string
		whole, beginning int
	}{
		{"", "", 0, 0}, {"abc", "abc", 0, 0}, {"abc", "ABD", 1, 1}, {"abc", "acb", 1, 1}, {"abc", "abcdef", 3, 0},
		{"abc", "xyz", 3, 3}, {"abc", "", 3, 3}, {"", "abc", 3, 0}, {"abcdef", "badcfe", 3, 3},
	} {
		if whole, beginning := distance(c.a, c.b, 10); whole != c.whole || beginning != c.beginning {
			t.Errorf("%q and %q: %d, %d, want %d, %d", c.a, c.b, whole, beginning, c.whole, c.beginning)
		}
		if whole, beginning := distance(c.a, c.b, 1); whole != min(c.whole, 2) || beginning != min(c.beginning, 2) {
			t.Errorf("%q and %q: at most 1 is %d, %d", c.a, c.b, whole, beginning)
		}
	}
}

func FuzzNearest(f *testing.F) {
	f.Add("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.9", "pause")
	f.Add("ä\xff", "\x00", ":")
	f.Fuzz(func(t *testing.T, name, one, other string) {
		for _, got := range [][]string{
			nearest(name, slices.Values([]string{one, other})),
			nearestPrefix(name, slices.Values([]string{one, other})),
		} {
			for _, n := range got {
				if n != one && n != other || n == name {
					t.Errorf("%q: suggests %q", name, n)
				}
			}
		}
		whole, beginning := distance(name, one, 1<<20)
		if back, _ := distance(one, name, 1<<20); back != whole || beginning > whole {
			t.Errorf("%q and %q: %d, %d back, %d the beginning", name, one, whole, back, beginning)
		}
	})
}

func TestDurations(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"1h": time.Hour, "90m": 90 * time.Minute, "7d": 7 * day, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour,
		"0": 0,
	} {
		got, err := parseDuration(s)
		if err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", s, got, err, want)
		}
		if again, err := parseDuration(formatDuration(got)); err != nil || again != got {
			t.Errorf("%v is written as %q, which is %v, %v", got, formatDuration(got), again, err)
		}
	}
	for s, want := range map[time.Duration]string{
		time.Hour: "1h", 10 * time.Minute: "10m", 7 * day: "7d", 90 * time.Minute: "1h30m",
	} {
		if got := formatDuration(s); got != want {
			t.Errorf("%v: got %q, want %q", s, got, want)
		}
	}
	for _, s := range []string{"", "d", "1", "-1h", "1w", "7d7d", "-7d", "7 d", "1h1d", "99999d9999999h",
		"1e9d", "7dx"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q is taken as %v", s, got)
		}
	}
}

func TestZonesAndPlatforms(t *testing.T) {
	for _, s := range []string{
		"corp.example", ".corp.example", "corp", "10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "x_y.example.",
	} {
		if _, err := parseZone(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{
		"", "a b", "a/b", "10.0.0.0/99", "https://corp.example", "-a.example", "a..b", "*.corp.example", "a,b",
	} {
		if _, err := parseZone(s); err == nil {
			t.Errorf("%q is a zone", s)
		}
	}
	for _, s := range []string{"linux/amd64", "linux/arm64/v8", "Linux/x86_64", "linux/arm/v7", "windows/amd64"} {
		if _, err := parsePlatform(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{
		"", "amd64", "linux/", "/amd64", "linux//x", "a/b/c/d", "linux/amd 64", "linux/amd46", "linux/arm46/v8",
		"lunix/amd64", "amd64/linux", strings.Repeat("a/", 60) + "b",
	} {
		if _, err := parsePlatform(s); err == nil {
			t.Errorf("%q is a platform", s)
		}
	}
}

// Each bad value is one sentence with the flag, the rule and the value, and exit code 2.
func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"config set dns.ttl -1": "unknown flag: -1; a value that begins with a dash needs -- before it: casemate " +
			"config set … -- -1 (see casemate config set --help)",
		"name set a.example TXT -all": "unknown flag: -all; a value that begins with a dash needs -- before it: " +
			"casemate name set … -- -all (see casemate name set --help)",
		"import x.tar -name first":         "unknown flag: -name; did you mean --name? (see casemate import --help)",
		"gc -1":                            "unknown flag: -1 (see casemate gc --help)",
		"gc --dry-rn":                      "unknown flag: --dry-rn; did you mean --dry-run? (see casemate gc --help)",
		"gc --now=x":                       `--now must be true or false, got "x"`,
		"mirrors --for rkt":                `--for must be one of containerd, docker, podman, crio, k3s, rke2, got "rkt"`,
		"kubespray vars --mode both":       `--mode must be dns or mirror, got "both"`,
		"enroll --format rpm":              `--format must be one of line, sh, cloud-init, ansible, got "rpm"`,
		"status -o xml":                    `--output must be table or json, got "xml"`,
		"init --advertise 10.0.0.1,x":      `--advertise must be IP addresses, got "x"`,
		"init --permit a/b":                `--permit must be a zone like corp.example, an address or a range like 10`,
		"init --set dns.ttl":               `--set must be KEY=VALUE, got "dns.ttl"`,
		"token create --ttl soon":          `--ttl must be a duration like 90m, 12h or 7d, got "soon"`,
		"bundle create x --split nonsense": `--split must be a size like 4GiB, 4G or 650MB, got "nonsense"`,
		"bundle create x --parallel two":   `--parallel must be an integer, got "two"`,
		"check --platform amd64":           `--platform must be OS/ARCH or OS/ARCH/VARIANT, like linux/amd64 or`,
		"check --platform linux/amd46":     `--platform must name one of amd64, arm64, arm, 386,`,
		"stauts":                           `unknown command "stauts" for "casemate"; did you mean status?`,
		"image lst":                        `unknown command "lst" for "casemate image"; did you mean list?`,
		"ca rotat":                         `unknown command "rotat" for "casemate ca"; did you mean rotate?`,
		"origin add":                       "casemate origin add needs HOST (usage: casemate origin add HOST [flags])",
		"origin add a.example b.example":   `casemate origin add takes only HOST, got "b.example" besides (usage`,
		"file put":                         "casemate file put needs URL and PATH (usage",
		"file put https://a.example/b":     "casemate file put needs PATH (usage",
		"name set x":                       "casemate name set needs TYPE and VALUE (usage",
		"join --token x":                   "casemate join needs ADDR (usage",
		"restore":                          "casemate restore needs FILE (usage",
		"config get":                       "casemate config get needs KEY (usage",
		"join --token x 127.0.0.1:1":       "this is no join token, `casemate token create` on a member prints one\n",
	} {
		var out, talk strings.Builder
		code := run(strings.Fields(args), strings.NewReader(""), &out, &talk)
		if code != exitUsage || !strings.HasPrefix(talk.String(), "casemate: "+want) || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, talk.String(), want)
		}
	}
}

func TestRelative(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 seconds ago", -time.Second: "1 second ago", -119 * time.Second: "119 seconds ago",
		-2 * time.Minute: "2 minutes ago", -47 * time.Hour: "47 hours ago",
		-72 * time.Hour: "3 days ago", 3*24*time.Hour + time.Minute: "in 3 days",
	} {
		if got := relative(at, at.Add(d)); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	table := &table{now: at}
	if got := table.when(at); got != at.Local().Format(time.RFC3339) {
		t.Errorf("a time is %q", got)
	}
	if got := table.when(time.Time{}); got != "-" {
		t.Errorf("no time is %q", got)
	}
	for n, want := range map[int]string{0: "0 entries", 1: "1 entry", 2: "2 entries"} {
		if got := count(n, "entry"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// However narrow a terminal is, percent and the time that remains are on it, and the line fits.
func TestNarrowTerminals(t *testing.T) {
	m := newMeter(command(&strings.Builder{}), true)
	defer m.close()
	const name = "registry.k8s.io/kube-apiserver-with-a-long-name:v1.35.4"
	for _, c := range []struct {
		name  string
		width int
		has   []string
	}{
		{name, 200, []string{"[==========----------]", "50.0 MiB of 100.0 MiB (50 %), 5.0 MiB/s, 10s left"}},
		{name, 100, []string{"[==========----------]", "5.0 MiB/s, 10s left"}},
		{name, 80, []string{"50.0 MiB of 100.0 MiB (50 %), 5.0 MiB/s, 10s left", "name:v1.35.4  50"}},
		{name, 60, []string{"50.0 MiB of 100.0 MiB (50 %), 10s left", "…", ":v1.35.4"}},
		{name, 40, []string{"50 %, 10s left", "v1.35.4"}},
		{name, 20, []string{"50 %, 10s left"}},
		{name, 14, []string{"50 %, 10s left"}},
		{name, 0, []string{"50 %"}},
		{"reading", 60, []string{"reading", "5.0 MiB/s, 10s left"}},
	} {
		g := m.start(c.name, -1)
		g.set(c.name, 0, 100<<20)
		g.draw(c.width, at)
		g.set(c.name, 50<<20, 100<<20)
		line := g.draw(c.width, at.Add(10*time.Second))
		if n := utf8.RuneCountInString(line); n > c.width && c.width > 0 {
			t.Errorf("%d columns: the line has %d: %q", c.width, n, line)
		}
		for _, want := range c.has {
			if !strings.Contains(line, want) {
				t.Errorf("%d columns: %q is not in %q", c.width, want, line)
			}
		}
	}
	g := m.start("names", 3)
	g.count(1, 3)
	if line := g.draw(16, at); !strings.Contains(line, "1 of 3") {
		t.Errorf("things that are counted: %q", line)
	}
}

// A reader of JSON finds [] for every list that is empty, wherever it is, and no null.
func TestEmptyLists(t *testing.T) {
	type inner struct {
		List     []string `json:"list"`
		Optional []int    `json:"optional,omitempty"`
	}
	for want, v := range map[string]any{
		`[]`:          []inner(nil),
		`{"list":[]}`: inner{},
		`[{"list":[]},{"list":["a"],"optional":[1]}]`: []inner{{}, {[]string{"a"}, []int{1}}},
		`{"in":{"list":[]},"to":{"list":[]},"at":"2026-01-02T03:04:05Z","lists":[[],["b"]]}`: &struct {
			In    inner      `json:"in"`
			To    *inner     `json:"to"`
			At    time.Time  `json:"at"`
			Lists [][]string `json:"lists"`
		}{To: &inner{}, At: at, Lists: [][]string{nil, {"b"}}},
	} {
		var out bytes.Buffer
		if err := printJSON(&out, v); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := json.Compact(&got, out.Bytes()); err != nil || got.String() != want {
			t.Errorf("got %s, %v, want %s", &got, err, want)
		}
	}
}

// answering is an admin socket that answers with these bodies, by method and path.
func answering(t *testing.T, answers map[string]any) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+strings.TrimPrefix(r.URL.RequestURI(), "/v1/")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			answer = map[string]string{"error": "there is no such thing"}
		}
		json.NewEncoder(w).Encode(answer)
	})}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done; os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// What is not there is answered with the nearest names, with the same exit code as without them.
func TestSuggestions(t *testing.T) {
	type object = map[string]any
	const kubeadm = "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"
	socket := answering(t, map[string]any{
		"GET images":   []object{{"reference": "registry.k8s.io/pause:3.10"}, {"reference": "quay.io/team/app:1"}},
		"GET files":    []object{{"url": kubeadm}},
		"GET origins":  []object{{"host": "registry.k8s.io"}, {"host": "dl.k8s.io"}},
		"GET imports":  []object{{"name": "kubespray-2.31"}},
		"GET users":    []object{{"name": "deploy"}},
		"GET names":    []object{{"name": "api.cluster.example"}},
		"GET settings": []object{{"key": "dns.ttl"}},
		"GET members":  []object{{"node": "bastion1"}},

		"GET images?prefix=registry.k8s.io%2Fpuase":     []object{},
		"GET images?prefix=elsewhere":                   []object{},
		"GET files?prefix=https%3A%2F%2Fdl.k8s.io%2Frl": []object{},
		"GET certs": []object{},
	})
	for _, c := range []struct{ args, want string }{
		{"image delete --yes registry.k8s.io/puase:3.10", "did you mean registry.k8s.io/pause:3.10?"},
		{"image delete --yes pause:3.10", "did you mean registry.k8s.io/pause:3.10?"},
		{"file delete --yes " + kubeadm + "n", "did you mean " + kubeadm + "?"},
		{"origin remove --yes registry.k8s.oi", "did you mean registry.k8s.io?"},
		{"import show kubespray-2.13", "did you mean kubespray-2.31?"},
		{"import remove --yes kubespry-2.31", "did you mean kubespray-2.31?"},
		{"user remove --yes depoly", "did you mean deploy?"},
		{"name delete --yes api.cluster.exampl", "did you mean api.cluster.example?"},
		{"config get dns.tll", "did you mean dns.ttl?"},
		{"config set dns.tll 1m", "did you mean dns.ttl?"},
		{"member remove --yes bastoin1", "did you mean bastion1?"},
		{"member address basion1 10.0.0.1", "did you mean bastion1?"},
		{"user remove --yes somebody-else", "there is no such thing\n"},
	} {
		var out, talk strings.Builder
		code := run(append(strings.Fields(c.args), "--socket", socket), strings.NewReader(""), &out, &talk)
		if code != exitFailed || !strings.Contains(talk.String(), c.want) || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, want %q", c.args, code, talk.String(), c.want)
		}
	}
	for _, c := range []struct{ args, want string }{
		{"image list registry.k8s.io/puase",
			`no images match "registry.k8s.io/puase"; did you mean registry.k8s.io/pause:3.10?` + "\n"},
		{"image list elsewhere", `no images match "elsewhere"` + "\n"},
		{"file list https://dl.k8s.io/rl", `no files match "https://dl.k8s.io/rl"; did you mean ` + kubeadm + "?\n"},
		{"cert list", "no certificates were issued\n"},
	} {
		var out, talk strings.Builder
		code := run(append(strings.Fields(c.args), "--socket", socket), strings.NewReader(""), &out, &talk)
		if code != exitDone || talk.String() != c.want || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q and %q, want %q", c.args, code, out.String(), talk.String(), c.want)
		}
		out.Reset()
		talk.Reset()
		code = run(append(strings.Fields(c.args), "--socket", socket, "-o", "json"), strings.NewReader(""), &out, &talk)
		if code != exitDone || talk.Len() > 0 || out.String() != "[]\n" {
			t.Errorf("%s -o json: exit code %d, %q and %q", c.args, code, out.String(), talk.String())
		}
	}
}
