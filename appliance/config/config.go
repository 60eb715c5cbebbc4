// Package config is a node's own config: it reads, validates and writes casemate.yaml, and creates the logger that
// the config describes.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"casemate/appliance/address"
	"casemate/appliance/hostname"
	"casemate/appliance/service"
	"casemate/appliance/usage"
)

// DefaultFile is the path of the node's config unless --config sets another.
const DefaultFile = "/etc/casemate/casemate.yaml"

// DefaultSocket is the path of the admin socket unless listen.admin, --socket or CASEMATE_SOCKET sets another.
const DefaultSocket = "/run/casemate/admin.sock"

// maxConfig limits a config file's size in bytes; a typical one has a few hundred.
const maxConfig = 1 << 20

// Config is a node's own config. Configuration that is the same on every node is in the tree (Settings). Parse reads
// it from YAML; the zero value of every field has a documented default, which Complete sets.
type Config struct {
	// Node is the node's name, a DNS label. Default: the host's short name.
	Node string
	// Data is the directory that the node owns. Default: /var/lib/casemate.
	Data string
	// Advertise are the addresses that DNS returns for this node and at which peers find it. Default: those of the
	// default routes.
	Advertise []netip.Addr
	// Listen has the addresses on which the node listens.
	Listen Listen
	// Peers are the addresses of other nodes' peer ports, by name, if they have moved: see `casemate member address`,
	// which does the same without a restart. Default: what each node publishes.
	Peers map[string]netip.AddrPort
	// Log configures the log.
	Log Log
}

// Listen holds the sockets' addresses, "address:port" each; port 0 lets the kernel choose. An empty list means the
// advertised addresses with the usual port, or the sockets that systemd passes under that name. DNS never listens on a
// wildcard.
type Listen struct {
	HTTP  []netip.AddrPort // default port 80
	HTTPS []netip.AddrPort // default port 443
	DNS   []netip.AddrPort // UDP and TCP, default port 53
	Peer  []netip.AddrPort // default port 7443; in the file, a list or one address
	Admin string           // path of a unix socket, default DefaultSocket
}

// Log configures the log.
type Log struct {
	// Level is debug, info, warn or error. Default: info. A reload (SIGHUP) applies a change.
	Level slog.Level
	// Format is auto (journal if it is available, else text), text or json. Default: auto.
	Format string
}

// Load reads the config file at path. A missing file is a usage.Error that says how to create one.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Config{}, usage.Errorf("config %s does not exist: casemate init writes it, --config sets another "+
				"path", path)
		}
		if errors.Is(err, fs.ErrPermission) {
			return Config{}, usage.Errorf("config %s may not be read by user %d: chmod o+r %s, and o+x for its "+
				"directories, or "+
				"run the command as root: %w", path, os.Geteuid(), path, fs.ErrPermission)
		}
		return Config{}, usage.Errorf("config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, usage.Errorf("config: %w", err)
	}
	return Parse(path, data)
}

// Parse reads a config from YAML. It is strict: an unknown key, a duplicate key or a value of the wrong type is a
// usage.Error with the file's name and the line. It depends on data only, so defaults that depend on the host are
// left to Complete.
func Parse(name string, data []byte) (Config, error) {
	var c Config
	if len(data) > maxConfig {
		return c, usage.Errorf("config %s is longer than %d bytes", name, maxConfig)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return c, usage.Errorf("config %s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return c, usage.Errorf("config %s: the file must contain one YAML document, got a second one", name)
	}
	p := parser{file: name, lines: map[string]int{}}
	if len(doc.Content) > 0 {
		p.mapping("", doc.Content[0], map[string]func(string, *yaml.Node){
			"node":      func(k string, n *yaml.Node) { c.Node = p.text(k, n) },
			"data":      func(k string, n *yaml.Node) { c.Data = p.text(k, n) },
			"advertise": func(k string, n *yaml.Node) { c.Advertise = each(&p, k, n, p.addr) },
			"listen": func(k string, n *yaml.Node) {
				p.mapping(k, n, map[string]func(string, *yaml.Node){
					"http":  func(k string, n *yaml.Node) { c.Listen.HTTP = each(&p, k, n, p.addrPort) },
					"https": func(k string, n *yaml.Node) { c.Listen.HTTPS = each(&p, k, n, p.addrPort) },
					"dns":   func(k string, n *yaml.Node) { c.Listen.DNS = each(&p, k, n, p.addrPort) },
					"peer":  func(k string, n *yaml.Node) { c.Listen.Peer = p.oneOrMore(k, n) },
					"admin": func(k string, n *yaml.Node) { c.Listen.Admin = p.text(k, n) },
				})
			},
			"peers": func(k string, n *yaml.Node) { c.Peers = p.byNode(k, n) },
			"log": func(k string, n *yaml.Node) {
				p.mapping(k, n, map[string]func(string, *yaml.Node){
					"level":  func(k string, n *yaml.Node) { c.Log.Level = p.level(k, n) },
					"format": func(k string, n *yaml.Node) { c.Log.Format = p.text(k, n) },
				})
			},
		})
	}
	if p.err != nil {
		return Config{}, p.err
	}
	if err := c.Validate(); err != nil {
		// The sentences of Validate begin with the key.
		if key, _, _ := strings.Cut(err.Error(), " "); p.lines[key] > 0 {
			return Config{}, usage.Errorf("config %s line %d: %w", name, p.lines[key], err)
		}
		return Config{}, usage.Errorf("config %s: %w", name, err)
	}
	return c, nil
}

// parser walks the YAML nodes and records the first error.
type parser struct {
	file  string
	lines map[string]int // line of each key's value
	err   error
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	if p.err == nil {
		p.err = usage.Errorf("config %s line %d: %s", p.file, n.Line, fmt.Sprintf(format, args...))
	}
}

func (p *parser) mapping(at string, n *yaml.Node, keys map[string]func(string, *yaml.Node)) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // "listen:" without a value
	}
	what := "the config"
	if at != "" {
		what = at
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n, "%s must be keys and values, got %s", what, describe(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		set, ok := keys[key.Value]
		if !ok || key.Kind != yaml.ScalarNode {
			var known []string
			for k := range keys {
				known = append(known, k)
			}
			slices.Sort(known)
			p.fail(key, "unknown key %q; the keys of %s are %s", key.Value, what, strings.Join(known, ", "))
			return
		}
		if seen[key.Value] {
			p.fail(key, "key %q is duplicated", key.Value)
			return
		}
		seen[key.Value] = true
		full := key.Value
		if at != "" {
			full = at + "." + full
		}
		p.lines[full] = value.Line
		set(full, value)
	}
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias"
	default:
		return strconv.Quote(n.Value)
	}
}

func (p *parser) text(key string, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		p.fail(n, "%s must be text, got %s", key, describe(n))
		return ""
	}
	return n.Value
}

func (p *parser) addr(key string, n *yaml.Node) netip.Addr {
	a, err := address.Parse(n.Value)
	if n.Kind != yaml.ScalarNode {
		p.fail(n, "%s must be an IP address, got %s", key, describe(n))
	} else if err != nil {
		p.fail(n, "%s %v", key, err)
	}
	return a
}

func (p *parser) addrPort(key string, n *yaml.Node) netip.AddrPort {
	a, err := address.ParsePort(n.Value, 0)
	if n.Kind != yaml.ScalarNode {
		p.fail(n, "%s must be an IP address and a port, like 10.0.0.11:443 or [fd00::1]:443, got %s", key, describe(n))
	} else if err != nil {
		p.fail(n, "%s %v", key, err)
	}
	return a
}

// oneOrMore reads a list of addresses, or one address that is no list.
func (p *parser) oneOrMore(key string, n *yaml.Node) []netip.AddrPort {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return []netip.AddrPort{p.addrPort(key, n)}
	}
	return each(p, key, n, p.addrPort)
}

// byNode reads addresses by node name.
func (p *parser) byNode(key string, n *yaml.Node) map[string]netip.AddrPort {
	if n.Kind != yaml.MappingNode || len(n.Content) > 2*64 {
		p.fail(n, "%s must have at most 64 node names, each with an address and a port, got %s", key, describe(n))
		return nil
	}
	peers := map[string]netip.AddrPort{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := p.text(key, n.Content[i])
		if _, twice := peers[name]; twice {
			p.fail(n.Content[i], "%s must have each node once, got %q twice", key, name)
		}
		if err := checkNode(name); err != nil && p.err == nil {
			p.fail(n.Content[i], "%s: %v", key, err)
		}
		addr := p.addrPort(key+"."+name, n.Content[i+1])
		if p.err == nil && (addr.Port() == 0 || addr.Addr().IsUnspecified() || address.NeedsZone(addr.Addr())) {
			p.fail(n.Content[i+1], "%s.%s must be an address that can be reached, got %s", key, name, addr)
		}
		peers[name] = addr
	}
	return peers
}

func (p *parser) level(key string, n *yaml.Node) slog.Level {
	switch n.Value {
	case "debug":
		return slog.LevelDebug
	case "info":
		return slog.LevelInfo
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	p.fail(n, "%s must be debug, info, warn or error, got %s", key, describe(n))
	return 0
}

func each[T any](p *parser, key string, n *yaml.Node, one func(string, *yaml.Node) T) []T {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		p.fail(n, "%s must be a list with at least one entry, got %s", key, describe(n))
		return nil
	}
	if len(n.Content) > 64 {
		p.fail(n, "%s must have at most 64 entries, got %d", key, len(n.Content))
		return nil
	}
	var list []T
	for _, item := range n.Content {
		list = append(list, one(key, item))
	}
	return list
}

// Validate returns the rule that a value breaks, and the value. Fields that are zero are valid: Complete sets them.
func (c *Config) Validate() error {
	if c.Node != "" {
		if err := checkNode(c.Node); err != nil {
			return err
		}
	}
	if c.Data != "" && !filepath.IsAbs(c.Data) {
		return fmt.Errorf("data must be an absolute path, got %q", c.Data)
	}
	if c.Listen.Admin != "" && (!filepath.IsAbs(c.Listen.Admin) || len(c.Listen.Admin) > 107) {
		return fmt.Errorf("listen.admin must be an absolute path of at most 107 bytes, got %q", c.Listen.Admin)
	}
	switch c.Log.Format {
	case "", "auto", "text", "json":
	default:
		return fmt.Errorf("log.format must be auto, text or json, got %q", c.Log.Format)
	}
	for i, a := range c.Advertise {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return fmt.Errorf("advertise must be addresses at which clients reach this node, got %q", a)
		}
		if address.NeedsZone(a) {
			return fmt.Errorf("advertise must not have a link-local address, which other hosts cannot use as it is: "+
				"name a unique local (fd00::/8) or global one, got %s", a)
		}
		if slices.Contains(c.Advertise[:i], a) {
			return fmt.Errorf("advertise must have each address once, got %s twice", a)
		}
	}
	for _, l := range []struct {
		key      string
		list     []netip.AddrPort
		wildcard bool
	}{
		{"listen.http", c.Listen.HTTP, true},
		{"listen.https", c.Listen.HTTPS, true},
		{"listen.dns", c.Listen.DNS, false},
		{"listen.peer", c.Listen.Peer, true},
	} {
		for i, a := range l.list {
			if !a.IsValid() {
				continue
			}
			if !l.wildcard && a.Addr().IsUnspecified() {
				return fmt.Errorf("%s must be addresses of this host, never a wildcard (a resolver of the host may "+
					"use "+
					"127.0.0.53), got %s", l.key, a)
			}
			if address.NeedsZone(a.Addr()) {
				return fmt.Errorf("%s must not have a link-local address, which other hosts cannot use as it is, "+
					"got %s", l.key, a)
			}
			for _, b := range l.list {
				if a.Addr().IsUnspecified() && b != a && b.Port() == a.Port() && a.Port() != 0 &&
					(a.Addr().Is6() || b.Addr().Is4()) {
					return fmt.Errorf("%s must have each address once: %s is the same as %s", l.key, a, b)
				}
			}
			if a.Port() != 0 && slices.Contains(l.list[:i], a) {
				return fmt.Errorf("%s must have each address once, got %s twice", l.key, a)
			}
		}
	}
	return nil
}

// reserved are the labels of the own zone that have another meaning than a node.
var reserved = []string{"registry", "files", "packages", "ns", "www", "localhost"}

func checkNode(name string) error {
	if folded, err := hostname.Fold(name); err == nil && folded != name && hostname.IsLabel(folded) {
		return fmt.Errorf("node must be a DNS label in lower-case ASCII: write %s, got %q", folded, name)
	}
	if !hostname.IsLabel(name) {
		return fmt.Errorf("node must be a DNS label (a-z, 0-9 and -, at most 63, beginning and ending with a letter "+
			"or "+
			"digit), got %q", name)
	}
	if slices.Contains(reserved, name) {
		return fmt.Errorf("node must not be one of %s, which are reserved in the own zone, got %q",
			strings.Join(reserved, ", "), name)
	}
	return nil
}

// Complete sets the defaults that depend on the host: its name and its addresses. The default of a listening address
// is decided when the sockets are bound, because systemd may have passed them.
func (c *Config) Complete() error {
	if c.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return usage.Errorf("node is not set and the host's name cannot be read: %w", err)
		}
		name, _, _ = strings.Cut(strings.ToLower(name), ".")
		if err := checkNode(name); err != nil {
			return usage.Errorf("the host's name is not valid as the node's name, set node (or --name): %w", err)
		}
		c.Node = name
	}
	if c.Data == "" {
		c.Data = service.DataDir
	}
	if len(c.Advertise) == 0 {
		c.Advertise = routeAddrs()
	}
	if len(c.Advertise) == 0 {
		var err error
		if c.Advertise, err = onlyAddrs(hostAddrs()); err != nil {
			return &usage.Error{Err: err}
		}
	}
	if c.Listen.Admin == "" {
		c.Listen.Admin = DefaultSocket
	}
	if c.Log.Format == "" {
		c.Log.Format = "auto"
	}
	if err := c.Validate(); err != nil {
		return &usage.Error{Err: err}
	}
	if len(c.PeerDial(c.PeerListen())) == 0 {
		return usage.Errorf("listen.peer %s has no advertised address that other nodes could dial (advertise is %s): "+
			"name addresses of this host", texts(c.Listen.Peer), texts(c.Advertise))
	}
	return nil
}

// texts joins addresses for a sentence.
func texts[T fmt.Stringer](list []T) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

// routeAddrs returns the local addresses of the default routes. Connecting a UDP socket sends nothing: it only
// consults the routing table. Linux prefers temporary addresses for that, so a lasting one takes their place.
func routeAddrs() []netip.Addr {
	var list []netip.Addr
	all := hostAddrs()
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", to)
		if err != nil {
			continue
		}
		a := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
		conn.Close()
		if !a.IsValid() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
			continue
		}
		if a, ok := lasting(a, all); ok {
			list = append(list, a)
		}
	}
	return list
}

// comment writes text as a comment, in lines of at most 120 columns.
func comment(b *strings.Builder, indent, text string) {
	line := indent + "#"
	for _, word := range strings.Fields(text) {
		if utf8.RuneCountInString(line+" "+word) > 120 {
			b.WriteString(line + "\n")
			line = indent + "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

// YAML writes the config as a file that Parse reads: every key with its description; keys that are not set are
// comments with their default.
func (c *Config) YAML() []byte {
	var b strings.Builder
	comment(&b, "", "The config of this Casemate node. Every key is optional; keys that are not set are commented "+
		"out, with their default or an example.")
	comment(&b, "", "Settings that are the same on every node are changed with: casemate config set")
	comment(&b, "", "To apply a change: systemctl reload casemate, which reports what needs a restart. "+
		"After one of advertise, listen or data: casemate sockets")
	key := func(indent, name, value, def, help string) {
		mark := ""
		if value == "" {
			mark, value = "#", def
		}
		comment(&b, indent, help)
		fmt.Fprintf(&b, "%s%s%s: %s\n", indent, mark, name, value)
	}
	text := func(s string) string {
		if s == "" {
			return ""
		}
		return strconv.Quote(s)
	}
	list := func(n int, item func(int) string) string {
		var l []string
		for i := range n {
			l = append(l, strconv.Quote(item(i)))
		}
		if l == nil {
			return ""
		}
		return "[" + strings.Join(l, ", ") + "]"
	}
	ports := func(l []netip.AddrPort) string { return list(len(l), func(i int) string { return l[i].String() }) }

	b.WriteString("\n")
	key("", "node", text(c.Node), `"n1"`, "The node's name, a DNS label. Default: the host's short name.")
	key("", "data", text(c.Data), strconv.Quote(service.DataDir),
		"The directory that the node owns. A larger disk: mount it there, or name its directory here. "+
			"Never make that place a symbolic link.")
	key("", "advertise", list(len(c.Advertise), func(i int) string { return c.Advertise[i].String() }), `["10.0.0.11"]`,
		"Addresses at which clients and the other nodes reach this one; DNS answers with them. "+
			"Default: those of the default routes.")
	b.WriteString("\n")
	admin := c.Listen.Admin
	if len(c.Listen.HTTP)+len(c.Listen.HTTPS)+len(c.Listen.DNS)+len(c.Listen.Peer) == 0 && admin == "" {
		b.WriteString("#") // a "listen:" without keys is valid YAML, but looks incomplete
	}
	b.WriteString("listen:\n")
	key("  ", "http", ports(c.Listen.HTTP), `["10.0.0.11:80"]`, "Default: the advertised addresses, port 80.")
	key("  ", "https", ports(c.Listen.HTTPS), `["10.0.0.11:443"]`, "Default: the advertised addresses, port 443.")
	key("  ", "dns", ports(c.Listen.DNS), `["10.0.0.11:53"]`,
		"UDP and TCP; never a wildcard. Default: the advertised addresses, port 53.")
	key("  ", "peer", ports(c.Listen.Peer), `["10.0.0.11:7443"]`,
		"For the other nodes. Default: the advertised addresses, port 7443.")
	key("  ", "admin", text(admin), strconv.Quote(DefaultSocket), "The socket that the command line connects to.")
	var peers []string
	for _, name := range slices.Sorted(maps.Keys(c.Peers)) {
		peers = append(peers, fmt.Sprintf("%s: %q", name, c.Peers[name]))
	}
	where := ""
	if len(peers) > 0 {
		where = "{" + strings.Join(peers, ", ") + "}"
	}
	b.WriteString("\n")
	key("", "peers", where, `{n2: "10.0.0.12:7443"}`,
		"Addresses of other nodes' peer ports, if they have moved. "+
			"Default: what each node publishes.")
	b.WriteString("\n")
	level, format := "", c.Log.Format
	if c.Log.Level != 0 {
		level = strings.ToLower(c.Log.Level.String())
	}
	if level == "" && format == "" {
		b.WriteString("#")
	}
	b.WriteString("log:\n")
	key("  ", "level", level, "info", "debug, info, warn or error.")
	key("  ", "format", format, "auto", "auto (journal format if the journal is available, else text), text or json.")
	return []byte(b.String())
}
