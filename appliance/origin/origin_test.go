package origin

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"casemate/cluster/treetest"
)

func put(t *testing.T, m *treetest.Mem, list ...Origin) {
	t.Helper()
	err := m.Update(context.Background(), func(b treetest.Batch) error {
		for _, o := range list {
			data, err := Record(o)
			if err != nil {
				return err
			}
			b.Put(o.Host, data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCanonicalFoldsAliasesPortsAndCase(t *testing.T) {
	s := NewSet(Builtin())
	for in, want := range map[string]string{
		"docker.io": "docker.io", "registry-1.docker.io": "docker.io", "index.docker.io:443": "docker.io",
		"Registry.K8S.io.": "registry.k8s.io", "k8s.gcr.io": "registry.k8s.io", "dl.k8s.io:5000": "dl.k8s.io",
	} {
		if got, ok := s.Canonical(in); !ok || got != want {
			t.Errorf("Canonical(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
	for in, want := range map[string]string{"example.org:80": "example.org", "10.0.0.1:80": "10.0.0.1",
		"[fd00::1]:443": "fd00::1", "fd00::1": "fd00::1"} {
		if got, ok := s.Canonical(in); ok || got != want {
			t.Errorf("Canonical(%q) = %q, %v; want %q and no origin", in, got, ok, want)
		}
	}
}

func TestBuiltinNamesAreSoundAndBelongToOne(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Builtin() {
		for _, n := range o.Names() {
			if err := Check(n); err != nil || seen[n] || Fold(n) != n {
				t.Errorf("%s: %v (seen before: %v)", n, err, seen[n])
			}
			seen[n] = true
		}
	}
	if got := NewSet(Builtin()).Names(); len(got) != len(seen) {
		t.Errorf("%d names are enabled, want %d", len(got), len(seen))
	}
}

func TestRecordsWinOverTheBuiltinList(t *testing.T) {
	m := treetest.New(t)
	put(t, m,
		Origin{Host: "quay.io", Disabled: Removed},
		Origin{Host: "registry.bank.example", Aliases: []string{"r.bank.example"}, Registry: true},
		Origin{Host: "files.bank.example", Disabled: NotPermitted},
	)
	s, err := Load(m, Builtin())
	if err != nil {
		t.Fatal(err)
	}
	hosts := s.Hosts()
	if slices.Contains(hosts, "quay.io") || !slices.Contains(hosts, "registry.bank.example") ||
		slices.Contains(hosts, "files.bank.example") {
		t.Fatalf("enabled: %v", hosts)
	}
	if slices.Index(hosts, "registry.bank.example") > slices.Index(hosts, "dl.k8s.io") {
		t.Error("a registry comes before the file hosts")
	}
	if _, ok := s.Canonical("cdn01.quay.io"); ok {
		t.Error("an alias of a disabled origin is answered")
	}
	if o, ok := s.Get("quay.io"); !ok || o.Disabled != Removed || !o.Builtin || len(o.Aliases) == 0 {
		t.Errorf("a removed origin keeps what the list knows, got %+v", o)
	}
	if o, _ := s.Get("files.bank.example"); o.Disabled != NotPermitted {
		t.Errorf("got %+v", o)
	}
}

func TestDamagedRecordIsNamed(t *testing.T) {
	m := treetest.New(t)
	m.Update(context.Background(), func(b treetest.Batch) error { b.Put("quay.io", []byte("{")); return nil })
	if _, err := Load(m, Builtin()); !errors.Is(err, fs.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

func TestANameBelongsToOneOrigin(t *testing.T) {
	s := NewSet(Builtin())
	for _, o := range []Origin{
		{Host: "registry-1.docker.io"},
		{Host: "new.example.org", Aliases: []string{"quay.io"}},
	} {
		if _, err := s.With(o); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v: got %v, want fs.ErrExist", o, err)
		}
	}
	for _, host := range []string{"", "nodot", "10.0.0.1", "-a.example", "a..b", "a b.example", "a/b.example"} {
		if _, err := s.With(Origin{Host: host}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: got %v, want fs.ErrInvalid", host, err)
		}
	}
	added, err := s.With(Origin{Host: "new.example.org"})
	if err != nil || !slices.Contains(added.Names(), "new.example.org") ||
		slices.Contains(s.Names(), "new.example.org") {
		t.Fatalf("With changes a copy: %v", err)
	}
	if gone := added.Without("new.example.org"); slices.Contains(gone.Names(), "new.example.org") {
		t.Error("removed and still there")
	}
	if o, ok := s.Without("quay.io").Get("quay.io"); !ok || o.Disabled != Removed {
		t.Errorf("a built-in origin stays, disabled: %+v", o)
	}
}

func TestPort(t *testing.T) {
	for s, want := range map[string]string{
		"quay.io:5000": "5000", "Quay.IO.:443": "443", "10.0.0.1:80": "80", "[2001:db8::1]:443": "443", "quay.io": "",
		"": "", ":": "", "quay.io:": "", "2001:db8::1": "", "::": "", "10.0.0.1": "", "[2001:db8::1]": "",
		"a:b:c": "b:c", "*.quay.io:1": "1",
	} {
		if got := Port(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

func TestPasted(t *testing.T) {
	for s, want := range map[string]string{
		"https://registry.k8s.io/v2/": "registry.k8s.io", "https://Quay.IO": "quay.io",
		"docker://quay.io:443/a/b:1": "quay.io",
		"registry.k8s.io/pause:3.10": "registry.k8s.io", "ftp://quay.io/": "quay.io", "quay.io/": "quay.io",
		"quay.io": "", "quay.io:5000": "", "10.0.0.1": "", "https://10.0.0.1/": "", "library/nginx": "",
		"": "", "/": "",
		"://": "", "https://": "", "2001:db8::1": "", "*.quay.io": "",
	} {
		if got := Pasted(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
