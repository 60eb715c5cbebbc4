// Package setup creates and replaces the data of a node, with the daemon stopped: init, join, restore and recover. It
// also writes the node's config and systemd's drop-ins.
//
// It promises that contradictions are found before anything is written, and that repeating an interrupted command
// completes it.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"casemate/appliance/address"
	"casemate/appliance/audit/deeds"
	"casemate/appliance/config"
	"casemate/appliance/hostname"
	"casemate/appliance/nodes"
	"casemate/appliance/origin"
	"casemate/appliance/secret"
	"casemate/appliance/service"
	"casemate/appliance/settings"
	"casemate/appliance/usage"
	"casemate/cluster"
	"casemate/pki"
)

// A data directory contains
//
//	cluster/       package cluster: the replicated tree and the blobs
//	certs/         this node's leaf certificates and their keys
//	missing.json   this node's missing book
//	egress.json    this node's egress book
//	clients.json   this node's book of clients
//	pulls.json     when clients of this node last read images and files
//	disks.json     how much space the disks of all nodes had
//	removed        only if the node was removed from its cluster
//
// and no other files.
const (
	clusterDir  = "cluster"
	CertsDir    = "certs"        // this node's leaf certificates and their keys
	MissingFile = "missing.json" // this node's missing book
	EgressFile  = "egress.json"  // this node's egress book
	ClientsFile = "clients.json" // this node's book of clients
	PullsFile   = "pulls.json"   // when clients of this node last read images and files
	DisksFile   = "disks.json"   // how much space the disks of all nodes had
)

// The disk's reserve: 1 GiB, or a twentieth of a small disk.
const (
	reserveMost = 1 << 30
	reservePart = 20
)

// InitOptions are the options of Init besides the node's config.
type InitOptions struct {
	// Set are settings that differ from their defaults, by key.
	Set map[string]string
	// Permit and Exclude are zones (and CIDRs) that the root certificate allows or forbids in addition to the public
	// ones.
	Permit, Exclude []string
	// Lab makes the CA of a rehearsal, which permits most public names. Its domain is pki.LabDomain.
	Lab bool
	// ConfigFile is where the config is written if the file does not exist; "" writes none.
	ConfigFile string
	// Given is what flags say: node, data and advertise are added to a config file that does not set them.
	Given config.Config
	// Clock is what the machine knows of the time; the zero value checks nothing.
	Clock Clock
	// Log gets one line per change of state. nil: nothing is logged.
	Log *slog.Logger
}

// InitResult is the result of Init.
type InitResult struct {
	Prepared
	Domain string
}

// Init creates the first node of a cluster: its data directory, its settings, secrets and origins, and the CA; it
// writes the node's config if there is none. It starts nothing. cfg must be complete (Config.Complete).
//
// Contradictions are a usage.Error and found before anything is written. Repeating an interrupted Init completes it;
// a data directory that is initialised already is fs.ErrExist.
func Init(ctx context.Context, cfg config.Config, opt InitOptions) (res InitResult, err error) {
	log := orDiscard(opt.Log)
	if res.Notes, err = opt.Clock.check(); err != nil {
		return res, err
	}
	set, err := settings.Parse(opt.Set)
	if err != nil {
		return res, err
	}
	for _, refuse := range []func() error{set.RefuseDomain, set.RefuseArch} {
		if err := refuse(); err != nil {
			return res, err
		}
	}
	if opt.Lab != (set.Domain == pki.LabDomain) {
		return res, usage.Errorf("domain %s is that of rehearsals (casemate rehearse), whose CA nobody else may "+
			"trust: choose another one", pki.LabDomain)
	}
	if _, given := opt.Set["domain"]; given {
		opt.Set = maps.Clone(opt.Set)
		opt.Set["domain"] = set.Domain
	}
	if err := set.RefuseFamilies(cfg.Advertise); err != nil {
		return res, err
	}
	res.Domain = set.Domain
	if err := set.RefuseLinkLocal(); err != nil {
		return res, err
	}
	if err := set.RefuseNoResolver(); err != nil {
		return res, err
	}
	if err := set.RefuseSelf(cfg.Advertise, cfg.HasDNSPort); err != nil {
		return res, err
	}
	spec := pki.Spec{
		Domain: set.Domain, Node: cfg.Node, Public: publicZones(), Addrs: cfg.Advertise,
		Permit: opt.Permit, Exclude: opt.Exclude, CRLURL: set.RevocationURL(),
	}
	if opt.Lab {
		spec.Public = pki.LabZones()
	}
	if err := spec.Permits(set.Domain); err != nil {
		return res, &usage.Error{Err: err}
	}
	notes := append(res.Notes, publicNotes(cfg.Advertise, set, spec, opt.Set["dns.allow"])...)
	var disabled []origin.Origin
	for _, o := range set.Origins {
		for _, n := range o.Names() {
			if err := spec.Permits(n); err != nil {
				o.Disabled = origin.NotPermitted
				disabled = append(disabled, o)
				notes = append(notes, fmt.Sprintf("origin %s is not enabled: %v", o.Host, err))
				break
			}
		}
	}
	if err := checkDataDir(cfg.Data); err != nil {
		return res, err
	}
	res.Prepared, err = prepare(cfg, opt.Given, opt.ConfigFile,
		func() error { return bootstrap(ctx, cfg, opt, log, set, spec, disabled) })
	if err != nil {
		return res, err
	}
	if _, given := opt.Set["domain"]; !given {
		if zone := hostZone(); zone != "" {
			notes = append(notes, fmt.Sprintf("the cluster's zone is %s and cannot be changed later; this "+
				"host is in "+
				"%s: to use your own zone, start again with an empty data directory and --domain casemate.%s",
				res.Domain, zone, zone))
		}
	}
	if len(set.Forward) == 0 {
		if found := hostResolvers(cfg.Advertise); len(found) > 0 {
			notes = append(notes, fmt.Sprintf(
				"other names are answered NXDOMAIN at once; to forward them to this "+
					"host's resolvers: casemate config set dns.forward %s", strings.Join(found, ",")))
		}
	}
	res.Notes = notes
	return res, nil
}

// bootstrap creates the data of the first node.
func bootstrap(ctx context.Context, cfg config.Config, opt InitOptions, log *slog.Logger, set *settings.Settings,
	spec pki.Spec, disabled []origin.Origin) (err error) {
	c, err := openOrBootstrap(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	tree := c.Tree()
	if entries, err := tree.ReadDir("pki"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if len(entries) > 0 {
		return initialised(cfg.Data)
	}
	origins, err := origin.Load(tree.Sub("origins"), set.Origins) // the state that an interrupted Init left behind
	if err != nil {
		return err
	}
	for _, o := range disabled {
		if origins, err = origins.With(o); err != nil {
			return err
		}
	}
	err = tree.Update(ctx, func(b cluster.Batch) error {
		b.Remove("settings")
		b.Remove("origins")
		for _, k := range settings.Keys() {
			if v, ok := opt.Set[k]; ok {
				b.Put("settings/"+k, []byte(v))
			}
		}
		cluster.RequireApproval(b, set.Approvals > 0)
		for _, o := range disabled {
			data, err := origin.Record(o)
			if err != nil {
				return err
			}
			b.Put("origins/"+o.Host, data)
		}
		for _, name := range []string{secret.Token, secret.Upload} {
			if err := secret.Put(b, c, name); err != nil {
				return err
			}
		}
		return nodes.Put(b, self(cfg))
	})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	// Last, and in one batch: once the CA exists, the node is initialised.
	if err := pki.Init(ctx, tree.Sub("pki"), c, spec, origins.Names()); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// initialised is the error for a data directory that needs no init.
type initialised string

func (dir initialised) Error() string {
	return fmt.Sprintf("%s is initialised already, start it with: casemate serve (or systemctl start casemate)",
		string(dir))
}

func (initialised) Is(err error) bool { return err == fs.ErrExist || err == cluster.ErrInitialised }

// exists reports whether a file of the data directory is there. An error is no answer: whoever took it for absence
// would make a second cluster beside the data of the first.
func exists(data string, name ...string) (bool, error) {
	_, err := os.Lstat(filepath.Join(append([]string{data}, name...)...))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, unreadable(data, err)
}

// unreadable is the error for a data directory that cannot be looked into.
func unreadable(data string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		who := fmt.Sprintf("user %d", os.Geteuid())
		if u, uerr := user.LookupId(strconv.Itoa(os.Geteuid())); uerr == nil {
			who = u.Username
		}
		return fmt.Errorf("data directory %s: %s may not read it, so nobody knows whether a node is there; if its "+
			"files "+
			"belong to another user than the daemon (a restored copy does): chown -R %s: %s: %w", data, who,
			service.User,
			data, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("data directory %s: a part of it is a file and no directory: choose another with data (or "+
			"--data): %w", data, err)
	case errors.Is(err, syscall.ELOOP):
		return fmt.Errorf("data directory %s: its symbolic links lead in a circle: name the directory itself with "+
			"data (or "+
			"--data): %w", data, err)
	}
	return fmt.Errorf("data directory %s cannot be read, so nobody knows whether a node is there; the disk may be "+
		"damaged "+
		"or gone (dmesg): %w", data, err)
}

// checkDataDir refuses a directory with files that are not casemate's before anything is written.
func checkDataDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unreadable(dir, err)
	}
	own := []string{clusterDir, CertsDir, MissingFile, EgressFile, ClientsFile, PullsFile, DisksFile, removedFile,
		"lost+found"}
	for _, e := range entries {
		if !slices.Contains(own, e.Name()) {
			return fmt.Errorf("data directory %s contains %q, which is not casemate's: choose an empty directory "+
				"with data (or "+
				"--data): %w", dir, e.Name(), fs.ErrExist)
		}
	}
	return nil
}

// openOrBootstrap opens the cluster, and creates it if there is none. A directory that is marked as incomplete is
// created again.
func openOrBootstrap(cfg config.Config, log *slog.Logger) (*cluster.Cluster, error) {
	cc := ClusterConfig(cfg, log)
	if there, err := exists(cfg.Data, clusterDir, "format"); err != nil {
		return nil, err
	} else if !there {
		if err := cluster.Bootstrap(cc); err != nil {
			return nil, err
		}
	}
	return cluster.Open(cc)
}

// ClusterConfig returns the configuration for opening the cluster on a node with this config.
func ClusterConfig(cfg config.Config, log *slog.Logger) cluster.Config {
	return cluster.Config{
		Dir: filepath.Join(cfg.Data, clusterDir), Node: cfg.Node, Log: log, Reserve: reserve(cfg.Data),
		Tallies: tallies, Describe: deeds.Of,
	}
}

// Initialised reports whether the data directory holds a node, or what a join that was cut short has left. An error:
// that cannot be known.
func Initialised(cfg config.Config) (bool, error) {
	whole, err := exists(cfg.Data, clusterDir, "format")
	if err != nil || whole {
		return whole, err
	}
	return exists(cfg.Data, clusterDir, "incomplete")
}

// self returns this node's record in the tree.
func self(cfg config.Config) nodes.Node { return nodes.Node{Name: cfg.Node, Addrs: cfg.Advertise} }

// publicZones returns the zones that the root permits: those of pki, and every built-in origin outside of them.
func publicZones() []string {
	zones := pki.PublicZones()
	for _, o := range origin.Builtin() {
		zones = append(zones, o.Names()...)
	}
	return zones
}

// hostZone returns the zone of this host's name, or "".
func hostZone() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	_, zone, _ := strings.Cut(strings.ToLower(name), ".")
	if !hostname.IsHost(zone) || zone == "localdomain" || hostname.CheckDomain("casemate."+zone) != nil {
		return ""
	}
	return zone
}

// hostResolvers returns the resolvers of this host, without its own addresses and loopback.
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
			a, err := address.Parse(f[1])
			if err != nil || a.IsLoopback() || address.NeedsZone(a) || slices.Contains(own, a) ||
				slices.Contains(found, a.String()) {
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
