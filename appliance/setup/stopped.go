package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"casemate/appliance/config"
	"casemate/appliance/service"
)

// Stopped says why the node of a config does not run, and what to do: it was removed from its cluster, it is none yet,
// its data is not there or cannot be read by the daemon, another program has a port, or systemd was told not to run it.
// nil if no reason can be seen. cfg must be complete; configFile is where it came from.
func Stopped(ctx context.Context, cfg config.Config, configFile string) error {
	if err := stoppedByData(cfg, configFile); err != nil {
		return err
	}
	if taken := TakenPorts(cfg); taken != "" {
		return fmt.Errorf("casemate does not run: %s", taken)
	}
	host, err := serviceHost(configFile)
	if err != nil || host == nil {
		return nil // whoever asks is not root, or systemd does not run it
	}
	states, err := service.States(ctx)
	if err != nil {
		return nil // no systemd runs: what is wrong is said by casemate serve
	}
	return stoppedByUnit(states)
}

// stoppedByData looks at the data directory.
func stoppedByData(cfg config.Config, configFile string) error {
	if err := service.Linked(cfg.Data); err != nil {
		return err
	}
	switch err := Removed(cfg.Data); {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return nil // the daemon's user may
	case err != nil:
		return err
	}
	there, err := Initialised(cfg)
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return nil
	case err != nil:
		return err
	case !there:
		return noNode(cfg, configFile)
	}
	host, err := serviceHost(configFile)
	if err != nil || host == nil {
		return nil
	}
	return host.Owns(filepath.Join(cfg.Data, clusterDir), cfg.Data)
}

// NeverMade returns an error if nobody has run init or join here: the config sets nothing and data has no node. No node
// will appear there by itself, as it does with the disk of a node that has a config. nil if it is otherwise or cannot
// be known.
func NeverMade(configFile, data string) error {
	cfg := config.Config{Data: data}
	if blank, err := config.Blank(configFile); err != nil || !blank {
		return nil
	}
	if there, err := Initialised(cfg); err != nil || there {
		return nil
	}
	return noNode(cfg, configFile)
}

// noNode is a data directory without a node: either there never was one, or the disk with it is not there. init and
// join write into the config whose node it is.
func noNode(cfg config.Config, configFile string) error {
	if blank, err := config.Blank(configFile); err == nil && blank {
		return fmt.Errorf("no casemate is initialised here (data directory %s): casemate init makes the first node "+
			"of a cluster, casemate join every other", cfg.Data)
	}
	return fmt.Errorf("no node is in data directory %s, but %s is that of node %s: if its disk is not mounted, mount "+
		"it, and "+
		"the daemon goes on by itself; if there never was one, casemate init makes the first node of a cluster, "+
		"casemate join "+
		"every other", cfg.Data, configFile, cfg.Node)
}

// TakenPorts says which other programs have ports of the node's, and what to do; "" if none can be seen. cfg must be
// complete.
func TakenPorts(cfg config.Config) string {
	if len(cfg.Advertise) == 0 {
		return ""
	}
	u := cfg.Units()
	var taken []string
	for _, l := range []struct {
		key, network string
		at           []netip.AddrPort
	}{
		{"listen.http", "tcp", u.HTTP},
		{"listen.https", "tcp", u.HTTPS},
		{"listen.dns", "udp", u.DNS},
		{"listen.dns", "tcp", u.DNS},
		{"listen.peer", "tcp", cfg.PeerListen()},
	} {
		for _, at := range l.at {
			h, held, err := service.HolderOf(l.network, at)
			// systemd holds the sockets of the units, and a daemon that comes up has them. Who is not root sees
			// neither.
			unseen := h.PID == 0 && os.Geteuid() != 0
			if err != nil || !held || unseen || h.PID == 1 || h.Process == "casemate" {
				continue
			}
			taken = append(taken, fmt.Sprintf("%s has %s port %s (%s)", h, l.network, at, l.key))
		}
	}
	if len(taken) == 0 {
		return ""
	}
	return strings.Join(taken, ", and ") + ": stop that program, and casemate goes on by itself, or change listen in " +
		"the " +
		"config and run casemate sockets"
}

// stoppedByUnit looks at what systemd says.
func stoppedByUnit(states []service.UnitState) error {
	for _, u := range states {
		if u.Enabled == "masked" {
			return fmt.Errorf("casemate does not run: %s is masked: systemctl unmask %s, then %s", u.Unit, u.Unit,
				service.Start())
		}
	}
	for _, u := range states {
		log := "journalctl -n 20 -u " + u.Unit
		switch {
		case u.Unit == service.Unit && u.Active == "failed" && u.Exit == service.ExitNoNode:
			return fmt.Errorf("no casemate is running here, the last start was before casemate init or join: %s",
				service.Start())
		case u.Active == "failed", u.Sub == "auto-restart":
			return fmt.Errorf("casemate does not run: %s failed (%s): %s says why", u.Unit, u.Result, log)
		case u.Active == "activating" && u.Unit == service.Unit:
			return fmt.Errorf("casemate does not run yet: %s is starting: %s says what it waits for", u.Unit, log)
		case u.Unit == service.Unit && u.Enabled == "disabled" && u.Active != "active":
			return fmt.Errorf("no casemate is running here, and %s is not enabled, so that no boot starts it: %s",
				u.Unit,
				service.Start())
		}
	}
	return nil
}
