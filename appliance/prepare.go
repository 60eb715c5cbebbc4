package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"casemate/appliance/service"
	"casemate/cluster"
)

// Prepared is what init, join and restore have made beside the data, and what is to be typed next.
type Prepared struct {
	// ConfigFile is the config that was written, "" when there was one.
	ConfigFile string
	// Resumed: the data was whole already, made by a run that was cut short before it had written everything beside it.
	Resumed bool
	// Next starts the daemon.
	Next string
	// Firewall are the lines that open the ports where firewalld runs; none where systemd does not run the daemon.
	Firewall []string
}

// prepare makes what a node needs: its config if there is none, its data by calling make, and, where systemd runs the
// daemon, its sockets' drop-ins. The data is made as the daemon's user. What can be refused is refused before make is
// called; if that fails there is no config and no drop-in either. If we were to crash after make, the next run would
// find the data whole (make says so), and write the rest.
func prepare(cfg Config, configFile string, make func() error) (p Prepared, err error) {
	host, err := serviceHost(configFile)
	if err != nil {
		return p, err
	}
	p.Next = "casemate serve --config " + configFile
	if host != nil {
		if _, err := service.DropIns(cfg.units()); err != nil {
			return p, &UsageError{err}
		}
		if err := host.Prepare(cfg.Data); err != nil {
			return p, err
		}
		if err := host.CanEnter(cfg.Data); err != nil {
			return p, err
		}
	}
	put, err := stageConfig(configFile, cfg)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, put(err == nil)) }()
	if configFile != "" && BlankConfig(configFile) {
		p.ConfigFile = configFile
	}
	as := func(do func() error) error { return do() }
	if host != nil {
		as = host.As
	}
	if err := as(make); errors.Is(err, cluster.ErrInitialised) && (p.ConfigFile != "" || host != nil && !host.Written()) {
		p.Resumed = true
	} else if errors.Is(err, cluster.ErrInUse) {
		return p, running(cfg.Data)
	} else if err != nil {
		return p, err
	}
	if host == nil {
		return p, nil
	}
	if _, err := host.Write(cfg.units()); err != nil {
		return p, err
	}
	p.Next, p.Firewall = service.Start(), service.Firewall(cfg.units(), cfg.peer())
	return p, nil
}

// running is a data directory that a daemon has open: it needs no init, join or restore.
type running string

func (dir running) Error() string {
	return fmt.Sprintf("%s is initialised already, and its daemon is running: casemate status", string(dir))
}

func (running) Is(err error) bool { return err == fs.ErrExist }

// serviceHost is the host's systemd, if it runs the daemon with this config.
func serviceHost(configFile string) (*service.Host, error) {
	if configFile != DefaultConfigFile {
		return nil, nil
	}
	return service.Find()
}

// WriteSockets writes systemd's drop-ins from the config anew and returns those that changed.
func WriteSockets(cfg Config, configFile string) ([]string, error) {
	host, err := serviceHost(configFile)
	if err != nil {
		return nil, err
	}
	if host == nil {
		return nil, usage("systemd does not run casemate with %s on this host, or you are not root: the daemon binds its sockets itself", configFile)
	}
	return host.Write(cfg.units())
}

// units is what systemd's units have to know of the config.
func (cfg *Config) units() service.Config {
	u := service.Config{Data: cfg.Data, HTTP: cfg.Listen.HTTP, HTTPS: cfg.Listen.HTTPS, DNS: cfg.Listen.DNS}
	if len(u.HTTP) == 0 {
		u.HTTP = cfg.at(80)
	}
	if len(u.HTTPS) == 0 {
		u.HTTPS = cfg.at(443)
	}
	if len(u.DNS) == 0 {
		u.DNS = cfg.at(53)
	}
	return u
}

// BlankConfig reports a config that says nothing, like the one of a fresh package, or none at all: it is written for
// the operator.
func BlankConfig(path string) bool {
	if !exists(path) {
		return true
	}
	cfg, err := LoadConfig(path)
	return err == nil && reflect.DeepEqual(cfg, Config{})
}

// stageConfig writes the config beside its place before anything else is done, so that a place that cannot be written
// to is known early; the function that it returns moves it there or takes it away.
func stageConfig(path string, cfg Config) (func(ok bool) error, error) {
	if path == "" || !BlankConfig(path) {
		return func(bool) error { return nil }, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("config %s cannot be written, name another with --config: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".casemate-*.yaml")
	if err != nil {
		return nil, fmt.Errorf("config %s cannot be written, name another with --config: %w", path, err)
	}
	// What is the default anyway stands there as a comment.
	if cfg.Data == service.DataDir {
		cfg.Data = ""
	}
	if cfg.Listen.Admin == DefaultSocket {
		cfg.Listen.Admin = ""
	}
	if cfg.Log.Format == "auto" {
		cfg.Log.Format = ""
	}
	_, err = f.Write(cfg.YAML())
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return func(ok bool) error {
		if !ok {
			return os.Remove(f.Name())
		}
		return os.Rename(f.Name(), path)
	}, nil
}
