package setup

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"casemate/appliance/config"
	"casemate/appliance/usage"
	"casemate/pki"
)

// testConfig is the config of a node on 127.0.0.1 at ports that the kernel chooses.
func testConfig(t testing.TB, dir string) config.Config {
	here := netip.MustParseAddr("127.0.0.1")
	free := []netip.AddrPort{netip.AddrPortFrom(here, 0)}
	cfg := config.Config{
		Node: "n1", Data: filepath.Join(dir, "data"), Advertise: []netip.Addr{here},
		Listen: config.Listen{HTTP: free, HTTPS: free, DNS: free, Peer: free,
			Admin: filepath.Join(dir, "admin.sock")},
	}
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestInitRefusesContradictionsAndWritesNothing(t *testing.T) {
	for _, c := range []struct {
		opt  InitOptions
		says string
	}{
		{InitOptions{Set: map[string]string{"dns.ttl": "0s"}}, `setting dns.ttl must be between 1s and 1h, got "0s"`},
		{InitOptions{Set: map[string]string{"files.alias_arch": "x86"}},
			`setting files.alias_arch must be one of amd64, arm64,`},
		{InitOptions{Set: map[string]string{"nonsense": "1"}}, `there is no setting "nonsense"`},
		{InitOptions{Set: map[string]string{"domain": "docker.io"}}, "setting domain must not overlap an origin"},
		{InitOptions{Set: map[string]string{"dns.forward": "127.0.0.1:5353"}},
			"this node's own address 127.0.0.1:5353"},
		{InitOptions{Exclude: []string{"casemate.internal"}}, "forbids the domain"},
		{InitOptions{Permit: []string{"a.bank.example"}, Exclude: []string{"bank.example"}}, "drop one of the two"},
		{InitOptions{Set: map[string]string{"domain": pki.LabDomain}}, "is that of rehearsals"},
		{InitOptions{Lab: true}, "is that of rehearsals"},
		{InitOptions{Exclude: []string{"127.0.0.0/8"}}, "advertised address 127.0.0.1 is in exclude 127.0.0.0/8"},
	} {
		cfg := testConfig(t, t.TempDir())
		cfg.Listen.DNS = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5353")}
		c.opt.ConfigFile = filepath.Join(filepath.Dir(cfg.Data), "casemate.yaml")
		_, err := Init(context.Background(), cfg, c.opt)
		var mistake *usage.Error
		if !errors.As(err, &mistake) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v, want a usage error with %q", err, c.says)
		}
		for _, path := range []string{cfg.Data, c.opt.ConfigFile} {
			if there, err := exists(path); there || err != nil {
				t.Errorf("%q: %s was written (%v)", c.says, path, err)
			}
		}
	}
}

// A data directory that somebody else's things are in is not touched.
func TestRestoreWhere(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	if _, err := Init(t.Context(), cfg, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	_, _, err := Restore(context.Background(), cfg, strings.NewReader(""), RestoreOptions{Passphrase: "x"})
	if err == nil || !strings.Contains(err.Error(), "is already initialised, restore into a new one") {
		t.Errorf("%v", err)
	}
}
