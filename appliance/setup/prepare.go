package setup

import (
	"errors"
	"fmt"
	"io/fs"

	"casemate/appliance/config"
	"casemate/appliance/service"
	"casemate/appliance/usage"
	"casemate/cluster"
)

// Prepared is what init, join and restore have written besides the data, and the commands to run next.
type Prepared struct {
	// ConfigFile is the config that was written, "" if it existed.
	ConfigFile string
	// Resumed means that the data was complete already, created by a run that was interrupted before it had written
	// everything else.
	Resumed bool
	// Next starts the daemon.
	Next string
	// Notes are sentences for the operator.
	Notes []string
	// Firewall are the commands that open the ports if firewalld runs; none if systemd does not run the daemon.
	Firewall []string
}

// prepare makes what a node needs: its config if there is none, with given added if there is one that lacks it, its
// data by calling make, and, where systemd runs the daemon, its sockets' drop-ins. The data is made as the daemon's
// user. What can be refused is refused before make is called; if that fails there is no config and no drop-in either.
// If we were to crash after make, the next run would find the data whole (make says so), and write the rest.
func prepare(cfg, given config.Config, configFile string, make func() error) (p Prepared, err error) {
	host, err := serviceHost(configFile)
	if err != nil {
		return p, err
	}
	p.Next = "casemate serve --config " + configFile
	if host != nil {
		if _, err := service.DropIns(cfg.Units()); err != nil {
			return p, &usage.Error{Err: err}
		}
		if err := host.Prepare(cfg.Data); err != nil {
			return p, err
		}
		if err := host.CanEnter(cfg.Data); err != nil {
			return p, err
		}
		if err := host.CanRead(configFile); err != nil {
			return p, err
		}
	}
	put, added, err := config.Stage(configFile, cfg, given)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, put(err == nil)) }()
	if configFile != "" {
		blank, err := config.Blank(configFile)
		if err != nil {
			return p, err
		}
		if blank {
			p.ConfigFile = configFile
		}
	}
	socketsWritten := true
	if host != nil {
		if socketsWritten, err = host.Written(); err != nil {
			return p, err
		}
	}
	if added {
		defer func() {
			if err == nil {
				p.ConfigFile = configFile
			}
		}()
	}
	as := func(do func() error) error { return do() }
	if host != nil {
		as = host.As
	}
	if err := as(make); errors.Is(err, cluster.ErrInitialised) && (p.ConfigFile != "" || !socketsWritten) {
		p.Resumed = true
	} else if errors.Is(err, cluster.ErrInUse) {
		return p, running(cfg.Data)
	} else if err != nil {
		return p, err
	}
	if host == nil {
		return p, nil
	}
	if _, err := host.Write(cfg.Units()); err != nil {
		return p, err
	}
	p.Next, p.Firewall = service.Start(), service.Firewall(cfg.Units(), cfg.PeerListen())
	return p, nil
}

// running is the error for a data directory that a daemon has open: it needs no init, join or restore.
type running string

func (dir running) Error() string {
	return fmt.Sprintf("%s is initialised already, and its daemon is running: casemate status", string(dir))
}

func (running) Is(err error) bool { return err == fs.ErrExist }

// serviceHost returns the host's systemd, if it runs the daemon with this config.
func serviceHost(configFile string) (*service.Host, error) {
	if configFile != config.DefaultFile {
		return nil, nil
	}
	return service.Find()
}

// WriteSockets writes systemd's drop-ins from the config again and returns those that changed.
func WriteSockets(cfg config.Config, configFile string) ([]string, error) {
	host, err := serviceHost(configFile)
	if err != nil {
		return nil, err
	}
	if host == nil {
		return nil, usage.Errorf("systemd does not run casemate with %s on this host, or you are not root: the "+
			"daemon binds "+
			"its sockets itself", configFile)
	}
	return host.Write(cfg.Units())
}
