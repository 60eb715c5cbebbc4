// Package change commits changes of what this cluster serves: settings, origins, and the hosts of an import.
//
// It promises that a change of the enabled names is atomic: the records, and an intermediate of the CA for exactly
// the enabled names, are one conditional batch. If another node changed them in the meantime, the change is planned
// again.
package change

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"casemate/appliance/current"
	"casemate/appliance/hostname"
	"casemate/appliance/origin"
	"casemate/appliance/settings"
	"casemate/appliance/usage"
	"casemate/cluster"
	"casemate/cluster/tree"
	"casemate/pki"
)

// Changes makes one change at a time on this node.
type Changes struct {
	Tree    *cluster.Tree
	CA      *pki.CA
	Current *current.Reader
	// Refresh applies a committed change on this node, before the request is answered.
	Refresh func() error
	// DNSAddrs returns the addresses on which this node's DNS listens.
	DNSAddrs func() []netip.AddrPort
	Log      *slog.Logger

	mu sync.Mutex
}

// subBatch is a batch for a directory of the tree: pki writes to its own part of our batch.
type subBatch struct {
	cluster.Batch
	dir string
}

func (u subBatch) Put(name string, data []byte) { u.Batch.Put(u.dir+"/"+name, data) }
func (u subBatch) Link(name, digest string, holds ...string) {
	u.Batch.Link(u.dir+"/"+name, digest, holds...)
}
func (u subBatch) LinkWeak(name, digest string)       { u.Batch.LinkWeak(u.dir+"/"+name, digest) }
func (u subBatch) Remove(name string)                 { u.Batch.Remove(u.dir + "/" + name) }
func (u subBatch) Expect(name string, version uint64) { u.Batch.Expect(u.dir+"/"+name, version) }

// Commit commits a change of the enabled names: the records, and an intermediate for exactly the names of set, in one
// conditional batch. If the CA, or what plan expects of the tree, changed in the meantime, plan is called again.
func (c *Changes) Commit(ctx context.Context,
	plan func() (set *origin.Set, edit func(cluster.Batch) error, err error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for try := 0; ; try++ {
		if err := c.Current.Read(); err != nil {
			return err
		}
		set, edit, err := plan()
		if err != nil {
			return err
		}
		write, err := c.CA.Constrain(set.Names())
		if err != nil {
			return err
		}
		err = c.Tree.Update(ctx, func(b cluster.Batch) error {
			if err := edit(b); err != nil {
				return err
			}
			return write(subBatch{b, "pki"})
		})
		if errors.Is(err, fs.ErrExist) && try < 5 {
			continue // the CA or the record changed in the meantime, by another node or a renewal
		}
		if err != nil {
			return err
		}
		return c.Refresh()
	}
}

// version returns the version of a file that a conditional batch expects: 0 if it does not exist.
func (c *Changes) version(name string) (uint64, error) {
	info, err := c.Tree.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if info.IsDir() {
		return 0, fmt.Errorf("%s is a directory: %w", name, fs.ErrExist)
	}
	return tree.VersionOf(info), nil
}

// onlyHost refuses an origin that is written with more than its host name. The default ports of https and http are no
// more than that.
func onlyHost(host string) error {
	if in := origin.Pasted(host); in != "" {
		return usage.Errorf("an origin is a host name, without a scheme and a path: write %s, got %q", in, host)
	}
	if port := origin.Port(host); port != "" && port != "443" && port != "80" {
		return usage.Errorf("an origin has no port, the bastions answer at the default ports only: write %s, "+
			"got %q", origin.Fold(host), host)
	}
	return nil
}

// AddOrigin adds an origin and enables it: record, DNS and certificates in one step. If the root does not permit it,
// the error has the command that changes that, and nothing is stored.
func (c *Changes) AddOrigin(ctx context.Context, host string, aliases []string) (origin.Origin, error) {
	for _, n := range append([]string{host}, aliases...) {
		if err := onlyHost(n); err != nil {
			return origin.Origin{}, err
		}
	}
	host, err := origin.Typed(host)
	if err != nil {
		return origin.Origin{}, err
	}
	aliases = slices.Clone(aliases)
	for i, al := range aliases {
		if aliases[i], err = origin.Typed(al); err != nil {
			return origin.Origin{}, err
		}
	}
	var made origin.Origin
	told := tree.Event{Verb: "origin.add", Object: host, New: strings.Join(aliases, " ")}
	err = c.Commit(tree.WithEvent(ctx, told), func() (*origin.Set, func(cluster.Batch) error, error) {
		v := c.Current.State()
		o := origin.Origin{Host: host, Registry: true}
		if old, ok := v.Origins.Get(host); ok {
			if old.Host != host {
				return nil, nil, fmt.Errorf("%s is an alias of the origin %s already: %w", host, old.Host, fs.ErrExist)
			}
			o = old
			o.Disabled = ""
		}
		for _, al := range aliases {
			if al != host && !slices.Contains(o.Aliases, al) {
				o.Aliases = append(slices.Clone(o.Aliases), al)
			}
		}
		for _, n := range o.Names() {
			if hostname.Overlap(n, v.Settings.Domain) {
				return nil, nil, usage.Errorf("an origin must not overlap the own zone %s, got %s",
					v.Settings.Domain, n)
			}
			if err := origin.Check(n); err != nil {
				return nil, nil, err
			}
			if err := c.CA.Permits(n); errors.Is(err, pki.ErrNotPermitted) {
				return nil, nil, unpermitted(fmt.Sprintf("origin %s is not added, %s is %s", host, n,
					c.NotPermitted(o.Names()...)))
			} else if err != nil {
				return nil, nil, err
			}
		}
		set, err := v.Origins.With(o)
		if err != nil {
			return nil, nil, err
		}
		data, err := origin.Record(o)
		if err != nil {
			return nil, nil, err
		}
		version, err := c.version("origins/" + host)
		if err != nil {
			return nil, nil, err
		}
		made = o
		return set, func(b cluster.Batch) error {
			b.Expect("origins/"+host, version)
			b.Put("origins/"+host, data)
			return nil
		}, nil
	})
	if err != nil {
		return origin.Origin{}, err
	}
	c.Log.Info("origin added", "origin", host, "aliases", made.Aliases)
	return made, nil
}

// RemovableOrigin returns the origin that RemoveOrigin would remove, or the error that it would return.
func (c *Changes) RemovableOrigin(host string) (origin.Origin, error) {
	if err := onlyHost(host); err != nil {
		return origin.Origin{}, err
	}
	host, err := origin.Typed(host)
	if err != nil {
		return origin.Origin{}, err
	}
	o, ok := c.Current.State().Origins.Get(host)
	if !ok {
		return o, fmt.Errorf("there is no origin %s: %w", host, fs.ErrNotExist)
	}
	if o.Host != host {
		return o, fmt.Errorf("%s is an alias of the origin %s: remove that instead: %w", host, o.Host, fs.ErrInvalid)
	}
	return o, nil
}

// RemoveOrigin removes an origin from DNS and certificates at once. Its content stays stored.
func (c *Changes) RemoveOrigin(ctx context.Context, host string) error {
	told := tree.Event{Verb: "origin.remove", Object: host}
	err := c.Commit(tree.WithEvent(ctx, told), func() (*origin.Set, func(cluster.Batch) error, error) {
		v := c.Current.State()
		o, err := c.RemovableOrigin(host)
		if err != nil {
			return nil, nil, err
		}
		host := o.Host
		version, err := c.version("origins/" + host)
		if err != nil {
			return nil, nil, err
		}
		return v.Origins.Without(host), func(b cluster.Batch) error {
			b.Expect("origins/"+host, version)
			if !o.Builtin {
				b.Remove("origins/" + host)
				return nil
			}
			data, err := origin.Record(origin.Origin{Host: host, Disabled: origin.Removed})
			if err == nil {
				b.Put("origins/"+host, data)
			}
			return err
		}, nil
	})
	if err == nil {
		c.Log.Info("origin removed", "origin", host)
	}
	return err
}

// SetSetting changes one setting, or resets it to its default (nil). A setting that changes the enabled names changes
// the intermediate too.
func (c *Changes) SetSetting(ctx context.Context, key string, value *string) error {
	if key == "pki.issuer" {
		return c.setIssuer(ctx, value)
	}
	if !slices.Contains(settings.Keys(), key) {
		return settings.Unknown(key)
	}
	if key == "domain" {
		return usage.Errorf("setting domain is fixed at init, because certificates carry it: " +
			"create a new cluster for another domain")
	}
	told := tree.Event{Verb: "setting.reset", Object: key}
	if value != nil {
		told.Verb, told.New = "setting.set", *value
	}
	if old, err := c.Tree.ReadFile("settings/" + key); err == nil {
		told.Old = string(old)
	}
	err := c.Commit(tree.WithEvent(ctx, told), func() (*origin.Set, func(cluster.Batch) error, error) {
		texts, err := settings.Read(c.Tree.Sub("settings"))
		if err != nil {
			return nil, nil, err
		}
		version, err := c.version("settings/" + key)
		if err != nil {
			return nil, nil, err
		}
		if value == nil {
			delete(texts, key)
		} else {
			texts[key] = *value
		}
		set, err := settings.Parse(texts)
		if err != nil {
			return nil, nil, err
		}
		if key == "files.alias_arch" {
			if err := set.RefuseArch(); err != nil {
				return nil, nil, err
			}
		}
		if key == "dns.forward" {
			if err := set.RefuseLinkLocal(); err != nil {
				return nil, nil, err
			}
		}
		if key == "dns.families" {
			if err := c.refuseFamilies(set); err != nil {
				return nil, nil, err
			}
		}
		if err := set.RefuseNoResolver(); err != nil {
			return nil, nil, err
		}
		isDNS := func(r netip.AddrPort) bool { return slices.Contains(c.DNSAddrs(), r) }
		if err := set.RefuseSelf(c.Current.Addrs(), isDNS); err != nil {
			return nil, nil, err
		}
		origins, err := origin.Load(c.Tree.Sub("origins"), set.Origins)
		if err != nil {
			return nil, nil, err
		}
		for _, o := range origins.All() {
			for _, n := range o.Names() {
				if err := c.CA.Permits(n); o.Disabled == "" && err != nil {
					return nil, nil, fmt.Errorf("setting %s: origin %s: %w", key, o.Host, err)
				}
			}
		}
		return origins, func(b cluster.Batch) error {
			b.Expect("settings/"+key, version)
			if value == nil {
				b.Remove("settings/" + key)
			} else {
				b.Put("settings/"+key, []byte(*value))
			}
			if key == settings.ApprovalsKey {
				cluster.RequireApproval(b, set.Approvals > 0)
			}
			return nil
		}, nil
	})
	if err == nil {
		c.Log.Info("setting changed", "key", key)
	}
	return err
}

func (c *Changes) refuseFamilies(set *settings.Settings) error {
	list, err := c.Current.Nodes()
	if err != nil {
		return err
	}
	var addrs []netip.Addr
	for _, n := range list {
		addrs = append(addrs, n.Addrs...)
	}
	return set.RefuseFamilies(addrs)
}

// setIssuer makes an enterprise's CA certificate the signing one. value is PEM: its private key, the certificate, and
// those above it. It is not stored in the settings directory, because the key must be sealed: the CA stores it.
func (c *Changes) setIssuer(ctx context.Context, value *string) error {
	if value == nil {
		return usage.Errorf("setting pki.issuer cannot be reset: clients trust the enterprise's root now")
	}
	var chain, key []byte
	for rest := []byte(*value); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			chain = append(chain, pem.EncodeToMemory(block)...)
		} else {
			key = append(key, pem.EncodeToMemory(block)...)
		}
	}
	if chain == nil || key == nil {
		return usage.Errorf("setting pki.issuer must be PEM with the CA certificate, those above it, and its private " +
			"key")
	}
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "setting.set", Object: "pki.issuer"})
	return c.CA.UseEnterprise(ctx, chain, key)
}
