package registry

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// The rules of names, row by row: how each view interprets the client's request, or the error code.
func TestLocate(t *testing.T) {
	s := newShelf(t)
	own := View{Host: "registry.casemate.internal"}
	address := View{Host: "10.0.0.11:5000"}
	for _, c := range []struct {
		why, asked, ns string
		view           View
		repo           string // canonical, or the code of the error
	}{
		{"an origin's host", "pause", "", on("registry.k8s.io"), "registry.k8s.io/pause"},
		{"an alias of an origin", "library/nginx", "", View{Origin: "docker.io", Host: "registry-1.docker.io"},
			"docker.io/library/nginx"},
		{"an origin's own name before the name, as upstream would see it", "registry.k8s.io/pause", "",
			on("registry.k8s.io"), "registry.k8s.io/registry.k8s.io/pause"},
		{"with a port it can only be a host", "registry.k8s.io:443/pause", "", on("registry.k8s.io"),
			"registry.k8s.io/pause"},
		{"another host with a port", "quay.io:443/pause", "", on("registry.k8s.io"), "NAME_INVALID"},
		{"dots in the path of an origin", "my.org/app", "", on("quay.io"), "quay.io/my.org/app"},
		{"ns says nothing on an origin's host", "pause", "quay.io", on("registry.k8s.io"), "registry.k8s.io/pause"},

		{"ns", "library/nginx", "docker.io", own, "docker.io/library/nginx"},
		{"ns is an alias", "library/nginx", "registry-1.docker.io", own, "docker.io/library/nginx"},
		{"ns with a port", "app", "myregistry.io:5000", own, "myregistry.io/app"},
		{"ns in capitals with a final dot", "pause", "Registry.K8s.IO.", own, "registry.k8s.io/pause"},
		{"ns is ourselves", "team/app", "registry.casemate.internal", own, "team/app"},
		{"ns is the address asked, whatever the port", "team/app", "10.0.0.11:443", address, "team/app"},
		{"ns is no host", "app", "a/../b", own, "NAME_INVALID"},
		{"ns is an IPv6 address", "app", "[fd00::1]:5000", own, "NAME_INVALID"},
		{"ns is the IPv6 address asked", "app", "[FD00::1]:5000", View{Host: "[fd00::1]"}, "app"},

		{"prefix", "registry.k8s.io/pause", "", own, "registry.k8s.io/pause"},
		{"prefix on an address", "registry.k8s.io/pause", "", address, "registry.k8s.io/pause"},
		{"prefix with a port", "registry.k8s.io:443/sig/pause", "", own, "registry.k8s.io/sig/pause"},
		{"prefix is an alias", "index.docker.io/library/nginx", "", own, "docker.io/library/nginx"},
		{"prefix of an unknown origin with a port", "myregistry.io:5000/app", "", own, "myregistry.io/app"},
		{"a first element with a dot is always an origin", "my.org/app", "", own, "my.org/app"},
		{"a port makes it one, too", "localhost:5000/app", "", own, "localhost/app"},
		{"override_path, as containerd's mirrors have it", "docker.io/library/nginx", "docker.io", own,
			"docker.io/library/nginx"},
		{"prefix equal to ns is stripped", "registry.k8s.io/pause", "registry.k8s.io", own, "registry.k8s.io/pause"},
		{"equal after folding aliases", "index.docker.io/library/nginx", "registry-1.docker.io", own,
			"docker.io/library/nginx"},
		{"equal after folding ports", "registry.k8s.io:443/pause", "registry.k8s.io", own, "registry.k8s.io/pause"},
		{"stripped once", "registry.k8s.io/registry.k8s.io/pause", "registry.k8s.io", own,
			"registry.k8s.io/registry.k8s.io/pause"},
		{"if they differ the prefix wins", "quay.io/pause", "registry.k8s.io", own, "quay.io/pause"},
		{"our own name as prefix says nothing", "registry.casemate.internal/team/app", "", own, "team/app"},
		{"nor does the domain, or a node", "n1.casemate.internal:443/registry.k8s.io/pause", "", own,
			"registry.k8s.io/pause"},
		{"nor the address asked", "10.0.0.11/quay.io/app", "", address, "quay.io/app"},
		{"docker.io's single names are in library/", "docker.io/nginx", "", own, "docker.io/library/nginx"},
		{"no other origin's are", "registry.k8s.io/nginx", "", own, "registry.k8s.io/nginx"},

		{"flat", "pause", "", own, "pause"},
		{"flat, deeper", "team/app", "", own, "team/app"},
		{"a dot in a later element", "team/my.app", "", own, "team/my.app"},
		{"a dot, but nothing behind it", "my.app", "", own, "my.app"},

		{"too long with its origin", strings.Repeat("a", 250), "registry.k8s.io", own, "NAME_INVALID"},
	} {
		t.Run(c.why, func(t *testing.T) {
			target := "/v2/" + c.asked + "/tags/list"
			if c.ns != "" {
				target += "?ns=" + c.ns
			}
			rt, fail := parseRequest(httptest.NewRequest("GET", target, nil))
			var p place
			if fail == nil {
				p, fail = s.reg.locate(rt.asked, rt.ns, c.view)
			}
			got := p.canonical()
			if fail != nil {
				got = fail.code
			}
			if got != c.repo {
				t.Errorf("%s ns=%s on %s: %s, want %s", c.asked, c.ns, c.view.Host, got, c.repo)
			}
		})
	}
}

// Pushing resolves to exactly one canonical name, or is refused with the way out.
func TestWritable(t *testing.T) {
	s := newShelf(t)
	for _, c := range []struct {
		asked string
		view  View
		code  string
		says  string
	}{
		{"team/app", s.own, "", ""},
		{"registry.k8s.io/pause", s.own, "", ""},
		{"index.docker.io:443/nginx", s.own, "", ""},
		{"my.org/app", s.own, "DENIED", "casemate origin add my.org"},
		{"harbor:5000/app", s.own, "DENIED", "casemate origin add harbor"},
		{"my.app", s.own, "DENIED", "casemate origin add"},
		{"pause", on("registry.k8s.io"), "UNSUPPORTED", "registry.casemate.internal/registry.k8s.io/pause"},
	} {
		p, fail := s.reg.locate(c.asked, "", c.view)
		if fail != nil {
			t.Fatalf("%s: %v", c.asked, fail)
		}
		fail = s.reg.checkWritable(route{view: c.view, place: p})
		switch {
		case c.code == "" && fail != nil:
			t.Errorf("pushing %s: %v", c.asked, fail)
		case c.code != "" && (fail == nil || fail.code != c.code ||
			!strings.Contains(fail.message, c.says)): // clients print only the message
			t.Errorf("pushing %s: %v, want %s with %q", c.asked, fail, c.code, c.says)
		}
	}
}
