package appliance

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"casemate/appliance/config"
	"casemate/appliance/setup"
)

// Every place that takes a host name or a zone folds what people type (case, trailing dot, other scripts) or refuses it
// with the form to type, and refuses in one sentence what DNS cannot carry.
func TestTypedHostNames(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{Permit: []string{"example"}})
	ctx := context.Background()
	type body map[string]any
	asError := func(err error) (int, string) {
		if err != nil {
			return 422, err.Error()
		}
		return 200, ""
	}
	initial := func(opt setup.InitOptions) (int, string) {
		_, err := setup.Init(ctx, testConfig(t, t.TempDir()), opt)
		return asError(err)
	}
	setting := func(key, value string) (int, string) {
		return n.admin("PUT", "settings/"+key, body{"value": value}, nil)
	}
	entries := []struct {
		what   string
		take   func(name string) (status int, sentence string)
		folded bool // false: a name in another form is refused, with the form to type
	}{
		{"origin add", func(name string) (int, string) {
			return n.admin("PUT", "origins/"+url.PathEscape(name), body{}, nil)
		}, true},
		{"origin remove", func(name string) (int, string) {
			return n.admin("DELETE", "origins/"+url.PathEscape(name), nil, nil)
		}, true},
		{"origin add --alias", func(name string) (int, string) {
			return n.admin("PUT", "origins/main.example", body{"aliases": []string{name}}, nil)
		}, true},
		{"name set", func(name string) (int, string) {
			return n.admin("PUT", "names/"+url.PathEscape(name)+"/A", body{"values": []string{"10.0.0.1"}}, nil)
		}, true},
		{"name set CNAME", func(name string) (int, string) {
			return n.admin("PUT", "names/alias.example/CNAME", body{"values": []string{name}}, nil)
		}, true},
		{"name set SRV", func(name string) (int, string) {
			return n.admin("PUT", "names/_x._tcp.alias.example/SRV", body{"values": []string{"0 5 443 " + name}}, nil)
		}, true},
		{"name delete", func(name string) (int, string) {
			return n.admin("DELETE", "names/"+url.PathEscape(name), nil, nil)
		}, true},
		{"cert issue", func(name string) (int, string) {
			return n.admin("POST", "certs", body{"names": []string{name}}, nil)
		}, true},
		{"origins", func(name string) (int, string) { return setting("origins", "default "+name) }, true},
		{"dns.forward", func(name string) (int, string) { return setting("dns.forward", name+"=10.9.9.9") }, true},
		{"init --permit", func(name string) (int, string) {
			return initial(setup.InitOptions{Permit: []string{name}})
		}, true},
		{"init --exclude", func(name string) (int, string) {
			return initial(setup.InitOptions{Exclude: []string{name}})
		}, true},
		{"init --domain", func(name string) (int, string) {
			return initial(setup.InitOptions{Set: map[string]string{"domain": name}})
		}, true},
		{"--name", func(name string) (int, string) {
			label, _, _ := strings.Cut(name, ".")
			_, err := config.Parse("casemate.yaml", []byte("node: "+label+"\n"))
			return asError(err)
		}, false},
	}
	label := strings.Repeat("a", 63)
	for _, e := range entries {
		for _, name := range []string{"bücher.example", "BÜCHER.Example.", "xn--bcher-kva.example"} {
			status, sentence := e.take(name)
			if e.folded || name == "xn--bcher-kva.example" {
				if status >= 300 && status != 404 {
					t.Errorf("%s %s: %d %s", e.what, name, status, sentence)
				}
				n.admin("DELETE", "origins/xn--bcher-kva.example", nil, nil)
			} else if status < 400 || !strings.Contains(sentence, "write xn--bcher-kva") {
				t.Errorf("%s %s: %d %q, want the form to type", e.what, name, status, sentence)
			}
		}
		for _, name := range []string{
			label + "a.example", strings.Repeat("a.", 123) + "example.corp", strings.Repeat("ü", 60) + ".example",
		} {
			if e.what == "--name" && strings.HasPrefix(name, "a.") {
				continue // its label is short
			}
			if e.what == "name delete" || e.what == "origin remove" {
				continue // there is none
			}
			status, sentence := e.take(name)
			if status < 400 || strings.ContainsAny(sentence, "\n") || !strings.Contains(sentence, "63") &&
				!strings.Contains(sentence, "253") && !strings.Contains(sentence, "valid") {
				t.Errorf("%s %.20s…: %d %q", e.what, name, status, sentence)
			}
		}
	}
}

// What a fresh cluster stores is the folded domain, and its names resolve.
func TestDomainsAreFoldedAtInit(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	res := initNode(t, cfg, setup.InitOptions{Set: map[string]string{"domain": "Bücher.Example."}})
	if res.Domain != "xn--bcher-kva.example" {
		t.Errorf("the domain is %q", res.Domain)
	}
	n := serveNode(t, cfg)
	if !n.resolves("registry.xn--bcher-kva.example") || !n.handshakes("registry.xn--bcher-kva.example") {
		t.Error("the folded domain is not served")
	}
	var set struct{ Value string }
	if n.must("GET", "settings/domain", nil, &set); set.Value != "xn--bcher-kva.example" {
		t.Errorf("the setting is %q", set.Value)
	}
}

// The longest domain that init accepts is served, with the longest name of a node; what cannot be served is refused
// before anything is written.
func TestDomainsAtTheLimit(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	longest := label + "." + label + "." + strings.Repeat("b", 58) + ".in"
	for _, domain := range []string{
		longest + "x", "cluster.local", "svc.cluster.local", "d.f.ip6.arpa", "internal", "10.0.0.1", "k8s.io",
	} {
		cfg := testConfig(t, t.TempDir())
		if _, err := setup.Init(context.Background(), cfg, setup.InitOptions{
			Set: map[string]string{"domain": domain}, Log: testLog(t),
		}); err == nil || !strings.Contains(err.Error(), "domain") {
			t.Errorf("%s: %v", domain, err)
		}
		if there, err := setup.Initialised(cfg); there || err != nil {
			t.Errorf("%s: something was written: %v %v", domain, there, err)
		}
	}
	cfg := testConfig(t, t.TempDir())
	cfg.Node = strings.Repeat("n", 63)
	initNode(t, cfg, setup.InitOptions{Set: map[string]string{"domain": longest}})
	n := serveNode(t, cfg)
	for _, name := range []string{cfg.Node + "." + longest, "registry." + longest, longest} {
		if !n.resolves(name) || !n.handshakes(name) {
			t.Errorf("%.20s… (%d bytes) is not served", name, len(name))
		}
	}
}
