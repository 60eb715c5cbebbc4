package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/usage"
)

const wholeConfig = `node: n1
data: /var/lib/casemate
advertise: [10.0.0.11, "fd00::11"]
listen:
  http:  ["10.0.0.11:80"]
  https: ["10.0.0.11:443", "[fd00::11]:443"]
  dns:   ["10.0.0.11:53"]
  peer:  "10.0.0.11:7443"
  admin: /run/casemate/admin.sock
peers: {n2: "10.0.0.12:7443", n3: "[fd00::13]:7443"}
log: {level: warn, format: json}
`

func TestConfigIsReadWhole(t *testing.T) {
	c, err := Parse("c.yaml", []byte(wholeConfig))
	if err != nil {
		t.Fatal(err)
	}
	if c.Node != "n1" || c.Data != "/var/lib/casemate" || len(c.Advertise) != 2 || len(c.Listen.HTTPS) != 2 ||
		!slices.Equal(c.Listen.Peer, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.11:7443")}) ||
		c.Log.Level.String() != "WARN" ||
		c.Log.Format != "json" ||
		c.Peers["n2"] != netip.MustParseAddrPort("10.0.0.12:7443") || len(c.Peers) != 2 {
		t.Fatalf("got %+v", c)
	}
	again, err := Parse("again.yaml", c.YAML())
	if err != nil || !reflect.DeepEqual(c, again) {
		t.Fatalf("what YAML writes reads back as %+v, %v", again, err)
	}
	for _, empty := range []string{"", "\n# nothing\n", "listen:\n"} {
		if c, err := Parse("c.yaml", []byte(empty)); err != nil || !reflect.DeepEqual(c, Config{}) {
			t.Errorf("%q: got %+v, %v", empty, c, err)
		}
	}
}

func TestConfigErrorsNameTheLineTheRuleAndTheValue(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"nodes: n1\n",
			`c.yaml line 1: unknown key "nodes"; the keys of the config are advertise, data, listen, log, node, peers`},
		{"node: n1\nlisten:\n  htp: []\n",
			`c.yaml line 3: unknown key "htp"; the keys of listen are admin, dns, http, https, peer`},
		{"node: n1\nnode: n2\n", `c.yaml line 2: key "node" is duplicated`},
		{"node: N1\n", `node must be a DNS label`},
		{"node: files\n", `are reserved in the own zone, got "files"`},
		{"data: var\n", `data must be an absolute path, got "var"`},
		{"node: [a]\n", `line 1: node must be text, got a list`},
		{"advertise: 10.0.0.1\n", `line 1: advertise must be a list with at least one entry, got "10.0.0.1"`},
		{"advertise:\n- 10.0.0.1\n- 10.0.0\n", `line 3: advertise must be an IP address, got "10.0.0"`},
		{"advertise: [0.0.0.0]\n", `advertise must be addresses at which clients reach this node, got "0.0.0.0"`},
		{"advertise: [10.0.0.1, 10.0.0.1]\n", `advertise must have each address once, got 10.0.0.1 twice`},
		{"listen:\n  http: [\"0.0.0.0:80\", \"[::]:80\"]\n",
			`listen.http must have each address once: [::]:80 is the same as 0.0.0.0:80`},
		{"listen:\n  https: [\"10.0.0.1:443\", \"0.0.0.0:443\"]\n",
			`listen.https must have each address once: 0.0.0.0:443 is the same as 10.0.0.1:443`},
		{"listen: 80\n", `line 1: listen must be keys and values, got "80"`},
		{"listen: {dns: [\"0.0.0.0:53\"]}\n",
			`listen.dns must be addresses of this host, never a wildcard (a resolver of the host may use 127.0.0.53), got 0.0.0.0:53`},
		{"listen: {http: [\"10.0.0.1\"]}\n",
			`line 1: listen.http must be an IP address and a port, like 10.0.0.11:443 or [fd00::1]:443, got "10.0.0.1"`},
		{"listen: {admin: a.sock}\n", `listen.admin must be an absolute path of at most 107 bytes, got "a.sock"`},
		{"peers: [n2]\n", `line 1: peers must have at most 64 node names, each with an address and a port, got a list`},
		{"peers: {n2: 10.0.0.12}\n", `line 1: peers.n2 must be an IP address and a port`},
		{"peers: {N2: \"10.0.0.12:1\"}\n", `line 1: peers: node must be a DNS label`},
		{"peers:\n  n2: \"0.0.0.0:1\"\n", `line 2: peers.n2 must be an address that can be reached, got 0.0.0.0:1`},
		{"log: {level: loud}\n", `line 1: log.level must be debug, info, warn or error, got "loud"`},
		{"log: {format: xml}\n", `log.format must be auto, text or json, got "xml"`},
		{"node: n1\na: b: c\n", `line 2: mapping values are not allowed`},
		{"node: a\n---\nnode: b\n", `got a second one`},
		{"- a\n", `line 1: the config must be keys and values, got a list`},
		{"node: &x n1\ndata: *x\n", `line 2: data must be text, got a YAML alias`},
	} {
		_, err := Parse("c.yaml", []byte(c.in))
		var mistake *usage.Error
		if !errors.As(err, &mistake) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want a usage error with %q", c.in, err, c.want)
		}
	}
}

func TestConfigFileThatIsNotThere(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	var mistake *usage.Error
	if !errors.As(err, &mistake) || !strings.Contains(err.Error(), "casemate init writes it") ||
		errors.Is(err, os.ErrExist) {
		t.Fatalf("got %v", err)
	}
}

func TestCompleteFillsInTheHost(t *testing.T) {
	c := Config{Node: "n1", Advertise: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if c.Data != "/var/lib/casemate" || c.Listen.Admin != DefaultSocket || c.Log.Format != "auto" {
		t.Fatalf("got %+v", c)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(wholeConfig))
	f.Add([]byte("node: \"a\\u00e9\"\n"))
	f.Add([]byte("listen: {http: [[]]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("c.yaml", data)
		if err != nil {
			var mistake *usage.Error
			if !errors.As(err, &mistake) {
				t.Fatalf("not a usage error: %v", err)
			}
			return
		}
		again, err := Parse("again.yaml", c.YAML())
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%q: what YAML writes reads back as %+v (%v), not %+v", data, again, err, c)
		}
	})
}
