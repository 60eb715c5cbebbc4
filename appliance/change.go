package appliance

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"casemate/appliance/origin"
	"casemate/cluster"
	"casemate/cluster/tree"
	"casemate/pki"
)

// under is a batch for a directory of the tree: what pki writes into a batch of ours lands in its own part.
type under struct {
	cluster.Batch
	dir string
}

func (u under) Put(name string, data []byte) { u.Batch.Put(u.dir+"/"+name, data) }
func (u under) Link(name, digest string, holds ...string) {
	u.Batch.Link(u.dir+"/"+name, digest, holds...)
}
func (u under) LinkWeak(name, digest string)       { u.Batch.LinkWeak(u.dir+"/"+name, digest) }
func (u under) Remove(name string)                 { u.Batch.Remove(u.dir + "/" + name) }
func (u under) Expect(name string, version uint64) { u.Batch.Expect(u.dir+"/"+name, version) }

// constrained commits a change of what is enabled: the records, and an intermediate for exactly the names of set, in
// one conditional batch. If the CA or what plan expects of the tree changed meanwhile, plan is asked again.
func (a *Appliance) constrained(ctx context.Context, plan func() (set *origin.Set, edit func(cluster.Batch) error, err error)) error {
	a.change.Lock()
	defer a.change.Unlock()
	for try := 0; ; try++ {
		if err := a.readView(); err != nil {
			return err
		}
		set, edit, err := plan()
		if err != nil {
			return err
		}
		write, err := a.ca.Constrain(set.Names())
		if err != nil {
			return err
		}
		err = a.tree.Update(ctx, func(b cluster.Batch) error {
			if err := edit(b); err != nil {
				return err
			}
			return write(under{b, "pki"})
		})
		if errors.Is(err, fs.ErrExist) && try < 5 {
			continue // the CA or the record changed in between, on another node or by a renewal
		}
		if err != nil {
			return err
		}
		return a.refresh()
	}
}

// version is what a conditional batch expects of a file: 0 for one that is not there.
func (a *Appliance) version(name string) (uint64, error) {
	info, err := a.tree.Stat(name)
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

// addOrigin adds an origin and enables it: record, DNS and certificates at one moment. One that the root does not
// permit is stored, not enabled, and said so.
func (a *Appliance) addOrigin(ctx context.Context, host string, aliases []string) (originInfo, error) {
	host = origin.Fold(host)
	var made origin.Origin
	err := a.constrained(ctx, func() (*origin.Set, func(cluster.Batch) error, error) {
		v := a.now.Load()
		o := origin.Origin{Host: host, Registry: true}
		if old, ok := v.origins.Get(host); ok {
			if old.Host != host {
				return nil, nil, fmt.Errorf("%s is an alias of the origin %s already: %w", host, old.Host, fs.ErrExist)
			}
			o = old
			o.Disabled = ""
		}
		for _, al := range aliases {
			if al = origin.Fold(al); al != host && !slices.Contains(o.Aliases, al) {
				o.Aliases = append(slices.Clone(o.Aliases), al)
			}
		}
		for _, n := range o.Names() {
			if n == v.settings.Domain || isBelow(n, v.settings.Domain) || isBelow(v.settings.Domain, n) {
				return nil, nil, usage("an origin must be apart from the own zone %s, got %s", v.settings.Domain, n)
			}
			if err := origin.Check(n); err != nil {
				return nil, nil, err
			}
			if err := a.ca.Permits(n); errors.Is(err, pki.ErrNotPermitted) {
				o.Disabled = origin.NotPermitted
			} else if err != nil {
				return nil, nil, err
			}
		}
		set, err := v.origins.With(o)
		if err != nil {
			return nil, nil, err
		}
		data, err := origin.Record(o)
		if err != nil {
			return nil, nil, err
		}
		version, err := a.version("origins/" + host)
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
		return originInfo{}, err
	}
	a.log.Info("origin added", "origin", host, "aliases", made.Aliases, "disabled", made.Disabled)
	return infoOf(made), nil
}

func isBelow(name, zone string) bool {
	return len(name) > len(zone)+1 && name[len(name)-len(zone)-1] == '.' && name[len(name)-len(zone):] == zone
}

// removeOrigin takes an origin away: from DNS and certificates at once. What is held under its name stays.
func (a *Appliance) removeOrigin(ctx context.Context, host string) error {
	host = origin.Fold(host)
	err := a.constrained(ctx, func() (*origin.Set, func(cluster.Batch) error, error) {
		v := a.now.Load()
		o, ok := v.origins.Get(host)
		if !ok {
			return nil, nil, fmt.Errorf("there is no origin %s: %w", host, fs.ErrNotExist)
		}
		if o.Host != host {
			return nil, nil, fmt.Errorf("%s is an alias of the origin %s, which can be removed: %w", host, o.Host, fs.ErrInvalid)
		}
		version, err := a.version("origins/" + host)
		if err != nil {
			return nil, nil, err
		}
		return v.origins.Without(host), func(b cluster.Batch) error {
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
		a.log.Info("origin removed", "origin", host)
	}
	return err
}

// setSetting changes one setting, or puts its default back (nil). A setting that changes what is enabled changes the
// intermediate with it.
func (a *Appliance) setSetting(ctx context.Context, key string, value *string) error {
	if key == "pki.issuer" {
		return a.setIssuer(ctx, value)
	}
	if !slices.Contains(settingKeys(), key) {
		return unknownSetting(key)
	}
	if key == "domain" {
		return usage("setting domain is fixed at init, because certificates carry it: make a new cluster for another domain")
	}
	err := a.constrained(ctx, func() (*origin.Set, func(cluster.Batch) error, error) {
		texts, err := readSettings(a.tree.Sub("settings"))
		if err != nil {
			return nil, nil, err
		}
		version, err := a.version("settings/" + key)
		if err != nil {
			return nil, nil, err
		}
		if value == nil {
			delete(texts, key)
		} else {
			texts[key] = *value
		}
		settings, err := ParseSettings(texts)
		if err != nil {
			return nil, nil, err
		}
		if err := settings.refuseSelf(a.ownAddrs(), func(r netip.AddrPort) bool { return slices.Contains(a.Addrs().DNS, r) }); err != nil {
			return nil, nil, err
		}
		set, err := origin.Load(a.tree.Sub("origins"), settings.Origins)
		if err != nil {
			return nil, nil, err
		}
		for _, o := range set.All() {
			for _, n := range o.Names() {
				if err := a.ca.Permits(n); o.Disabled == "" && err != nil {
					return nil, nil, fmt.Errorf("setting %s: origin %s: %w", key, o.Host, err)
				}
			}
		}
		return set, func(b cluster.Batch) error {
			b.Expect("settings/"+key, version)
			if value == nil {
				b.Remove("settings/" + key)
			} else {
				b.Put("settings/"+key, []byte(*value))
			}
			return nil
		}, nil
	})
	if err == nil {
		a.log.Info("setting changed", "key", key)
	}
	return err
}

// setIssuer makes an enterprise's CA certificate the one that signs. value is PEM: its private key, the certificate,
// and those above it. It is no text in the settings directory, because the key must be sealed: the CA keeps it.
func (a *Appliance) setIssuer(ctx context.Context, value *string) error {
	if value == nil {
		return usage("setting pki.issuer has no default to go back to: clients trust the enterprise's root now")
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
		return usage("setting pki.issuer must be PEM with the CA certificate, those above it, and its private key")
	}
	return a.ca.UseEnterprise(ctx, chain, key)
}
