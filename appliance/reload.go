package appliance

import (
	"maps"
	"slices"

	"casemate/appliance/config"
	"casemate/appliance/usage"
)

// Reread reads the config again and applies what it can; the notes list what needs a restart. An invalid config
// changes nothing.
func (a *Appliance) Reread() (notes []string, err error) {
	if a.opt.Load == nil {
		return nil, usage.Errorf("this daemon was not started from a config file")
	}
	cfg, err := a.opt.Load()
	if err != nil {
		a.log.Error("the config cannot be reloaded, the previous one stays in use", "err", err)
		return nil, err
	}
	return a.Reload(cfg), nil
}

// Reload applies the keys of a config that can be changed while running (log.level) and returns a sentence for each
// key that needs a restart.
func (a *Appliance) Reload(cfg config.Config) (notes []string) {
	a.notifyReloading()
	defer func() { a.notify("READY=1\nSTATUS=serving") }()
	if a.opt.Level != nil && a.opt.Level.Level() != cfg.Log.Level {
		a.opt.Level.Set(cfg.Log.Level)
		a.log.Info("log level changed", "level", cfg.Log.Level)
	}
	for _, k := range []struct {
		key  string
		same bool
	}{
		{"node", cfg.Node == a.cfg.Node},
		{"data", cfg.Data == a.cfg.Data},
		{"advertise", slices.Equal(cfg.Advertise, a.cfg.Advertise)},
		{"listen", slices.Equal(cfg.Listen.HTTP, a.cfg.Listen.HTTP) &&
			slices.Equal(cfg.Listen.HTTPS, a.cfg.Listen.HTTPS) &&
			slices.Equal(cfg.Listen.DNS, a.cfg.Listen.DNS) && slices.Equal(cfg.Listen.Peer, a.cfg.Listen.Peer) &&
			cfg.Listen.Admin == a.cfg.Listen.Admin},
		{"peers", maps.Equal(cfg.Peers, a.cfg.Peers)},
		{"log.format", cfg.Log.Format == a.cfg.Log.Format},
	} {
		if !k.same {
			note := k.key + " has changed in the config and needs a restart"
			notes = append(notes, note)
			a.log.Warn("a changed config key needs a restart", "key", k.key)
		}
	}
	if err := a.dns.Refresh(); err != nil {
		notes = append(notes, err.Error())
	}
	return notes
}
