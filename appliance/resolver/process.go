package resolver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"casemate/appliance/config"
	"casemate/appliance/sockets"
	"casemate/appliance/usage"
	"casemate/cluster/lograte"
	"casemate/dnssrv/process"
)

// The names of the DNS process's other sockets.
const (
	socketLink  = "link"  // where daemons connect
	SocketPeer  = "peer"  // the connection to the daemon that started it
	storedTable = "table" // the table that its predecessor stored with systemd
)

// bindPause is how long a process waits that has got no sockets to answer at, before the next one is started.
const bindPause = 5 * time.Second

// ProcessOptions are what a DNS process is told.
type ProcessOptions struct {
	// Config is the config file whose log settings apply, if systemd runs the process.
	Config string
	// Sockets are the names of the open files from descriptor 3 on; nil: systemd provides the names.
	Sockets []string
	// Log applies to a process without a Config.
	Log config.Log
	// Version is the program's.
	Version string
	// Stderr receives the log.
	Stderr io.Writer
}

// ErrStopped is what RunProcess returns when this node was removed from its cluster: nobody is to start it again.
var ErrStopped = process.ErrStopped

// RunProcess is the DNS process. It returns nil after a stop that was asked for, and ErrStopped for good.
func RunProcess(ctx context.Context, opt ProcessOptions) error {
	logs := opt.Log
	if opt.Config != "" {
		// Only the log settings are used; errors in the config are reported by the daemon.
		if cfg, err := config.Load(opt.Config); err == nil {
			logs = cfg.Log
		}
	}
	plain, level, flush := config.NewServiceLogger(logs, opt.Stderr)
	defer flush()
	handler, lines := lograte.Handler(plain.Handler())
	defer lines.Close()
	log := slog.New(handler).With("room", "dns")

	var files []*os.File
	systemd := opt.Sockets == nil
	if systemd {
		files = activation.Files(true)
	}
	for i, name := range opt.Sockets {
		files = append(files, os.NewFile(uintptr(3+i), name))
	}
	cfg, err := ProcessConfig(files)
	if err != nil && systemd && len(files) > 0 {
		// A port is taken. Each new start tries to bind it, and that need not be ten times a second.
		log.Error("systemd could not bind the addresses of listen.dns: casemate status names the program that has them")
		select {
		case <-ctx.Done():
		case <-time.After(bindPause):
		}
	}
	if err != nil {
		return err
	}
	cfg.Log, cfg.Level, cfg.Version = log, level, opt.Version
	if systemd {
		cfg.Notify = func(state string) { daemon.SdNotify(false, state) }
		if cfg.Table, err = keptTable(files); err != nil {
			log.Warn("the next process will wait for the daemon's table", "err", err)
		}
		if cfg.Watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
			log.Warn("systemd's watchdog cannot be used", "err", err)
		}
	}
	return process.Serve(ctx, cfg)
}

// ProcessConfig converts open files to the configuration of a DNS process. It closes them.
func ProcessConfig(files []*os.File) (cfg process.Config, err error) {
	defer func() {
		for _, f := range files {
			if f.Name() != storedTable {
				f.Close() // the sockets hold duplicates
			}
		}
	}()
	for _, f := range files {
		switch f.Name() {
		case sockets.DNSUDP:
			c, err := net.FilePacketConn(f)
			if err != nil {
				return cfg, fmt.Errorf("socket %q is not a datagram socket: %w", f.Name(), err)
			}
			u, ok := c.(*net.UDPConn)
			if !ok {
				c.Close()
				return cfg, fmt.Errorf("socket %q is a %T, not a UDP socket", f.Name(), c)
			}
			cfg.UDP = append(cfg.UDP, u)
		case sockets.DNSTCP, socketLink:
			l, err := net.FileListener(f)
			if err != nil {
				return cfg, fmt.Errorf("socket %q is not a stream socket: %w", f.Name(), err)
			}
			if f.Name() == sockets.DNSTCP {
				cfg.TCP = append(cfg.TCP, l)
				continue
			}
			cfg.Link, cfg.Admit = l, process.AdmitOwner(l.Addr().String())
		case SocketPeer:
			if cfg.Peer, err = net.FileConn(f); err != nil {
				return cfg, fmt.Errorf("socket %q: %w", f.Name(), err)
			}
		case storedTable:
		default:
			return cfg, fmt.Errorf("a socket has the name %q: a DNS process accepts dns-udp, dns-tcp and link",
				f.Name())
		}
	}
	if cfg.Peer == nil && cfg.Link == nil || len(cfg.UDP) == 0 || len(cfg.TCP) == 0 {
		return cfg, usage.Errorf("casemate dns is started by casemate serve or by systemd, which give it its sockets")
	}
	return cfg, nil
}

// keptTable returns the table that systemd stores for the next process; a new one if there is none or it is unusable.
func keptTable(files []*os.File) (*process.Table, error) {
	for _, f := range files {
		if f.Name() != storedTable {
			continue
		}
		t, err := process.OpenTable(f)
		if err == nil {
			return t, nil
		}
		return t, f.Truncate(0) // another version wrote it
	}
	f, err := process.NewTableFile()
	if err != nil {
		return nil, err
	}
	if err := process.StoreFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return process.OpenTable(f)
}
