package hostname

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Lengths in bytes (RFC 1035, 2.3.4). The longest names that are made below a domain are a node's: NODE.DOMAIN.
const (
	maxName   = 253
	maxLabel  = 63
	maxDomain = maxName - maxLabel - 1
)

// international converts a label as IDNA tells clients to (RFC 5891, 5; UTS 46).
var international = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false))

// dots are the full stops of other scripts, which separate labels like ours (UTS 46, 4.5).
var dots = strings.NewReplacer("\u3002", ".", "\uff0e", ".", "\uff61", ".")

// Fold returns a name that a person has typed in the form in which names are stored, compared and sent: lower-case,
// ASCII (xn-- for other scripts), without a trailing dot. It does not check the form of ASCII labels: see Check.
func Fold(name string) (string, error) {
	if ascii(name) {
		return strings.ToLower(strings.TrimSuffix(name, ".")), nil
	}
	labels := strings.Split(strings.TrimSuffix(dots.Replace(name), "."), ".")
	for i, l := range labels {
		if ascii(l) {
			labels[i] = strings.ToLower(l)
			continue
		}
		// StrictDomainName is not set: where an underscore or a wildcard is allowed is decided by others.
		folded, err := international.ToASCII(l)
		if err != nil || !utf8.ValidString(l) || !ascii(folded) || strings.Contains(folded, ".") {
			return "", fmt.Errorf("must be a host name, and %q is not valid in one", clip(l))
		}
		labels[i] = folded
	}
	return strings.Join(labels, "."), nil
}

// Check returns why a folded name is not a host name with a dot: a sentence that begins with "must".
func Check(name string) error {
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return fmt.Errorf("must be a host name, got the address %s", name)
	}
	if err := CheckLength(name); err != nil {
		return err
	}
	if !IsHost(name) {
		return fmt.Errorf("must be a host name with a dot, of letters, digits and hyphens, got %q", clip(name))
	}
	if last := name[strings.LastIndexByte(name, '.')+1:]; strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("must not end in a number, because clients take such a name for an address, got %q",
			clip(name))
	}
	return nil
}

// CheckLength returns an error if a name or one of its labels is longer than DNS can carry.
func CheckLength(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("must have at most %d bytes, got %d", maxName, len(name))
	}
	for l := range strings.SplitSeq(name, ".") {
		if len(l) > maxLabel {
			return fmt.Errorf("must have at most %d bytes between two dots, got %d in %q", maxLabel, len(l), clip(l))
		}
	}
	return nil
}

// taken are zones that have another meaning for clients, so that none of them would ask us; by zone, with whose it is.
// Those of the same registry (RFC 6761) that a site may use stay allowed: home.arpa, internal, local, test, example.
var taken = []struct{ zone, whose string }{
	{"cluster.local", "each Kubernetes cluster answers it itself"},
	{"in-addr.arpa", "it has the names of IPv4 addresses"},
	{"ip6.arpa", "it has the names of IPv6 addresses"},
	{"localhost", "it means each client's own host"},
	{"invalid", "it has no names (RFC 6761)"},
	{"onion", "it belongs to Tor, and clients do not ask DNS for it (RFC 7686)"},
	{"alt", "it is not part of DNS (RFC 9476)"},
}

// CheckDomain returns why a folded name cannot be a cluster's own zone: a sentence that begins with "must".
func CheckDomain(name string) error {
	if err := Check(name); err != nil {
		return err
	}
	if len(name) > maxDomain {
		return fmt.Errorf("must have at most %d bytes, so that a node's name of %d fits before it, got %d", maxDomain,
			maxLabel, len(name))
	}
	for _, t := range taken {
		if name == t.zone || strings.HasSuffix(name, "."+t.zone) {
			return fmt.Errorf("must not be in %s: %s; got %s", t.zone, t.whose, name)
		}
	}
	if strings.HasSuffix(name, ".arpa") && !strings.HasSuffix("."+name, ".home.arpa") {
		return errors.New("must not be in arpa, which belongs to DNS itself, except for home.arpa; got " + name)
	}
	return nil
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// clip shortens a value for an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
