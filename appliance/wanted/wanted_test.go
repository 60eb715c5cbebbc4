package wanted

import (
	"bytes"
	"strings"
	"testing"

	"casemate/appliance/missing"
	"casemate/bundle/lists"
)

func listed(e missing.Entry) missing.Listed { return missing.Listed{Entry: e} }

// A list is valid: bundle create and check accept every line of it, for any request of clients,
// and it contains the missed names.
func TestLists(t *testing.T) {
	pinned := "quay.io/a/b@sha256:" + strings.Repeat("1", 64)
	image := func(name string) missing.Listed { return listed(missing.Entry{Kind: "image", Name: name}) }
	file := func(name string) missing.Listed { return listed(missing.Entry{Kind: "file", Name: name}) }
	book := []missing.Listed{
		image("quay.io/a/b:1"), image(pinned), image("docker.io/library/nginx:1"), image("quay.io/here:1"),
		image("localhost:5000/x:1"),
		image("team/app:1"), image("pause:3.10"), image("quay.io/listed/tags"), image("quay.io/x:?"),
		image("quay.io/x@sha256:12"), image("quay.io/x:1 # y"), image(""),
		file("https://dl.k8s.io/x"), file("https://dl.k8s.io/y?z=1&w=%2F"), file("http://dl.k8s.io/z"),
		file("/kubernetes/v1/kubeadm"), file("https://dl.k8s.io/a b"), file("https://dl.k8s.io/a?b#c"), file(""),
		file("https://dl.k8s.io"), file("https://dl.k8s.io/"), file("https://dl.k8s.io/release/"),
		file("https://get.k3s.io/"),
		listed(missing.Entry{Kind: "image", Name: "quay.io/noise:1", Noise: "HEAD probe"}),
		listed(missing.Entry{Kind: "file", Name: "https://dl.k8s.io/favicon.ico", Noise: "browser probe"}),
		listed(missing.Entry{Kind: "dns", Name: "quay.io"}), listed(missing.Entry{Kind: "host", Name: "quay.io/h:1"}),
	}
	book[3].Solved = true
	for i := range book { // text from clients occurs in comments too
		book[i].Count, book[i].Clients, book[i].Detail = uint64(i+1), []string{"10.0.0.1", "ops@fd00::5"},
			"why # not\nquay.io/forged:1"
	}
	for _, c := range []struct {
		format string
		read   func(*lists.Parser, string) (*lists.Wanted, error)
		want   string
		left   int
	}{
		{"images", func(l *lists.Parser, s string) (*lists.Wanted, error) {
			l.Images("list", strings.NewReader(s))
			return l.Wanted()
		}, "quay.io/a/b:1 " + pinned + " docker.io/library/nginx:1 localhost:5000/x:1", 7},
		{"files", func(l *lists.Parser, s string) (*lists.Wanted, error) {
			l.Files("list", strings.NewReader(s))
			return l.Wanted()
		}, "https://dl.k8s.io/x https://dl.k8s.io/y?z=1&w=%2F http://dl.k8s.io/z https://get.k3s.io/", 7},
	} {
		var out bytes.Buffer
		count, left, err := Write(&out, c.format, book)
		if err != nil || count != len(strings.Fields(c.want)) {
			t.Fatal(count, err)
		}
		if n := strings.Count(out.String(), " times, last at "); n == 0 ||
			!strings.Contains(out.String(), ", by 10.0.0.1 ops@fd00::5\n# why # not?quay.io/forged:1\n") {
			t.Errorf("the %s list does not say who asked:\n%s", c.format, out.String())
		}
		w, err := c.read(&lists.Parser{}, out.String())
		if err != nil {
			t.Fatalf("the %s list is none: %v", c.format, err)
		}
		var got []string
		for _, i := range w.Images {
			got = append(got, i.Ref())
		}
		for _, f := range w.Files {
			got = append(got, f.URL)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: got %s\nwant %s", c.format, s, c.want)
		}
		if len(left) != c.left {
			t.Errorf("%s: left out: %q", c.format, left)
		}
	}
}

// The packages of stored repositories are a list that bundle create takes, each once, without versions.
func TestPackages(t *testing.T) {
	of := func(format, name, arch string) missing.Listed {
		return missing.Listed{Entry: missing.Entry{Kind: "file", Count: 2, Clients: []string{"10.0.0.1"}},
			Package: &missing.Package{Format: format, Name: name, Version: "1.2-3", Arch: arch,
				Repository: "https://deb.test/debian"}}
	}
	book := []missing.Listed{of("deb", "jq", "amd64"), of("deb", "jq", "amd64"), of("deb", "libstdc++6", "arm64"),
		of("deb", "tzdata", "all"), of("rpm", "socat", "x86_64"), of("rpm", "ansible", "noarch"),
		listed(missing.Entry{Kind: "file", Name: "https://deb.test/x.deb"}), of("deb", "solved", "all"),
		of("deb", "noise", "all")}
	book[7].Solved, book[8].Noise = true, "HEAD probe"
	book[0].Mark = &missing.Mark{By: "ada", Note: "ordered\nforged"}
	var out bytes.Buffer
	if n, left, err := Write(&out, "packages", book); n != 5 || left != nil || err != nil {
		t.Fatal(n, left, err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if got := strings.Join(lines, " "); got != "jq:amd64 libstdc++6:arm64 tzdata socat:x86_64 ansible" {
		t.Errorf("got %s", got)
	}
	if !strings.HasPrefix(out.String(), "# asked for 2 times, last at ") ||
		!strings.Contains(out.String(), "# version 1.2-3 of https://deb.test/debian\njq:amd64\n") {
		t.Error(out.String())
	}
	if !strings.Contains(out.String(), "\n# marked by ada: ordered?forged\n") {
		t.Error(out.String())
	}
	out.Reset()
	if n, _, err := Write(&out, "packages", nil); n != 0 || err != nil || out.Len() > 0 {
		t.Error(n, err, out.String())
	}
	if _, _, err := Write(&out, "charts", nil); err == nil {
		t.Error("a list of charts is written")
	}
}
