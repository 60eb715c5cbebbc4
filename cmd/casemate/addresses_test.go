package main

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"casemate/appliance/config"
	"casemate/appliance/names"
	"casemate/appliance/settings"
	"casemate/cluster"
)

// The places where people type an address, each with what it makes of one form: "" if it refuses it.
var typedAddresses = []struct {
	where string
	// What a place takes: an address, an address with a port, either of them, or a range, too.
	bare, port, cidr bool
	v6               bool // IPv6 only
	parse            func(s string) (string, error)
}{
	{where: "--advertise", bare: true, parse: func(s string) (string, error) {
		var list []netip.Addr
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		addrsVar(f, &list, "advertise", "")
		err := f.Parse([]string{"--advertise", s})
		return joined(list), err
	}},
	{where: "advertise", bare: true, parse: func(s string) (string, error) {
		c, err := config.Parse("f", []byte("advertise: ["+quoted(s)+"]\n"))
		return joined(c.Advertise), err
	}},
	{where: "listen.https", port: true, parse: func(s string) (string, error) {
		c, err := config.Parse("f", []byte("listen: {https: ["+quoted(s)+"]}\n"))
		return joined(c.Listen.HTTPS), err
	}},
	{where: "listen.dns", port: true, parse: func(s string) (string, error) {
		c, err := config.Parse("f", []byte("listen: {dns: ["+quoted(s)+"]}\n"))
		return joined(c.Listen.DNS), err
	}},
	{where: "listen.peer, one", port: true, parse: func(s string) (string, error) {
		c, err := config.Parse("f", []byte("listen: {peer: "+quoted(s)+"}\n"))
		return joined(c.Listen.Peer), err
	}},
	{where: "listen.peer, a list", port: true, parse: func(s string) (string, error) {
		c, err := config.Parse("f", []byte("listen: {peer: ["+quoted(s)+"]}\n"))
		return joined(c.Listen.Peer), err
	}},
	{where: "peers", port: true, parse: func(s string) (string, error) {
		c, err := config.Parse("f", []byte("peers: {n2: "+quoted(s)+"}\n"))
		return c.Peers["n2"].String(), err
	}},
	{where: "join, member address", bare: true, port: true, parse: config.PeerAddr},
	{where: "dns.forward", bare: true, port: true, parse: func(s string) (string, error) {
		set, err := settings.Parse(map[string]string{"dns.forward": "corp.example=" + s})
		if err == nil {
			err = set.RefuseLinkLocal()
		}
		if err != nil {
			return "", err
		}
		return joined(set.Forward[0].Resolvers), nil
	}},
	{where: "dns.allow", bare: true, cidr: true, parse: func(s string) (string, error) {
		set, err := settings.Parse(map[string]string{"dns.allow": s})
		if err != nil {
			return "", err
		}
		return joined(set.Allow), nil
	}},
	{where: "--permit, --exclude, --drop", bare: true, cidr: true, parse: parseZone},
	{where: "name set AAAA", bare: true, v6: true, parse: func(s string) (string, error) {
		var to written
		err := names.Set(context.Background(), &to, "a.corp.example", "AAAA", names.Record{Values: []string{s}})
		return to.value, err
	}},
}

func joined[T interface{ String() string }](list []T) string {
	var texts []string
	for _, v := range list {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ",")
}

func quoted(s string) string { return `"` + s + `"` }

// written is a tree that keeps the first value of the newest record.
type written struct {
	fs.StatFS
	cluster.Batch
	value string
}

func (w *written) Update(_ context.Context, edit func(cluster.Batch) error) error { return edit(w) }
func (w *written) Put(_ string, data []byte) {
	var r names.Record
	if json.Unmarshal(data, &r) == nil && len(r.Values) > 0 {
		w.value = r.Values[0]
	}
}

// TestTypedAddresses: one address in any form means the same everywhere.
func TestTypedAddresses(t *testing.T) {
	for _, tt := range []struct {
		typed, addr string // addr "": it is refused everywhere
		port        string // typed with it
		cidr        bool
	}{
		{typed: "fd00::11", addr: "fd00::11"},
		{typed: "[fd00::11]", addr: "fd00::11"},
		{typed: "[fd00::11]:8443", addr: "fd00::11", port: "8443"},
		{typed: "FD00::11", addr: "fd00::11"},
		{typed: "[FD00::A11]", addr: "fd00::a11"},
		{typed: "fd00:0:0:0:0:0:0:11", addr: "fd00::11"},
		{typed: "fd00:0000::0011", addr: "fd00::11"},
		{typed: "[fd00:0:0::0011]:8443", addr: "fd00::11", port: "8443"},
		{typed: "10.0.0.11", addr: "10.0.0.11"},
		{typed: "10.0.0.11:8443", addr: "10.0.0.11", port: "8443"},
		{typed: "::ffff:10.0.0.11", addr: "10.0.0.11"},
		{typed: "[::FFFF:a00:b]", addr: "10.0.0.11"},
		{typed: "[::ffff:10.0.0.11]:8443", addr: "10.0.0.11", port: "8443"},
		{typed: "fd00::/8", addr: "fd00::/8", cidr: true},
		{typed: "[FD00::]/8", addr: "fd00::/8", cidr: true},
		{typed: "10.0.0.0/8", addr: "10.0.0.0/8", cidr: true},
		{typed: "::ffff:10.0.0.0/104", addr: "10.0.0.0/8", cidr: true},
		{typed: "fe80::1%eth0"},
		{typed: "[fe80::1%eth0]"},
		{typed: "[fe80::1%eth0]:8443"},
		{typed: "fd00::11%eth0"},
		{typed: "[fd00::11"},
		{typed: "fd00::11]"},
		{typed: "[fd00::11]:99999"},
		{typed: "[fd00::11]:"},
		{typed: "fd00::11::1"},
		{typed: "10.0.0.256"},
		{typed: "[]"},
	} {
		for _, place := range typedAddresses {
			want := ""
			v4 := !strings.Contains(tt.addr, ":")
			switch {
			case tt.addr == "", place.v6 && v4:
			case tt.cidr:
				if place.cidr {
					want = tt.addr
				}
			case tt.port != "" && place.port:
				a := netip.MustParseAddr(tt.addr)
				want = netip.MustParseAddrPort(map[bool]string{true: tt.addr, false: "[" + tt.addr + "]"}[a.Is4()] +
					":" + tt.port).String()
			case tt.port == "" && place.bare:
				want = tt.addr
			}
			got, err := place.parse(tt.typed)
			if err != nil {
				got = ""
			}
			// What a place adds to an address: its usual port, or that it is a range.
			got, _, _ = strings.Cut(got, map[bool]string{true: "/128", false: "/32"}[!v4])
			if want != "" && tt.port == "" && place.port {
				if a, perr := netip.ParseAddrPort(got); perr == nil {
					got = a.Addr().String()
				}
			}
			if got != want || (err == nil) != (want != "") {
				t.Errorf("%s of %s: got %q, %v, want %q", place.where, tt.typed, got, err, want)
			}
		}
	}
	for _, place := range typedAddresses {
		if place.cidr {
			continue // a range of link-local addresses may be allowed
		}
		typed := "fe80::1"
		if !place.bare {
			typed = "[fe80::1]:53"
		}
		c := config.Config{}
		got, err := place.parse(typed)
		if place.where == "--advertise" { // the flag's value is checked with the config
			c.Advertise = []netip.Addr{netip.MustParseAddr(got)}
			err = c.Validate()
		}
		if err == nil && place.where != "join, member address" {
			t.Errorf("%s takes the link-local address %s", place.where, typed)
		}
	}
}

// TestOneAddressParser: the rooms that read what people type read addresses in one way.
func TestOneAddressParser(t *testing.T) {
	except := map[string]string{
		"appliance/settings/settings.go": "the addresses of this host's interfaces, which nobody types",
		"appliance/settings/values.go":   "a value with a zone that an older version has stored",
	}
	for _, room := range []string{"cmd/casemate", "appliance/config", "appliance/settings", "appliance/names",
		"appliance/setup", "appliance/admin", "appliance/change", "appliance/sockets"} {
		files, err := filepath.Glob(filepath.Join("../..", room, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", room, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			set := token.NewFileSet()
			tree, err := parser.ParseFile(set, file, src, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := sel.X.(*ast.Ident)
				name := room + "/" + filepath.Base(file)
				reads := []string{"net.ParseIP", "net.ParseCIDR", "net.SplitHostPort", "netip.ParseAddr",
					"netip.ParseAddrPort", "netip.ParsePrefix"}
				if ok && except[name] == "" && slices.Contains(reads, pkg.Name+"."+sel.Sel.Name) {
					t.Errorf("%s: %s.%s: read addresses with appliance/address", set.Position(sel.Pos()), pkg.Name,
						sel.Sel.Name)
				}
				return true
			})
		}
	}
}
