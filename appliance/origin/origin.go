// Package origin defines the public hosts that content comes from: their names, their aliases, and which of them are
// enabled.
//
// It promises: one canonical name for each host, whatever alias or port a client uses; the same order on every node;
// and precedence of the tree over the built-in list, so that a newer program with a longer list does not revert an
// operator's decision.
package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"casemate/appliance/hostname"
)

// An Origin is a public host that content comes from.
type Origin struct {
	// Host is the canonical name: lower-case, no port, no trailing dot.
	Host string `json:"host"`
	// Aliases are other names of the same content.
	Aliases []string `json:"aliases,omitempty"`
	// Registry means that it mainly serves container images. Registries come first in the order in which flat names
	// are tried; apart from that every origin serves /v2/ as a registry and everything else as files.
	Registry bool `json:"registry,omitempty"`
	// Disabled is why the origin is not served: "" if it is.
	Disabled string `json:"disabled,omitempty"`
	// Builtin means that the origin is in the program's list.
	Builtin bool `json:"builtin,omitempty"`
}

// Reasons for which an origin is stored but not enabled.
const (
	// Removed is an origin that the operator removed from the built-in list.
	Removed = "removed"
	// NotPermitted is an origin that the CA's root does not permit: no certificate for it would verify.
	NotPermitted = "not permitted by the root certificate"
)

// Names returns the host and its aliases.
func (o Origin) Names() []string { return append([]string{o.Host}, o.Aliases...) }

func registry(host string, aliases ...string) Origin {
	return Origin{Host: host, Aliases: aliases, Registry: true, Builtin: true}
}

func files(hosts ...string) []Origin {
	var list []Origin
	for _, h := range hosts {
		list = append(list, Origin{Host: h, Builtin: true})
	}
	return list
}

// Builtin returns the public registries and download hosts that installers of Kubernetes use, in the order in which
// flat names are tried. Blobs are served from the origin itself, so the delivery networks behind them are not needed.
// Those with their own names are listed all the same, so that requests for them are recorded in the missing book.
func Builtin() []Origin {
	return slices.Concat(
		[]Origin{
			registry("registry.k8s.io", "k8s.gcr.io"),
			registry("docker.io", "registry-1.docker.io", "index.docker.io", "auth.docker.io",
				"registry.hub.docker.com"),
			registry("quay.io", "cdn.quay.io", "cdn01.quay.io", "cdn02.quay.io", "cdn03.quay.io"),
			registry("ghcr.io", "pkg-containers.githubusercontent.com"),
			registry("gcr.io", "us.gcr.io", "eu.gcr.io", "asia.gcr.io"),
			registry("gke.gcr.io"),
			registry("mcr.microsoft.com"),
			registry("registry.gitlab.com"),
			registry("public.ecr.aws"),
			registry("docker.elastic.co"),
			registry("nvcr.io"),
		},
		[]Origin{
			{Host: "dl.k8s.io", Aliases: []string{"cdn.dl.k8s.io"}, Builtin: true},
		},
		files(
			"github.com", "raw.githubusercontent.com", "objects.githubusercontent.com",
			"release-assets.githubusercontent.com", "codeload.github.com",
			"storage.googleapis.com", "get.helm.sh", "helm.cilium.io", "postfinance.github.io", "charts.jetstack.io",
			"download.docker.com", "production.cloudflare.docker.com", "pkgs.k8s.io", "prod-cdn.packages.k8s.io",
			"download.opensuse.org",
			"archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com",
			"mirrors.almalinux.org", "repo.almalinux.org", "mirrors.rockylinux.org", "dl.rockylinux.org",
			"mirror.centos.org", "mirror.stream.centos.org",
			"download.fedoraproject.org", "mirrors.fedoraproject.org", "dl.fedoraproject.org", "yum.oracle.com",
			"nvidia.github.io", "developer.download.nvidia.com",
			"get.k3s.io", "update.k3s.io", "get.rke2.io", "update.rke2.io", "rpm.rancher.io",
		),
	)
}

// Fold normalizes a host for comparison: lower-case, without a port and without a trailing dot.
func Fold(host string) string {
	host = strings.ToLower(host)
	if a, err := netip.ParseAddrPort(host); err == nil {
		return a.Addr().Unmap().String()
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host, ':') == i {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

// Typed is Fold for a host that a person has typed: other scripts are folded too (xn--). The error is a sentence.
func Typed(host string) (string, error) {
	folded, err := hostname.Fold(Fold(host))
	if err != nil {
		return "", fmt.Errorf("an origin %w: %w", err, fs.ErrInvalid)
	}
	return folded, nil
}

// Port returns the port after a host name or an address; "" if there is none.
func Port(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.IsValid() {
		return "" // the colons of IPv6
	}
	_, port, ok := strings.Cut(host[strings.LastIndexByte(host, ']')+1:], ":")
	if !ok {
		return ""
	}
	return port
}

// Pasted returns the host in a URL or in an image's name, which people paste where a host name belongs; "" if s is
// neither.
func Pasted(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if !ok {
		rest = s
	}
	host, _, path := strings.Cut(rest, "/")
	host, err := Typed(host)
	if !ok && !path || err != nil || Check(host) != nil {
		return ""
	}
	return host
}

// Check returns why host cannot be an origin; host is the result of Fold or Typed.
func Check(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return fmt.Errorf("an origin must be a host name, got the address %s: %w", host, fs.ErrInvalid)
	}
	if err := hostname.CheckLength(host); err != nil {
		return fmt.Errorf("an origin %w: %w", err, fs.ErrInvalid)
	}
	if !hostname.IsHost(host) {
		return fmt.Errorf("an origin must be a host name with a dot, like registry.example.org, got %q: %w", host,
			fs.ErrInvalid)
	}
	return nil
}

// A Set is the set of origins at one moment. It is immutable and safe for concurrent use.
type Set struct {
	list []Origin
	by   map[string]int // host or alias, of enabled origins
	all  map[string]int // host or alias, of every origin
}

// Load applies the operator's records (one file per origin, tree being the origins/ directory) to base, the origins
// that exist without a record. A record that cannot be read is an error with its name: ignoring it would silently
// enable or disable an origin.
func Load(tree fs.ReadDirFS, base []Origin) (*Set, error) {
	list := slices.Clone(base)
	at := map[string]int{}
	for i, o := range list {
		at[o.Host] = i
	}
	entries, err := tree.ReadDir(".")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("origins: %w", err)
	}
	for _, e := range entries { // sorted by name: the same order on every node
		data, err := fs.ReadFile(tree, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the listing
		}
		if err != nil {
			return nil, fmt.Errorf("origin %s: %w", e.Name(), err)
		}
		var o Origin
		if err := json.Unmarshal(data, &o); err != nil || o.Host != e.Name() || Check(o.Host) != nil {
			return nil, fmt.Errorf("origin %s: its record is damaged, remove the origin and add it again: %w", e.Name(),
				errors.Join(err, fs.ErrInvalid))
		}
		if i, ok := at[o.Host]; ok {
			o.Builtin = list[i].Builtin
			if o.Disabled == Removed { // keeps the list's aliases, so that adding it again needs only the host
				o.Aliases, o.Registry = list[i].Aliases, list[i].Registry
			}
			list[i] = o
		} else {
			at[o.Host] = len(list)
			list = append(list, o)
		}
	}
	return NewSet(list), nil
}

// NewSet makes a set of a list. Registries come first, otherwise the order stays. A name of two origins belongs to
// the one whose host it is, else to the first.
func NewSet(list []Origin) *Set {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Origin) int {
		switch {
		case a.Registry == b.Registry:
			return 0
		case a.Registry:
			return -1
		default:
			return 1
		}
	})
	s := &Set{list: list, by: map[string]int{}, all: map[string]int{}}
	for i, o := range list {
		s.all[o.Host] = i
		if o.Disabled == "" {
			s.by[o.Host] = i
		}
	}
	for i, o := range list {
		for _, a := range o.Aliases {
			if _, taken := s.all[a]; taken {
				continue
			}
			s.all[a] = i
			if o.Disabled == "" {
				s.by[a] = i
			}
		}
	}
	return s
}

// All returns every origin, enabled or not, in order.
func (s *Set) All() []Origin { return slices.Clone(s.list) }

// Hosts returns the canonical names of the enabled origins, in order.
func (s *Set) Hosts() []string {
	var hosts []string
	for _, o := range s.list {
		if o.Disabled == "" {
			hosts = append(hosts, o.Host)
		}
	}
	return hosts
}

// Names returns every name of the enabled origins, aliases included, in order.
func (s *Set) Names() []string {
	var names []string
	for i, o := range s.list {
		for _, n := range o.Names() {
			if at, ok := s.by[n]; ok && at == i {
				names = append(names, n)
			}
		}
	}
	return names
}

// Canonical maps a name as a client writes it (any case, with a port, an alias) to the host of its enabled origin.
// The second result reports whether there is one; if not, the first is the folded name.
func (s *Set) Canonical(name string) (string, bool) {
	name = Fold(name)
	if i, ok := s.by[name]; ok {
		return s.list[i].Host, true
	}
	return name, false
}

// Get returns the origin, enabled or not, that a name belongs to.
func (s *Set) Get(name string) (Origin, bool) {
	i, ok := s.all[Fold(name)]
	if !ok {
		return Origin{}, false
	}
	return s.list[i], true
}

// With returns a set with o added, replacing the origin with its host. If its host or alias belongs to another
// origin, the error is fs.ErrExist and names that one.
func (s *Set) With(o Origin) (*Set, error) {
	for _, n := range o.Names() {
		if err := Check(n); err != nil {
			return nil, err
		}
		if i, ok := s.all[n]; ok && s.list[i].Host != o.Host {
			return nil, fmt.Errorf("%s belongs to the origin %s already: %w", n, s.list[i].Host, fs.ErrExist)
		}
	}
	list := slices.Clone(s.list)
	if i := slices.IndexFunc(list, func(x Origin) bool { return x.Host == o.Host }); i >= 0 {
		list[i] = o
	} else {
		list = append(list, o)
	}
	return NewSet(list), nil
}

// Without returns a set without the origin: a built-in one stays, disabled.
func (s *Set) Without(host string) *Set {
	list := slices.Clone(s.list)
	for i, o := range list {
		if o.Host != host {
			continue
		}
		if o.Builtin {
			list[i].Disabled = Removed
		} else {
			list = slices.Delete(list, i, i+1)
		}
		break
	}
	return NewSet(list)
}

// Record encodes o as its file in the tree, named o.Host.
func Record(o Origin) ([]byte, error) {
	o.Builtin = false
	data, err := json.Marshal(o)
	if err == nil && len(data) > 4096 {
		err = fmt.Errorf("origin %s: its record has %d bytes, more than 4096: use fewer aliases: %w", o.Host, len(data),
			fs.ErrInvalid)
	}
	return data, err
}
