package hostname

import (
	"strings"
	"testing"
)

func TestFold(t *testing.T) {
	for in, want := range map[string]string{
		"Registry.K8s.IO.": "registry.k8s.io", "a_b.Example": "a_b.example", "*.Apps.Example": "*.apps.example",
		"München.example": "xn--mnchen-3ya.example", "MÜNCHEN.Example.": "xn--mnchen-3ya.example",
		"bücher。example": "xn--bcher-kva.example", "例え.テスト": "xn--r8jz45g.xn--zckzah",
		"faß.example": "xn--fa-hia.example", "*.bücher.example": "*.xn--bcher-kva.example",
		"_http._tcp.bücher.example": "_http._tcp.xn--bcher-kva.example",
		"xn--bcher-kva.example":     "xn--bcher-kva.example",
		"r3---sn.example":           "r3---sn.example", "": "", "N1": "n1", "ＡＢＣ.example": "abc.example",
		"10.0.0.1": "10.0.0.1", "fd00::1": "fd00::1",
	} {
		got, err := Fold(in)
		if got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
		if again, err := Fold(got); again != got || err != nil {
			t.Errorf("%q: folded again %q, %v", in, again, err)
		}
	}
	for _, in := range []string{"a\u200db.example", "\ufffd.example", "ü\x00.example", "bücher\xff.example",
		strings.Repeat("ü", 64) + ".example"} {
		if got, err := Fold(in); err == nil && Check(got) == nil {
			t.Errorf("%q: accepted as %q", in, got)
		}
	}
}

func TestCheckDomain(t *testing.T) {
	label := strings.Repeat("a", 63)
	longest := label + "." + label + "." + strings.Repeat("b", 56) + ".bank"
	for name, want := range map[string]string{
		"casemate.internal": "", "corp.local": "", "casemate.home.arpa": "", "home.arpa": "", "x.test": "", longest: "",
		"xn--mnchen-3ya.example": "", "mycluster.local": "", "cluster.local.example": "",
		longest + "k":           "at most 189 bytes, so that a node's name of 63 fits before it, got 190",
		longest + "." + longest: "at most 253 bytes",
		label + "a.example":     "at most 63 bytes between two dots, got 64",
		"internal":              "a host name with a dot",
		"":                      "a host name with a dot",
		"a..b":                  "a host name with a dot",
		"-a.example":            "a host name with a dot",
		"a_b.example":           "letters, digits and hyphens",
		"10.0.0.1":              "got the address 10.0.0.1",
		"fd00::1":               "got the address fd00::1",
		"1.2.3":                 "must not end in a number",
		"cluster.local":         "must not be in cluster.local: each Kubernetes cluster answers it itself",
		"svc.cluster.local":     "must not be in cluster.local",
		"0.0.d.f.ip6.arpa":      "must not be in ip6.arpa",
		"10.in-addr.arpa":       "must not be in in-addr.arpa",
		"x.resolver.arpa":       "must not be in arpa",
		"x.localhost":           "must not be in localhost",
		"x.onion":               "must not be in onion",
		"x.invalid":             "must not be in invalid",
		"x.alt":                 "must not be in alt",
	} {
		err := CheckDomain(name)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", name, err, want)
		case err != nil && !strings.HasPrefix(err.Error(), "must "):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFold(f *testing.F) {
	for _, s := range []string{"München.example", "a。b", "xn--a.b", "*.ü", "\xff.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Fold(s)
		if err != nil {
			return
		}
		if !ascii(got) {
			t.Fatalf("%q is folded to %q", s, got)
		}
		if again, err := Fold(got); err == nil && Check(got) == nil && again != got {
			t.Fatalf("%q is folded to %q and then to %q", s, got, again)
		}
	})
}
