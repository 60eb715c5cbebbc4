package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/net/idna"
)

// ErrNotPermitted means that the root's name constraints do not allow a name or an address. Only a new root can change
// that.
var ErrNotPermitted = errors.New("not permitted by the root certificate")

// mistake is an invalid argument of the caller; errors.Is(err, fs.ErrInvalid) distinguishes it from internal errors.
type mistake string

func (m mistake) Error() string        { return string(m) }
func (m mistake) Is(target error) bool { return target == fs.ErrInvalid }

func mistakef(format string, args ...any) error { return mistake(fmt.Sprintf(format, args...)) }

// PublicZones are the zones of public container registries and download hosts that a root permits unless Spec.Public
// says otherwise: every host that the appliance may ever be asked to replace. The list is generous because a wider root
// is another root, which every client must install (RotateTo). It has zones of software distribution only, never a
// whole company: "storage.googleapis.com", not "googleapis.com".
func PublicZones() []string {
	return []string{
		// Container registries.
		"docker.io", "docker.com", "k8s.io", "gcr.io", "pkg.dev", "quay.io", "ghcr.io", "mcr.microsoft.com",
		"azurecr.io",
		"ecr.aws", "registry.gitlab.com", "docker.elastic.co", "nvcr.io", "registry.redhat.io",
		"registry.access.redhat.com",
		"registry.suse.com", "registry.opensuse.org", "container-registry.oracle.com", "icr.io", "cgr.dev", "lscr.io",
		"registry.hub.docker.com", "cr.l5d.io", "rancher.io", "xpkg.upbound.io", "docker.n8n.io",
		"registry.developers.crunchydata.com",
		// Files, charts, installers.
		"github.com", "githubusercontent.com", "github.io", "gitlab.com", "gitlab.io", "storage.googleapis.com",
		"packages.cloud.google.com",
		"s3.amazonaws.com", "helm.sh", "cilium.io", "tigera.io", "projectcalico.org", "k3s.io", "rke2.io",
		"rancher.com", "longhorn.io", "jetstack.io", "releases.hashicorp.com", "get.docker.com", "elastic.co",
		"grafana.com",
		"download.nvidia.com", "developer.download.nvidia.com", "ngc.nvidia.com", "istio.io", "linkerd.io",
		"get.opentofu.org", "argoproj.io",
		"fluxcd.io", "bitnami.com", "goharbor.io", "talos.dev", "zarf.dev", "sigstore.dev", "mirantis.com",
		"k0sproject.io", "microk8s.io",
		// Operating systems.
		"debian.org", "ubuntu.com", "centos.org", "fedoraproject.org", "almalinux.org", "rockylinux.org",
		"opensuse.org",
		"yum.oracle.com", "packages.microsoft.com", "alpinelinux.org", "flatcar-linux.org", "flatcar-linux.net",
		"cdn.redhat.com", "cdn-ubi.redhat.com", "amazonlinux.com", "repo.openeuler.org",
		"updates.suse.com", "scc.suse.com", "dl.rockylinux.org", "repo.almalinux.org",
		"ppa.launchpadcontent.net", "ppa.launchpad.net", "download.copr.fedorainfracloud.org", "packagecloud.io",
		// Models, and packages of Python.
		"huggingface.co", "hf.co", "ollama.com", "ollama.ai", "pytorch.org", "pypi.org", "pythonhosted.org",
	}
}

// privateRanges can be permitted without any use to a thief on public networks: RFC 1918, RFC 6598 (shared), loopback,
// RFC 4193 (ULA).
func privateRanges() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("::1/128"),
	}
}

// publicSubnet is the prefix length of the network that a global IPv6 address is in (RFC 4291, 2.5.4).
const publicSubnet = 64

// networks returns what a root permits for the addresses of bastions: each of them, and for an IPv6 address that is not
// private its whole network, since the next bastion, and one that replaces it, get theirs there.
func networks(addrs []netip.Addr) (out []netip.Prefix) {
	for _, a := range addrs {
		bits := a.BitLen()
		if a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate() {
			bits = publicSubnet
		}
		out = append(out, netip.PrefixFrom(a, bits).Masked())
	}
	return out
}

// within reports whether name is zone or below it. Both are in canonical form.
func within(name, zone string) bool {
	return strings.HasSuffix(name, zone) && (len(name) == len(zone) || name[len(name)-len(zone)-1] == '.')
}

// canonical returns a host name (a leading "*." stays) or an address in its only form here: lower case, ASCII (RFC
// 5891), no trailing dot, IPv4-mapped addresses as IPv4.
func canonical(name string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		if a.Zone() != "" {
			return "", mistakef("address %q has a zone: a certificate cannot carry it", name)
		}
		return a.Unmap().String(), nil
	}
	if len(name) > 1024 {
		return "", mistakef("name %.60q… is too long", name)
	}
	host, star := strings.CutPrefix(name, "*.")
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(host, "."))
	if err != nil {
		// The lookup profile refuses underscores, which occur in real host names.
		ascii = strings.ToLower(strings.TrimSuffix(host, "."))
	}
	if err := checkLength(name, ascii); err != nil {
		return "", err
	}
	if !validHost(ascii) {
		return "", mistakef("%q is not a host name", name)
	}
	if star {
		ascii = "*." + ascii
	}
	return ascii, nil
}

// overlong is the mistake of a name that DNS cannot carry.
type overlong struct{ mistake }

// checkLength returns an error if a name, or a label of it, is too long (RFC 1035, 2.3.4). ascii is its canonical form.
func checkLength(name, ascii string) error {
	if len(ascii) > 253 {
		return overlong{mistake(fmt.Sprintf("name %.60q… has %d bytes: a host name has at most 253", name, len(ascii)))}
	}
	for l := range strings.SplitSeq(ascii, ".") {
		if len(l) > 63 {
			return overlong{mistake(fmt.Sprintf("name %.60q… has %d bytes between two dots: a host name has at most 63",
				name, len(l)))}
		}
	}
	return nil
}

// validHost reports whether s is a lower-case host name of characters that a certificate may contain, or underscores.
func validHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for i := range len(l) {
			if c := l[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	// Some clients would read a last label of digits as an address (WHATWG URL, 3.5).
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != ""
}

// parseZone reads ZONE|CIDR|ADDRESS; one of the two results is set.
func parseZone(s string) (zone string, cidr netip.Prefix, err error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p.Masked() != p {
			return "", p, mistakef("%q has bits set after its prefix: write %s", s, p.Masked())
		}
		if p.Addr().Is4In6() {
			return "", p, mistakef("%q is an IPv4 range written as IPv6: write it as IPv4", s)
		}
		return "", p, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return "", netip.PrefixFrom(a, a.BitLen()), nil
	}
	if strings.HasPrefix(s, "*.") || strings.HasPrefix(s, ".") {
		return "", cidr, mistakef("%q: write a zone without the leading %q, it covers all names below it", s,
			s[:strings.Index(s, ".")+1])
	}
	zone, err = canonical(s)
	if long := (overlong{}); errors.As(err, &long) {
		return "", cidr, err
	}
	if err != nil {
		return "", cidr, mistakef("%q is neither a zone nor a CIDR", s)
	}
	return zone, cidr, nil
}

// constraints are the name constraints of one CA certificate (RFC 5280, 4.2.1.10): DNS names and addresses. As there,
// an empty list of permitted zones or ranges permits all that is not excluded; tidy makes sure that ours is never
// empty.
type constraints struct {
	zones, noZones   []string
	ranges, noRanges []netip.Prefix
}

func (k constraints) clone() constraints {
	return constraints{slices.Clone(k.zones), slices.Clone(k.noZones), slices.Clone(k.ranges), slices.Clone(k.noRanges)}
}

// equal compares constraints; both must be tidy.
func (k constraints) equal(o constraints) bool {
	return slices.Equal(k.zones, o.zones) && slices.Equal(k.noZones, o.noZones) &&
		slices.Equal(k.ranges, o.ranges) && slices.Equal(k.noRanges, o.noRanges)
}

// allows returns nil if the constraints permit the name (a wildcard counts as the zone that it covers) or address,
// given in canonical form.
func (k constraints) allows(name string) error {
	if a, err := netip.ParseAddr(name); err == nil {
		for _, r := range k.noRanges {
			if r.Contains(a) {
				return fmt.Errorf("address %s is in the excluded range %s: %w", a, r, ErrNotPermitted)
			}
		}
		for _, r := range k.ranges {
			if r.Contains(a) {
				return nil
			}
		}
		if len(k.ranges) == 0 {
			return nil
		}
		return fmt.Errorf("address %s: %w", a, ErrNotPermitted)
	}
	host, star := strings.CutPrefix(name, "*.")
	for _, z := range k.noZones {
		if within(host, z) || star && within(z, host) {
			return fmt.Errorf("name %s is in the excluded zone %s: %w", name, z, ErrNotPermitted)
		}
	}
	for _, z := range k.zones {
		if within(host, z) {
			return nil
		}
	}
	if len(k.zones) == 0 {
		return nil
	}
	return fmt.Errorf("name %s: %w", name, ErrNotPermitted)
}

// tidy sorts, drops what another entry covers and ranges that are excluded whole, and excludes an address family that
// has no permitted range.
func (k constraints) tidy() constraints {
	k.zones, k.noZones = collapseZones(k.zones), collapseZones(k.noZones)
	k.ranges, k.noRanges = collapseRanges(k.ranges), collapseRanges(k.noRanges)
	k.ranges = slices.DeleteFunc(k.ranges, func(r netip.Prefix) bool {
		return slices.ContainsFunc(k.noRanges, func(no netip.Prefix) bool { return holds(no, r) })
	})
	for _, all := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
		if !slices.ContainsFunc(k.ranges, func(p netip.Prefix) bool { return p.Addr().Is4() == all.Addr().Is4() }) {
			k.noRanges = collapseRanges(append(k.noRanges, all))
		}
	}
	return k
}

func collapseZones(in []string) []string {
	have := make(map[string]bool, len(in))
	for _, z := range in {
		have[z] = true
	}
	var out []string
	for z := range have {
		covered := false
		for up := z; !covered; {
			_, parent, ok := strings.Cut(up, ".")
			if !ok {
				break
			}
			covered, up = have[parent], parent
		}
		if !covered {
			out = append(out, z)
		}
	}
	slices.Sort(out)
	return out
}

// holds reports whether all addresses of inner are in outer.
func holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func collapseRanges(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		covered := func(o netip.Prefix) bool { return o != p && holds(o, p) }
		if !slices.ContainsFunc(in, covered) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// Mail addresses and URIs are forbidden entirely. No constraint expresses "all of them" in a way that every verifier
// understands, so a host that cannot exist (RFC 2606, 2) is the only one permitted, which suffices except for GnuTLS.
// GnuTLS considers excluded URIs only, and if there is one, refuses all. It must be another host: Java drops what is
// both permitted and excluded, and then permits everything.
//
// Names and addresses that cannot exist are also permitted among DNS names and addresses, in every certificate. Java
// fails to intersect two lists that have no entry in common ("Unexpected error", or a null pointer). And a family of
// addresses in which nothing is permitted needs an entry, because GnuTLS does not compare an address with constraints
// of the other family; to exclude the family entirely would have the same effect, but makes Java fail at every address
// of the other one.
const (
	nobody   = "invalid"
	excluded = "excluded.invalid"
)

// nowhere returns the broadcast address, and one of a block that is not assigned (RFC 4291, 2.4). Their first bytes
// occur in no other range: Java up to 17 compares the first bytes of addresses of both families.
func nowhere() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("f000::/128")}
}

// inCertificate returns the constraints as they are encoded in certificates.
func (k constraints) inCertificate() constraints {
	k.zones = collapseZones(append(slices.Clone(k.zones), nobody))
	k.ranges = collapseRanges(slices.Concat(k.ranges, nowhere()))
	k.noRanges = slices.DeleteFunc(slices.Clone(k.noRanges), func(r netip.Prefix) bool { return r.Bits() == 0 })
	return k
}

// apply sets the constraints in a template, critical.
func (k constraints) apply(t *x509.Certificate) {
	t.PermittedDNSDomainsCritical = true
	t.PermittedEmailAddresses = []string{nobody}
	t.PermittedURIDomains, t.ExcludedURIDomains = []string{nobody}, []string{excluded}
	k = k.inCertificate()
	t.PermittedDNSDomains, t.ExcludedDNSDomains = k.zones, k.noZones
	t.PermittedIPRanges, t.ExcludedIPRanges = ipNets(k.ranges), ipNets(k.noRanges)
}

// extension returns the constraints of apply that also restrict subjects (and alternative names of that form) to an
// organization. It is not critical: Go refuses every chain with a critical constraint on an unknown form of name.
func (k constraints) extension(organization string) (pkix.Extension, error) {
	name, err := asn1.Marshal(pkix.Name{Organization: []string{organization}}.ToRDNSequence())
	if err != nil {
		return pkix.Extension{}, err
	}
	// Tags of GeneralName (RFC 5280, 4.2.1.6). A directoryName is explicit, because a Name is a choice.
	const mail, dns, dir, uri, ip = 1, 2, 4, 6, 7
	k = k.inCertificate()
	var b cryptobyte.Builder
	subtree := func(b *cryptobyte.Builder, tag cryptobyte_asn1.Tag, value []byte) {
		b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tag.ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(value) })
		})
	}
	lists := func(b *cryptobyte.Builder, zones []string, ranges []netip.Prefix) {
		for _, z := range zones {
			subtree(b, dns, []byte(z))
		}
		for _, n := range ipNets(ranges) {
			subtree(b, ip, slices.Concat(n.IP, net.IP(n.Mask)))
		}
	}
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyte_asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			subtree(b, cryptobyte_asn1.Tag(dir).Constructed(), name)
			subtree(b, mail, []byte(nobody))
			subtree(b, uri, []byte(nobody))
			lists(b, k.zones, k.ranges)
		})
		b.AddASN1(cryptobyte_asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			subtree(b, uri, []byte(excluded))
			lists(b, k.noZones, k.noRanges)
		})
	})
	der, err := b.Bytes()
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Value: der}, err
}

// mergeable widens k until Java can intersect it with the constraints of a certificate above. Of several permitted
// zones (or ranges) below one zone of the upper list, Java keeps the first and refuses the others: two or more are
// replaced by one that covers them all.
func (k constraints) mergeable(up constraints) constraints {
	for _, z := range up.zones {
		var below, rest []string
		for _, n := range k.zones {
			if n != z && within(n, z) {
				below = append(below, n)
			} else {
				rest = append(rest, n)
			}
		}
		if len(below) > 1 {
			cover := below[0]
			for !slices.Equal(collapseZones(append(slices.Clone(below), cover)), []string{cover}) {
				_, cover, _ = strings.Cut(cover, ".") // at the latest when it is z
			}
			k.zones = append(rest, cover)
		}
	}
	for _, r := range up.ranges {
		var below, rest []netip.Prefix
		for _, n := range k.ranges {
			if n != r && holds(r, n) {
				below = append(below, n)
			} else {
				rest = append(rest, n)
			}
		}
		if len(below) > 1 {
			cover := below[0]
			for slices.ContainsFunc(below, func(n netip.Prefix) bool { return !holds(cover, n) }) {
				cover = netip.PrefixFrom(cover.Addr(), cover.Bits()-1).Masked()
			}
			k.ranges = append(rest, cover)
		}
	}
	return k.tidy()
}

func ipNets(in []netip.Prefix) []*net.IPNet {
	var out []*net.IPNet
	for _, p := range in {
		out = append(out, &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return out
}

// constraintsOf reads the constraints of a CA certificate.
func constraintsOf(cert *x509.Certificate) constraints {
	k := constraints{ranges: prefixes(cert.PermittedIPRanges), noRanges: prefixes(cert.ExcludedIPRanges)}
	for _, z := range cert.PermittedDNSDomains {
		k.zones = append(k.zones, strings.TrimPrefix(strings.ToLower(z), "."))
	}
	for _, z := range cert.ExcludedDNSDomains {
		k.noZones = append(k.noZones, strings.TrimPrefix(strings.ToLower(z), "."))
	}
	return k
}

func prefixes(in []*net.IPNet) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range in {
		a, ok := netip.AddrFromSlice(n.IP)
		if bits, size := n.Mask.Size(); ok && size == a.BitLen() {
			out = append(out, netip.PrefixFrom(a, bits))
		}
	}
	return out
}
