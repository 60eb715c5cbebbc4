package appliance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"casemate/appliance/origin"
	"casemate/cluster"
	"casemate/pki"
)

// A data directory holds
//
//	cluster/       package cluster: the replicated tree and the blobs
//	certs/         this node's leaf certificates and their keys
//	missing.json   this node's missing book
//	removed        only if the node was removed from its cluster
//
// and nothing that is not ours.
const (
	clusterDir  = "cluster"
	certsDir    = "certs"
	missingFile = "missing.json"
)

// The reserve of the disk: 1 GiB, or a twentieth of a small disk.
const (
	reserveMost = 1 << 30
	reservePart = 20
)

// Names of the secrets in the tree, sealed.
const (
	secretToken  = "token"  // signs the registry's tokens
	secretUpload = "upload" // signs the state of upload sessions
)

// InitOptions are what init is given besides the node's config.
type InitOptions struct {
	// Set are settings that differ from their defaults, by key.
	Set map[string]string
	// Permit and Exclude are zones (and CIDRs) that the root certificate allows or forbids besides the public ones.
	Permit, Exclude []string
	// ConfigFile is where the config is written if there is no file; "" writes none.
	ConfigFile string
	// Log gets one line per change of state. nil: nothing is logged.
	Log *slog.Logger
}

// InitResult is what init has to say.
type InitResult struct {
	Prepared
	Domain string
	// Notes are sentences for the operator: origins that are not enabled and why, resolvers that could be asked for
	// other names.
	Notes []string
}

// Init makes the first node of a cluster: its data directory, its settings, secrets and origins, and the CA; and writes
// the node's config if there is none. It starts nothing. cfg must be complete (Config.Complete).
//
// Contradictions are a UsageError and found before anything is written. An Init that was cut short is taken up again by
// the next one; a data directory that is initialised already is fs.ErrExist.
func Init(ctx context.Context, cfg Config, opt InitOptions) (res InitResult, err error) {
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	settings, err := ParseSettings(opt.Set)
	if err != nil {
		return res, err
	}
	res.Domain = settings.Domain
	if err := settings.refuseSelf(cfg.Advertise, isDNSPort(cfg)); err != nil {
		return res, err
	}
	spec := pki.Spec{Domain: settings.Domain, Node: cfg.Node, Public: publicZones(), Addrs: cfg.Advertise, Permit: opt.Permit, Exclude: opt.Exclude, CRLURL: listsURL(settings.Domain)}
	if err := spec.Permits(settings.Domain); err != nil {
		return res, &UsageError{err}
	}
	var disabled []origin.Origin
	for _, o := range settings.Origins {
		for _, n := range o.Names() {
			if err := spec.Permits(n); err != nil {
				o.Disabled = origin.NotPermitted
				disabled = append(disabled, o)
				res.Notes = append(res.Notes, fmt.Sprintf("origin %s is not enabled: %v", o.Host, err))
				break
			}
		}
	}
	if err := checkDataDir(cfg.Data); err != nil {
		return res, err
	}
	res.Prepared, err = prepare(cfg, opt.ConfigFile, func() error { return makeFirst(ctx, cfg, opt, log, settings, spec, disabled) })
	if err != nil {
		return res, err
	}
	if _, given := opt.Set["domain"]; !given {
		if zone := hostZone(); zone != "" {
			res.Notes = append(res.Notes, fmt.Sprintf("the own zone is %s, and stays it; this host is in %s: for a zone of yours begin anew with an empty data directory and --domain casemate.%s", res.Domain, zone, zone))
		}
	}
	if len(settings.Forward) == 0 {
		if found := hostResolvers(cfg.Advertise); len(found) > 0 {
			res.Notes = append(res.Notes, fmt.Sprintf("names that are not ours are answered NXDOMAIN at once; to ask this host's resolvers for them: casemate config set dns.forward %s", strings.Join(found, ",")))
		}
	}
	return res, nil
}

// makeFirst makes the data of the first node.
func makeFirst(ctx context.Context, cfg Config, opt InitOptions, log *slog.Logger, settings *Settings, spec pki.Spec, disabled []origin.Origin) (err error) {
	c, err := openOrBootstrap(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	tree := c.Tree()
	if entries, err := tree.ReadDir("pki"); err == nil && len(entries) > 0 {
		return initialised(cfg.Data)
	}
	set, err := origin.Load(tree.Sub("origins"), settings.Origins) // what an Init that was cut short left behind
	if err != nil {
		return err
	}
	for _, o := range disabled {
		if set, err = set.With(o); err != nil {
			return err
		}
	}
	err = tree.Update(ctx, func(b cluster.Batch) error {
		b.Remove("settings")
		b.Remove("origins")
		for _, k := range settingKeys() {
			if v, ok := opt.Set[k]; ok {
				b.Put("settings/"+k, []byte(v))
			}
		}
		for _, o := range disabled {
			data, err := origin.Record(o)
			if err != nil {
				return err
			}
			b.Put("origins/"+o.Host, data)
		}
		for _, name := range []string{secretToken, secretUpload} {
			key := make([]byte, 32)
			rand.Read(key)
			sealed, err := c.Seal(key)
			if err != nil {
				return err
			}
			b.Put("secrets/"+name, sealed)
		}
		return putNode(b, cfg)
	})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	// Last, and in one batch: with the CA there, the node is initialised.
	if err := pki.Init(ctx, tree.Sub("pki"), c, spec, set.Names()); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// initialised is a data directory that needs no init.
type initialised string

func (dir initialised) Error() string {
	return fmt.Sprintf("%s is initialised already, start it with: casemate serve (or systemctl start casemate)", string(dir))
}

func (initialised) Is(err error) bool { return err == fs.ErrExist || err == cluster.ErrInitialised }

func isDNSPort(cfg Config) func(netip.AddrPort) bool {
	return func(a netip.AddrPort) bool {
		if len(cfg.Listen.DNS) == 0 {
			return a.Port() == 53
		}
		return slices.Contains(cfg.Listen.DNS, a)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// checkDataDir refuses a directory with other things than ours before anything is written.
func checkDataDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data directory %s cannot be used, choose another with data (or --data): %w", dir, err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{clusterDir, certsDir, missingFile, removedFile, "lost+found"}, e.Name()) {
			return fmt.Errorf("data directory %s holds %q, which is not casemate's: choose an empty directory with data (or --data): %w", dir, e.Name(), fs.ErrExist)
		}
	}
	return nil
}

// openOrBootstrap opens the cluster, which it makes if there is none. A directory that says itself it is incomplete is
// made again.
func openOrBootstrap(cfg Config, log *slog.Logger) (*cluster.Cluster, error) {
	cc := clusterConfig(cfg, log)
	if !exists(filepath.Join(cc.Dir, "format")) {
		if err := cluster.Bootstrap(cc); err != nil {
			return nil, err
		}
	}
	return cluster.Open(cc)
}

func clusterConfig(cfg Config, log *slog.Logger) cluster.Config {
	return cluster.Config{Dir: filepath.Join(cfg.Data, clusterDir), Node: cfg.Node, Log: log, Reserve: reserve(cfg.Data), Tallies: tallies}
}

// nodeRecord is what the tree keeps of a node below nodes/.
type nodeRecord struct {
	Addrs []netip.Addr `json:"addrs"`
}

func putNode(b cluster.Batch, cfg Config) error {
	data, err := json.Marshal(nodeRecord{Addrs: cfg.Advertise})
	if err == nil {
		b.Put("nodes/"+cfg.Node, data)
	}
	return err
}

// publicZones are the zones that the root permits: those of pki and every built-in origin, which may lie outside of
// them.
func publicZones() []string {
	zones := pki.PublicZones()
	for _, o := range origin.Builtin() {
		zones = append(zones, o.Names()...)
	}
	return zones
}

// hostZone is the zone that this host's name is in, or "".
func hostZone() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	_, zone, _ := strings.Cut(strings.ToLower(name), ".")
	if !isHost(zone) || zone == "localdomain" {
		return ""
	}
	return zone
}

// hostResolvers are the resolvers of this host, without its own addresses and loopback.
func hostResolvers(own []netip.Addr) []string {
	var found []string
	for _, path := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			a, err := netip.ParseAddr(f[1])
			if err != nil || a.IsLoopback() || a.Zone() != "" || slices.Contains(own, a) || slices.Contains(found, a.String()) {
				continue
			}
			found = append(found, a.String())
		}
		if len(found) > 0 {
			break
		}
	}
	return found
}
