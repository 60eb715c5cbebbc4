package missing

import (
	"strings"
	"testing"
)

func TestEachEntrySaysWhatCuresIt(t *testing.T) {
	reach := func(host string) string {
		if strings.HasSuffix(host, ".example") {
			return "origin add " + host
		}
		return ""
	}
	for _, c := range []struct {
		e    Entry
		want string
	}{
		{Entry{Kind: Image, Name: "quay.io/a/b:1"}, "bundle create --images"},
		{Entry{Kind: Image, Name: "reg.example/a:1"}, "origin add reg.example, bundle create --images"},
		{Entry{Kind: Image, Name: "team/app:1"}, "push it"},
		{Entry{Kind: Image, Name: "pause:3.10"}, "push it"},
		{Entry{Kind: Image, Name: "quay.io/a/b"}, "with a tag"},
		{Entry{Kind: Image, Name: "redis:7", Detail: "ambiguous, held with different content: docker.io/a/redis, " +
			"quay.io/b/redis"}, "docker.io/a/redis, quay.io/b/redis"},
		{Entry{Kind: Blob, Name: "quay.io/a@sha256:1"}, "bundle create --images"},
		{Entry{Kind: File, Name: "https://dl.k8s.io/x"}, "bundle create --files"},
		{Entry{Kind: File, Name: "https://www.example/x"}, "origin add www.example, bundle create --files"},
		{Entry{Kind: File, Name: "https://dl.k8s.io/x.deb"}, "bundle create --packages"},
		{Entry{Kind: File, Name: "https://www.example/x.deb"}, "origin add www.example, bundle create --packages"},
		{Entry{Kind: File, Name: "https://dl.k8s.io/simple/six/"},
			"bundle create --python, with six in the requirements"},
		{Entry{Kind: File, Name: "https://dl.k8s.io/"}, "a host and not a file"},
		{Entry{Kind: File, Name: "https://dl.k8s.io/release/"}, "a directory and not a file"},
		{Entry{Kind: File, Name: "/kubernetes"}, "/HOST/PATH"},
		{Entry{Kind: DNS, Name: "www.bank.example"},
			"origin add www.bank.example, or name set www.bank.example A ADDRESS"},
		{Entry{Kind: TLS, Name: "www.bank.example"}, "origin add www.bank.example"},
		{Entry{Kind: Host, Name: "www.bank.example"}, "origin add www.bank.example"},
		{Entry{Kind: DNS, Name: "node1", Noise: SingleLabel}, ""},
	} {
		got := Cure(c.e, strings.HasSuffix(c.e.Name, ".deb"), reach)
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%+v: got %q, want %q in it", c.e, got, c.want)
		}
	}
}

func TestWhatIsNoFile(t *testing.T) {
	for url, file := range map[string]bool{
		"https://dl.k8s.io": false, "https://dl.k8s.io/": false, "http://dl.k8s.io/release/": false,
		"https://dl.k8s.io/a/b/":                                   false,
		"https://github.com/x/y/info/refs?service=git-upload-pack": false,
		"https://dl.k8s.io/x":                                      true, "https://dl.k8s.io/release/?x=1": true,
		"https://get.k3s.io/": true, "https://get.k3s.io": true,
		"https://index.example/simple/ansible/": false, "https://update.k3s.io/v1-release/channels/stable": true,
	} {
		if why := NoFile(url); (why == "") != file {
			t.Errorf("%s: got %q", url, why)
		}
	}
}
