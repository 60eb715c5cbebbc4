package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"casemate/appliance/address"
	"casemate/appliance/hostname"
	"casemate/appliance/origin"
	"casemate/dnssrv"
	"casemate/fileserver"
)

// parseRedirects reads pairs separated by white space.
func parseRedirects(s *Settings, v string) error {
	s.Redirects = map[string]string{}
	seen := map[string]bool{}
	for _, f := range strings.Fields(v) {
		from, to, ok := strings.Cut(f, "=>")
		if !ok || from == "" || to == "" {
			return fmt.Errorf("must be FROM=>TO pairs, separated by spaces and without spaces around =>, got %q", f)
		}
		if err := fileserver.CheckRedirect(from, to); err != nil {
			return fmt.Errorf("has an invalid pair: %w", err)
		}
		// Compare normalized addresses: two pairs for one address would overwrite each other.
		name, err := fileserver.KeyIn(strings.TrimSuffix(from, "*"), func(host string) (string, bool) {
			return host, true
		})
		if err != nil {
			return err
		}
		if strings.HasSuffix(from, "/*") {
			name += "*"
		}
		if seen[name] {
			return fmt.Errorf("must have each address once, got %s twice", from)
		}
		seen[name], s.Redirects[from] = true, to
	}
	return nil
}

// parseSize reads a number of bytes like 500MiB, 200GiB or 2TiB; off is 0.
func parseSize(v string) (int64, error) {
	if v == "off" {
		return 0, nil
	}
	for i, unit := range []string{"MiB", "GiB", "TiB"} {
		digits, ok := strings.CutSuffix(v, unit)
		if n, err := strconv.ParseInt(digits, 10, 64); ok && err == nil && n > 0 && n < 1<<20 {
			return n << (20 + 10*i), nil
		}
	}
	return 0, fmt.Errorf("must be off, or a size like 500MiB, 200GiB or 2TiB, got %q", v)
}

// parseInterval reads whole days ("30d") or a duration, from one day to most days; off is 0.
func parseInterval(v string, most int) (time.Duration, error) {
	if v == "off" {
		return 0, nil
	}
	text := v
	if days, err := strconv.Atoi(strings.TrimSuffix(v, "d")); err == nil && strings.HasSuffix(v, "d") && days < 1000 {
		text = fmt.Sprint(24*days, "h")
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 24*time.Hour || d > time.Duration(most)*24*time.Hour {
		return 0, fmt.Errorf("must be off, or between 1d and %dd, got %q", most, v)
	}
	return d, nil
}

var kubernetesVersion = regexp.MustCompile(
	`^v([1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})(-(alpha|beta|rc)\.[0-9]{1,3})?$`)

var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::1/128"),
}

func builtinOr(host string) origin.Origin {
	for _, o := range origin.Builtin() {
		if o.Host == host {
			return o
		}
	}
	return origin.Origin{Host: host, Registry: true, Builtin: true}
}

func fields(v string) []string {
	return strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' })
}

func oneOf(v string, allowed ...string) error {
	if !slices.Contains(allowed, v) {
		last := len(allowed) - 1
		return fmt.Errorf("must be %s or %s, got %q", strings.Join(allowed[:last], ", "), allowed[last], v)
	}
	return nil
}

func parseForward(s *Settings, v string) error {
	s.Forward = nil
	at := map[string]int{}
	add := func(zone, list string) error {
		for r := range strings.SplitSeq(list, ",") {
			if r == "" {
				continue
			}
			a, err := address.ParsePort(r, 53)
			if errors.Is(err, address.ErrZone) {
				// Older versions took one. That a new one is refused is the matter of RefuseLinkLocal.
				a, err = withZone(r)
			}
			if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
				return fmt.Errorf("must be addresses of resolvers or ZONE=ADDRESS, got %q", r)
			}
			i, ok := at[zone]
			if !ok {
				i = len(s.Forward)
				at[zone] = i
				s.Forward = append(s.Forward, dnssrv.Forward{Zone: zone})
			}
			s.Forward[i].Resolvers = append(s.Forward[i].Resolvers, a)
		}
		return nil
	}
	for _, f := range strings.Fields(v) {
		zone, list, ok := strings.Cut(f, "=")
		if !ok {
			zone, list = ".", f
		}
		if zone != "." {
			folded, err := hostname.Fold(origin.Fold(zone))
			if err == nil {
				err = hostname.CheckLength(folded)
			}
			if err != nil {
				return fmt.Errorf("must have a valid zone before =: it %w", err)
			}
			if zone = folded; !hostname.IsLabel(zone) && !hostname.IsHost(zone) {
				return fmt.Errorf("must have a zone before =, got %q", f)
			}
		}
		if strings.Trim(list, ",") == "" {
			return fmt.Errorf("must have a resolver after =, got %q", f)
		}
		if err := add(zone, list); err != nil {
			return err
		}
	}
	for _, f := range s.Forward {
		if len(f.Resolvers) > 8 {
			return fmt.Errorf("must have at most 8 resolvers for a zone, got %d", len(f.Resolvers))
		}
	}
	return nil
}

// withZone reads a resolver's address with a zone.
func withZone(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		var addr netip.Addr
		addr, err = netip.ParseAddr(s)
		a = netip.AddrPortFrom(addr, 53)
	}
	return a, err
}
