// Package settings parses the cluster's settings, which the tree stores as text.
package settings

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"casemate/appliance/address"
	"casemate/appliance/audit/syslog"
	"casemate/appliance/content"
	"casemate/appliance/directory"
	"casemate/appliance/hostname"
	"casemate/appliance/oidc"
	"casemate/appliance/origin"
	"casemate/appliance/usage"
	"casemate/dnssrv"
	"casemate/registry"
)

// Settings are the configuration that is the same on every node. The tree stores them as text, one file per key, and
// only values that differ from the default; Parse parses the text.
type Settings struct {
	// Domain is the own zone. It is fixed at init, because certificates and names contain it.
	Domain string
	// Origins are the origins that exist without a record.
	Origins []origin.Origin
	// TTL of DNS answers from our own data.
	TTL time.Duration
	// Forward are the resolvers for names that are not ours.
	Forward []dnssrv.Forward
	// Allow are the networks whose hosts may send DNS queries, without those of the host's interfaces.
	Allow []netip.Prefix
	// ResponseRate limits the equal DNS responses per second over UDP to one address; 0: no limit.
	ResponseRate int
	// Families are the addresses that DNS answers contain, see dnssrv.Base.
	Families string
	// AllowConnected also allows hosts in the subnets of this host's interfaces.
	AllowConnected bool
	// Anonymous allows reading images without a user.
	Anonymous bool
	// LocalFallback serves a local repository if an origin does not have a reference.
	LocalFallback bool
	// Namesakes defines which repositories may be found by their last path element alone, see registry.Config.
	Namesakes string
	// AliasArch is the architecture of a file's alias that names none; "" for none.
	AliasArch string
	// Redirects of files, see fileserver.CheckRedirect.
	Redirects map[string]string
	// Defaults are responses for URLs with neither a redirect nor a file: the newest Kubernetes according to
	// dl.k8s.io.
	Defaults map[string]string
	// RequireSignature accepts only bundles that a trusted key signed, and ImportKeys are the trusted keys.
	RequireSignature bool
	ImportKeys       []ed25519.PublicKey
	// Approvals is how many people besides the importer have to approve an import, 0 or 1, and ApproveWithin is how
	// long an import waits for it.
	Approvals     int
	ApproveWithin time.Duration
	// ImportOrigins, ImportMaxSize and ImportMinAge are what imports may bring, see content.Policy.
	ImportOrigins []string
	ImportMaxSize int64
	ImportMinAge  time.Duration
	// ScrubInterval is the time in which each node verifies every blob once in the background, 0 for never.
	ScrubInterval time.Duration
	// Audit is how long events of the audit log are kept, 0 for ever, and where they are sent; nil: nowhere.
	Audit struct {
		Retain    time.Duration
		Forward   *syslog.Target
		ForwardCA string // PEM
	}
	// Upstream is what may be fetched from origins, and how.
	Upstream Upstream
	// SessionLifetime is how long a login lasts, and SessionIdle how long without being used, 0: that does not end it.
	SessionLifetime, SessionIdle time.Duration
	// Overlap is the minimum time for which the two roots of a rotation overlap, 0 for none.
	Overlap time.Duration
	// Directory is the LDAP directory, and OIDC the OpenID provider, whose users may log in.
	Directory directory.Settings
	OIDC      oidc.Settings
}

// Upstream are the settings of fetching.
type Upstream struct {
	// On allows fetching: from every origin, or from those in Hosts if there are any.
	On    bool
	Hosts []string
	// Resolvers resolve the names of origins.
	Resolvers []netip.AddrPort
	// CA are roots that are trusted besides the system's, PEM.
	CA string
	// Fresh is how long an answer that may change is not compared with its origin again.
	Fresh time.Duration
}

// PackagesHost returns the bastions' name for packages.
func (s *Settings) PackagesHost() string { return "packages." + s.Domain }

// RevocationURL returns the directory of the revocation lists: plain HTTP, because a client that verifies a
// certificate has no trusted connection yet (RFC 5280, 8).
func (s *Settings) RevocationURL() string { return "http://" + s.Domain + "/crl/" }

// A Setting is one key with its text.
type Setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Default string `json:"default"`
	Help    string `json:"help"`
	Set     bool   `json:"set"` // false: it is the default
}

type def struct {
	key, dflt, help string
	set             func(s *Settings, value string) error
}

const namesakesHelp = "off, local or all: whose repositories may answer by the last element of their name alone; " +
	"all lets another publisher's answer in an origin's name"

// defs are all settings, in the order of the list.
var defs = slices.Concat([]def{
	{"domain", "casemate.internal", "the own zone; fixed at init", func(s *Settings, v string) error {
		folded, err := hostname.Fold(v)
		if err == nil {
			err = hostname.Check(folded)
		}
		s.Domain = folded
		return err
	}},
	{"origins", "default",
		"hosts that are origins without being added one by one; default is the built-in list, none is no host",
		func(s *Settings, v string) error {
			s.Origins = nil
			for _, f := range fields(v) {
				switch f {
				case "none":
				case "default":
					s.Origins = append(s.Origins, origin.Builtin()...)
				default:
					host, err := origin.Typed(f)
					if err == nil {
						err = origin.Check(host)
					}
					if err != nil {
						return err
					}
					s.Origins = append(s.Origins, builtinOr(host))
				}
			}
			seen := map[string]bool{}
			for _, o := range s.Origins {
				for _, n := range o.Names() {
					if seen[n] {
						return fmt.Errorf("must have each host once, got %s twice", n)
					}
					seen[n] = true
				}
			}
			return nil
		}},
	{"dns.ttl", "15s", "how long clients may remember an answer that we make up, a duration from 1s to 1h, like 15s " +
		"or 5m", func(s *Settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < time.Second || d > time.Hour {
			return fmt.Errorf("must be between 1s and 1h, got %q", v)
		}
		s.TTL = d
		return nil
	}},
	{"dns.forward", "",
		"resolvers for names that are not ours: ADDRESS… or ZONE=ADDRESS,ADDRESS…; none: NXDOMAIN at once",
		parseForward},
	{"dns.allow", "private connected",
		"who may ask for names: CIDRs, private (private ranges and loopback), connected (the host's subnets)",
		func(s *Settings, v string) error {
			s.Allow, s.AllowConnected = nil, false
			for _, f := range fields(v) {
				switch f {
				case "private":
					s.Allow = append(s.Allow, privateRanges...)
				case "connected":
					s.AllowConnected = true
				default:
					p, err := address.ParsePrefix(f)
					if err != nil {
						return fmt.Errorf("must be CIDRs, private or connected, got %q", f)
					}
					s.Allow = append(s.Allow, p.Masked())
				}
			}
			if len(s.Allow) == 0 && !s.AllowConnected {
				return errors.New("must allow at least one network, got none")
			}
			return nil
		}},
	{"dns.response_rate", "1000", "equal answers a second that one address gets over UDP; above that it is sent to " +
		"TCP; " +
		"0: no limit", func(s *Settings, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > dnssrv.MaxResponseRate {
			return fmt.Errorf("must be between 0 (no limit) and %d, got %q", dnssrv.MaxResponseRate, v)
		}
		s.ResponseRate = n
		return nil
	}},
	{"dns.families", dnssrv.BothFamilies,
		"both, ipv4 or ipv6: which addresses answers contain; ipv4 takes AAAA out of all answers, where a site's " +
			"IPv6 leads nowhere", func(s *Settings, v string) error {
			s.Families = v
			return oneOf(v, dnssrv.BothFamilies, dnssrv.OnlyIPv4, dnssrv.OnlyIPv6)
		}},
	{"registry.anonymous", "pull", "pull or none: what somebody without a user may do",
		func(s *Settings, v string) error {
			s.Anonymous = v == "pull"
			return oneOf(v, "pull", "none")
		}},
	{"registry.local_fallback", "on",
		"on or off: whether an image pushed without an origin answers where the origin lacks it",
		func(s *Settings, v string) error {
			s.LocalFallback = v == "on"
			return oneOf(v, "on", "off")
		}},
	{"registry.namesakes", "local", namesakesHelp, func(s *Settings, v string) error {
		s.Namesakes = v
		return oneOf(v, registry.NamesakesOff, registry.NamesakesLocal, registry.NamesakesAll)
	}},
	{"files.alias_arch", "",
		"the architecture (amd64, arm64, …) that a file's alias means if it names none",
		func(s *Settings, v string) error {
			s.AliasArch = v
			if v != "" && !hostname.IsLabel(v) {
				return fmt.Errorf("must be an architecture like amd64, or empty, got %q", v)
			}
			return nil
		}},
	{"files.redirects", "",
		"FROM=>TO pairs: a URL (or its beginning with /*) and a URL, a path, or text:…", parseRedirects},
	{"kubernetes.version", "",
		"what kubeadm without a version finds to be the newest Kubernetes, like v1.32.5; empty: it takes its own " +
			"version",
		func(s *Settings, v string) error {
			m := kubernetesVersion.FindStringSubmatch(v)
			if v != "" && m == nil {
				return fmt.Errorf("must be a version like v1.32.5, or empty, got %q", v)
			}
			if s.Defaults = nil; v != "" {
				s.Defaults = map[string]string{}
				for _, label := range []string{"stable", "latest"} {
					for _, series := range []string{"", "-" + m[1], "-" + m[1] + "." + m[2]} {
						s.Defaults["https://dl.k8s.io/release/"+label+series+".txt"] = "text:" + v
					}
				}
			}
			return nil
		}},
	{"import.require_signature", "off",
		"on or off: whether only bundles are imported that a trusted key signed", func(s *Settings, v string) error {
			s.RequireSignature = v == "on"
			return oneOf(v, "on", "off")
		}},
	{"import.keys", "",
		"public keys whose bundles are trusted: PEM, or base64 as casemate bundle keygen prints them",
		func(s *Settings, v string) (err error) {
			s.ImportKeys, err = content.ParseKeys(v)
			return err
		}},
	{ApprovalsKey, "0", "0 or 1: how many people besides the importer have to approve an import before it is visible",
		func(s *Settings, v string) error {
			if s.Approvals = 0; v == "1" {
				s.Approvals = 1
			}
			return oneOf(v, "0", "1")
		}},
	{"import.approve_within", "14d", "how many days, like 14d, an import waits for its approval",
		func(s *Settings, v string) (err error) {
			if s.ApproveWithin, err = parseInterval(v, 90); err == nil && s.ApproveWithin == 0 {
				err = errors.New("must be between 1d and 90d, got off")
			}
			return err
		}},
	{"import.policy.origins", "", "the only hosts whose names an import may have; none: every host",
		func(s *Settings, v string) error {
			s.ImportOrigins = nil
			for _, f := range fields(v) {
				host, err := origin.Typed(f)
				if err == nil {
					err = origin.Check(host)
				}
				if err != nil {
					return err
				}
				s.ImportOrigins = append(s.ImportOrigins, host)
			}
			return nil
		}},
	{"import.policy.max_size", "off", "how large the content of an import may be, like 200GiB; off: no limit",
		func(s *Settings, v string) (err error) {
			s.ImportMaxSize, err = parseSize(v)
			return err
		}},
	{"import.policy.min_age", "off",
		"how many days ago an image that is imported must have been built, like 7d, so that others have seen it; " +
			"off: any",
		func(s *Settings, v string) (err error) {
			s.ImportMinAge, err = parseInterval(v, 365)
			return err
		}},
	{"upstream", "off",
		"off, on, or the origins from which is fetched what they have and this cluster does not",
		func(s *Settings, v string) error {
			s.Upstream.On, s.Upstream.Hosts = v != "off", nil
			if v == "off" || v == "on" {
				return nil
			}
			for _, f := range fields(v) {
				host, err := origin.Typed(f)
				if err == nil {
					err = origin.Check(host)
				}
				if err != nil || host == "on" || host == "off" {
					return fmt.Errorf("must be off, on, or origins, got %q", f)
				}
				s.Upstream.Hosts = append(s.Upstream.Hosts, host)
			}
			if len(s.Upstream.Hosts) == 0 {
				return errors.New("must be off, on, or origins, got nothing")
			}
			return nil
		}},
	{"upstream.resolvers", "",
		"addresses of resolvers that know the origins' real addresses, at most 8; never a bastion",
		func(s *Settings, v string) error {
			s.Upstream.Resolvers = nil
			for _, f := range fields(v) {
				a, err := address.ParsePort(f, 53)
				if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() || address.NeedsZone(a.Addr()) {
					return fmt.Errorf("must be addresses of resolvers, got %q", f)
				}
				s.Upstream.Resolvers = append(s.Upstream.Resolvers, a)
			}
			if len(s.Upstream.Resolvers) > 8 {
				return fmt.Errorf("must have at most 8 resolvers, got %d", len(s.Upstream.Resolvers))
			}
			return nil
		}},
	{"upstream.ca", "",
		"roots that are trusted for origins besides the system's, PEM: a site's proxy may have one",
		func(s *Settings, v string) error {
			s.Upstream.CA = v
			if strings.TrimSpace(v) != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(v)) {
				return errors.New("must be certificates in PEM")
			}
			return nil
		}},
	{"upstream.fresh", "1h", "how long a tag or a file that was fetched is not compared with its origin again, a " +
		"duration from 1m to 720h", func(s *Settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < time.Minute || d > 30*24*time.Hour {
			return fmt.Errorf("must be between 1m and 720h, got %q", v)
		}
		s.Upstream.Fresh = d
		return nil
	}},
	{"scrub.interval", "30d",
		"in how many days, like 30d, each node reads and verifies every blob by itself, slowly; off: casemate scrub " +
			"only",
		func(s *Settings, v string) (err error) {
			s.ScrubInterval, err = parseInterval(v, 365)
			return err
		}},
	{"audit.retain", "off",
		"for how many days, like 400d, events of the audit log are kept; then only their hashes are, which prove the " +
			"others; off: for ever",
		func(s *Settings, v string) (err error) {
			s.Audit.Retain, err = parseInterval(v, 3650)
			return err
		}},
	{"audit.forward", "",
		"syslog receiver that gets every event of the audit log, tls://HOST:PORT or tcp://HOST:PORT",
		func(s *Settings, v string) error {
			if v == "" {
				return nil
			}
			t, err := syslog.ParseTarget(v)
			s.Audit.Forward = &t
			return err
		}},
	{"audit.forward_ca", "",
		"roots that are trusted for the syslog receiver besides the system's and this cluster's, PEM",
		func(s *Settings, v string) error {
			s.Audit.ForwardCA = v
			if strings.TrimSpace(v) != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(v)) {
				return errors.New("must be certificates in PEM")
			}
			return nil
		}},
	{"sessions.lifetime", "12h",
		"how long a login lasts, with a browser or casemate login, a duration from 5m to 12h; then the user logs in " +
			"again",
		func(s *Settings, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil || d < 5*time.Minute || d > 12*time.Hour {
				return fmt.Errorf("must be between 5m and 12h, got %q", v)
			}
			s.SessionLifetime = d
			return nil
		}},
	{"sessions.idle", "off",
		"how long a login lasts that nobody uses, a duration from 1m to 12h, like 15m; values that a page shows live " +
			"do not count as use; off: it lasts as long as one that is used",
		func(s *Settings, v string) error {
			if s.SessionIdle = 0; v == "off" {
				return nil
			}
			d, err := time.ParseDuration(v)
			if err != nil || d < time.Minute || d > 12*time.Hour {
				return fmt.Errorf("must be off, or between 1m and 12h, got %q", v)
			}
			s.SessionIdle = d
			return nil
		}},
	{"pki.overlap", "7d",
		"how many days, like 7d, both roots are handed out at least before ca rotate --finish drops the old one; " +
			"off: no time",
		func(s *Settings, v string) (err error) {
			s.Overlap, err = parseInterval(v, 365)
			return err
		}},
}, directoryDefs)

// ApprovalsKey is the setting that the tree itself applies, see cluster.RequireApproval.
const ApprovalsKey = "import.approvals"

// Parse parses the settings; a key without a text has its default. An unknown key or an invalid value is a
// usage.Error.
func Parse(values map[string]string) (*Settings, error) {
	s := &Settings{}
	known := map[string]bool{}
	for _, d := range defs {
		known[d.key] = true
		v, ok := values[d.key]
		if !ok {
			v = d.dflt
		}
		if len(v) > 4096 {
			return nil, usage.Errorf("setting %s must have at most 4096 bytes, got %d", d.key, len(v))
		}
		if err := d.set(s, v); err != nil {
			if strings.HasPrefix(err.Error(), "must ") || strings.HasPrefix(err.Error(), "has ") {
				return nil, usage.Errorf("setting %s %w", d.key, err)
			}
			return nil, usage.Errorf("setting %s: %w", d.key, err)
		}
	}
	for k := range values {
		if !known[k] {
			return nil, usage.Errorf("there is no setting %q, the settings are %s", k, strings.Join(Keys(), ", "))
		}
	}
	for _, o := range s.Origins {
		for _, n := range o.Names() {
			if hostname.Overlap(n, s.Domain) {
				return nil, usage.Errorf("setting domain must not overlap an origin, got %s and the origin %s",
					s.Domain, n)
			}
		}
	}
	return s, nil
}

func Keys() []string {
	var keys []string
	for _, d := range defs {
		keys = append(keys, d.key)
	}
	return keys
}

// AllowedNets returns the networks that may send DNS queries to this node: those of the setting, and the subnets of
// the host's interfaces if AllowConnected.
func (s *Settings) AllowedNets() []netip.Prefix {
	list := slices.Clone(s.Allow)
	if s.AllowConnected {
		addrs, _ := net.InterfaceAddrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if p, err := netip.ParsePrefix(n.String()); err == nil && p.Bits() > 0 {
					list = append(list, p.Masked())
				}
			}
		}
	}
	return list
}

// Read reads the settings' texts from the settings directory of the tree.
func Read(tree fs.ReadDirFS) (map[string]string, error) {
	values := map[string]string{}
	entries, err := tree.ReadDir(".")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("settings: %w", err)
	}
	for _, e := range entries {
		data, err := fs.ReadFile(tree, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("setting %s: %w", e.Name(), err)
		}
		values[e.Name()] = string(data)
	}
	return values, nil
}

// List returns every setting with its text.
func List(values map[string]string) []Setting {
	var list []Setting
	for _, d := range defs {
		v, ok := values[d.key]
		if !ok {
			v = d.dflt
		}
		list = append(list, Setting{Key: d.key, Value: v, Default: d.dflt, Help: d.help, Set: ok})
	}
	return list
}

// Default returns the text of a setting's default.
func Default(key string) string {
	for _, d := range defs {
		if d.key == key {
			return d.dflt
		}
	}
	return ""
}

// Unknown returns the error for an unknown key: fs.ErrNotExist.
func Unknown(key string) error {
	return fmt.Errorf("there is no setting %q, the settings are %s: %w", key, strings.Join(Keys(), ", "),
		fs.ErrNotExist)
}
