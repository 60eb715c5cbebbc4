package doctor

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseResolv(t *testing.T) {
	got := fmt.Sprint(parseResolv("# nameserver 1.1.1.1\n;nameserver 2.2.2.2\nsearch a b\nnameserver 10.0.0.1 # " +
		"first\nnameserver\t::ffff:10.0.0.2\nnameserver fe80::1%eth0\nnameserver x\n nameserver\noptions ndots:5"))
	if got != "[10.0.0.1 10.0.0.2 fe80::1%eth0]" {
		t.Error(got)
	}
}

func TestParseNode(t *testing.T) {
	hosts := parseHosts("127.0.0.1 localhost\n10.0.0.1\tQuay.io. quay # x y\nnonsense z\n::1 quay.io\n")
	if got := fmt.Sprint(hosts["quay.io"], hosts["quay"], len(hosts)); got != "[10.0.0.1 ::1] [10.0.0.1] 3" {
		t.Error(got)
	}
	for text, want := range map[string]string{"ID=ubuntu\nID_LIKE=debian": "deb",
		"ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"": "rpm", "ID=opensuse-leap\nID_LIKE='suse opensuse'": "suse",
		"ID=arch": ""} {
		if got := family(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got, ok := parseHostsLine("passwd: files\n# hosts: x\nhosts: files resolve [!UNAVAIL=return] dns\n"); !ok ||
		!slices.Equal(got, []string{"files", "resolve", "dns"}) {
		t.Error(got, ok)
	}
	if got := parseUnit("[Service]\nEnvironment=A=1 \\\n "+
		"B=2\n[Unit]\nEnvironment=C\n[Service]\n#Environment=D\nEnvironment = E\n", "Service",
		"Environment"); fmt.Sprint(len(got), got) != "2 [A=1   B=2 E]" {
		t.Errorf("%q", got)
	}
	if got := words(`"A=1 2" 'B=3'  C="4 5"`); !slices.Equal(got, []string{"A=1 2", "B=3", "C=4 5"}) {
		t.Errorf("%q", got)
	}
	if n, ok := startTicks("1 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 0"); !ok || n != 4711 {
		t.Error(n, ok)
	}
}

func TestParseTOML(t *testing.T) {
	list, err := parseTOML("server = \"https://a#b\" # c\n[host.\"https://x:5000/v2\"]\ncapabilities = [\"pull\", # " +
		"p\n 'resolve']\nskip_verify = true\nca = 'x.crt'\n[host.\"https://x:5000/v2\".header]\nx = " +
		"[\"a\"]\n[[registry]]\nlocation=\"l\"\n[[registry.mirror]]\n")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range list {
		names = append(names, strings.Join(s.name, "|"))
	}
	if got := strings.Join(names, " "); got != " host|https://x:5000/v2 host|https://x:5000/v2|header registry "+
		"registry|mirror" {
		t.Error(got)
	}
	if list[0].get("server") != "https://a#b" || list[1].get("skip_verify") != "true" ||
		!slices.Equal(list[1].values["capabilities"], []string{"pull", "resolve"}) || list[3].get("location") != "l" {
		t.Errorf("%q", list)
	}
	for _, bad := range []string{"[", "[a", "[]", "= 1", "a", "[\"a]", "server: x"} {
		if list, err := parseTOML(bad); err == nil {
			t.Errorf("%q: %q", bad, list)
		}
	}
}

func TestParseYAML(t *testing.T) {
	y, err := parseYAML("# c\na: &x {b: [1, \"two\", [3]], c: true}\nd: *x\na: 4\n? [e]\n: 5\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%q", y.at("d").at("b").texts()); got != `["1" "two" ""]` ||
		y.at("a").at("c").text() != "true" || y.at("none").at("b").texts() != nil || len(maps.Collect(y.pairs())) != 3 {
		t.Error(got, y)
	}
	for _, empty := range []string{"", "# c\n", "- a\n", "a"} {
		if y, err := parseYAML(empty); err != nil || len(maps.Collect(y.pairs())) > 0 {
			t.Errorf("%q: %v %v", empty, y, err)
		}
	}
}

// FuzzParse: any content of a node's files is parsed without a crash, and addresses are valid.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"nameserver 10.0.0.1\n", "[host.\"https://x\"]\nca = [\"a\",\n\"b\"]\n",
		"hosts: files dns\n", "[Service]\nEnvironment=\"A=1 2\" \\\n B\n",
		"1 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
		"mirrors:\n  \"*\": {endpoint: [x]}\nconfigs: &a {x: {tls: {ca_file: y}}}\n",
		"registry.k8s.io/pause:3.10@sha256:00", "[a.'b'.c]\nk='v'#\n", "[fd00::5]:5000", "[fd00::5]_5000_",
		"fd770000000000000000000000000053 03 80 00 80 nodelocaldns\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		bare(s)
		for _, a := range slices.Concat(parseResolv(s), parseAddrs(s), ownAddrs(s)) {
			if a == (netip.Addr{}) {
				t.Error("no address")
			}
		}
		parseHosts(s)
		parseHostsLine(s)
		family(s)
		parseUnit(s, "Service", "Environment")
		words(s)
		startTicks(s)
		parseCerts([]byte(s))
		values{"a": s}.fill(s)
		if r, err := parseRef(s); err == nil && strings.ContainsAny(r.String(), " \n\x1b?#%") {
			t.Errorf("%q", r.String())
		}
		if list, err := parseTOML(s); err == nil {
			for _, x := range list {
				x.get("server")
			}
		}
		parseMode(s)
		if y, err := parseYAML(s); err == nil {
			y.at("a").at("b").texts()
			for range y.pairs() {
			}
		}
		take([]byte(s), map[uint16]*question{0: {name: "a"}})
	})
}

// TestLargeFiles: a file of the maximum size is parsed quickly, whatever its content. The test measures the processor
// time of this process, which does not depend on other processes: some seconds, and hours if anything were quadratic.
func TestLargeFiles(t *testing.T) {
	before := computed(t)
	for _, part := range []string{"a=[\n", "[a]\n", "\"", "#\n", "a=[", "nameserver 1.1.1.1\n", "x\\\n", "1.1.1.1 a\n",
		"a.", "'a'.", "- ", "{", "a: &a\n", "*a,"} {
		s := strings.Repeat(part, maxConfig/len(part))
		parseTOML(s)
		parseTOML("a=[" + s)
		parseHosts(s)
		parseResolv(s)
		parseUnit(s, "a", "b")
		words(s)
		parseYAML(s)
		parseYAML("x: &a [1]\nmirrors: [" + s)
		if took := computed(t) - before; took > 5*time.Minute {
			t.Fatalf("%q: it computed for %s", part, took)
		}
	}
}

// computed returns the processor time of this process.
func computed(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
