package appliance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"casemate/appliance/missing"
	"casemate/cluster/lograte"
	"casemate/dnssrv"
	"casemate/dnssrv/process"
)

// DefaultDNSLink is where the DNS process that systemd runs waits for the daemon.
const DefaultDNSLink = "/run/casemate-dns/link.sock"

// The names of the DNS process's sockets besides those of DNS itself.
const (
	socketLink  = "link"  // where daemons connect
	socketPeer  = "peer"  // the connection to the daemon that has started it
	storedTable = "table" // what its predecessor left with systemd
)

// openDNS makes the link to the DNS process, which Run connects.
func (a *Appliance) openDNS(opt Options) error {
	a.dnsNeeds = make(chan struct{}, 1)
	cfg := process.LinkConfig{
		Log: a.log.With("room", "dns"), Version: Version,
		Need: func() {
			a.dnsNeedsAll.Store(true)
			select {
			case a.dnsNeeds <- struct{}{}:
			default:
			}
		},
		Applied: func(conflicts []string, err error) {
			if err != nil {
				conflicts = []string{"DNS answers as before, a change cannot be taken up: " + err.Error()}
			}
			a.problems.set("dns", conflicts)
		},
		Miss: func(client netip.Addr, name, qtype string) { a.miss(missing.DNS, name, qtype, client) },
		Noise: func(client netip.Addr, name, qtype string) {
			a.note(missing.Question{Kind: missing.DNS, Name: name, Detail: qtype, Client: client, Expanded: true})
		},
	}
	if a.level != nil {
		cfg.Level = a.level
	}
	if len(a.socks.dnsUDP) == 0 {
		cfg.Dial = process.Connect(opt.DNS)
	} else {
		if err := a.holdDNS(); err != nil {
			return err
		}
		a.dnsChild = &process.Child{Start: a.startDNS}
		cfg.Dial = a.dnsChild.Dial
	}
	a.dns = process.NewLink(cfg)
	return nil
}

// runDNS keeps the DNS process connected, and ends the one that the daemon has started.
func (a *Appliance) runDNS(ctx context.Context) error {
	if a.dnsChild != nil {
		defer a.dnsChild.Close()
	}
	return a.dns.Run(ctx)
}

// dnsReady says why this node's DNS cannot be counted on; nil if it can.
func (a *Appliance) dnsReady() error {
	err := a.dns.Err()
	if err != nil && a.dnsChild == nil {
		err = fmt.Errorf("%w (systemctl status casemate-dns says more)", err)
	}
	return err
}

// dnsProblems are sentences for status.
func (a *Appliance) dnsProblems() (list []string) {
	if err := a.dnsReady(); err != nil {
		list = append(list, err.Error())
	}
	if at := a.dns.Addrs(); a.dnsChild == nil && at != nil {
		want := a.cfg.units().DNS
		if err := sameAddrs(socketDNSUDP, "listen.dns", want, at); err != nil {
			list = append(list, err.Error())
		}
	}
	return list
}

// dnsPatience is how long a start waits for DNS. Without it the rest serves all the same, and status and readyz say what
// is missing.
const dnsPatience = 5 * time.Second

func (a *Appliance) awaitDNS(ctx context.Context) {
	late := time.NewTimer(dnsPatience)
	defer late.Stop()
	select {
	case <-a.dns.Ready():
	case <-ctx.Done():
	case <-a.cluster.Done():
	case <-late.C:
		a.log.Error("the rest serves, DNS does not yet", "error", a.dnsReady())
	}
}

// stopDNS tells the DNS process that this node is none of the cluster's any more.
func (a *Appliance) stopDNS() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	a.dns.StopForGood(ctx)
}

// heldSocket is a socket of DNS that stays open for the next DNS process. It is a bare descriptor: a net.Conn or an
// os.File would be in the runtime's poller, and each question would wake this process as well.
type heldSocket struct {
	fd   int
	name string
}

// holdDNS takes the sockets of DNS out of the poller.
func (a *Appliance) holdDNS() error {
	hold := func(name string, c syscall.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var dup error
		err = raw.Control(func(fd uintptr) {
			var held int
			if held, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); dup == nil {
				a.dnsHeld = append(a.dnsHeld, heldSocket{held, name})
			}
		})
		return errors.Join(err, dup)
	}
	for _, c := range a.socks.dnsUDP {
		if err := hold(socketDNSUDP, c); err != nil {
			return fmt.Errorf("socket %s: %w", c.LocalAddr(), err)
		}
		c.Close()
	}
	for _, l := range a.socks.dnsTCP {
		t, ok := l.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("socket %s is a %T, not a TCP listener", l.Addr(), l)
		}
		if err := hold(socketDNSTCP, t); err != nil {
			return fmt.Errorf("socket %s: %w", l.Addr(), err)
		}
		t.Close()
	}
	return nil
}

// dnsFiles are the sockets of DNS as a process started by this one gets them, with their names.
func (a *Appliance) dnsFiles() (files []*os.File, names []string, err error) {
	for _, h := range a.dnsHeld {
		fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeAll(files)
			return nil, nil, err
		}
		files, names = append(files, os.NewFile(uintptr(fd), h.name)), append(names, h.name)
	}
	return files, names, nil
}

func (a *Appliance) releaseDNS() {
	for _, h := range a.dnsHeld {
		unix.Close(h.fd)
	}
	a.dnsHeld = nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// startDNS starts this program as a DNS process.
func (a *Appliance) startDNS(peer *os.File) (process.Process, error) {
	files, names, err := a.dnsFiles()
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if startDNSHere != nil {
		return startDNSHere(a, peer, files, names)
	}
	exe := "/proc/self/exe" // the file that runs, even if another has its name by now
	if _, err := os.Stat(exe); err != nil {
		if exe, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	level := a.cfg.Log.Level
	if a.level != nil {
		level = a.level.Level()
	}
	cmd := &exec.Cmd{
		Path: exe,
		Args: []string{"casemate", "dns", "--sockets", strings.Join(append([]string{socketPeer}, names...), ","),
			"--log-level", level.String(), "--log-format", cmp.Or(a.cfg.Log.Format, "auto")},
		Dir:        "/",
		Stderr:     os.Stderr,
		ExtraFiles: append([]*os.File{peer}, files...),
	}
	for _, v := range os.Environ() { // nothing of the daemon's, above all not how to notify systemd
		for _, keep := range []string{"GODEBUG=", "GOMAXPROCS=", "GOTRACEBACK=", "GOCOVERDIR=", "JOURNAL_STREAM="} {
			if strings.HasPrefix(v, keep) {
				cmd.Env = append(cmd.Env, v)
			}
		}
	}
	return process.Exec(cmd)
}

// startDNSHere replaces the process by goroutines of this one; tests set it.
var startDNSHere func(a *Appliance, peer *os.File, files []*os.File, names []string) (process.Process, error)

// dnsHolds returns what tells whether a name is answered from the table.
func (a *Appliance) dnsHolds(v *view) func(name string) bool {
	return dnssrv.HeldBy(func(yield func(string) bool) {
		for _, name := range append(v.hosts.names(), "ns."+v.settings.Domain) {
			if !yield(name) {
				return
			}
		}
		entries, _ := a.tree.ReadDir("names")
		for _, e := range entries {
			if !yield(e.Name()) {
				return
			}
		}
	})
}

// DNSOptions are what a DNS process is told.
type DNSOptions struct {
	// Config is the file in which the log is set up, if the process is systemd's.
	Config string
	// Sockets are the names of the open files from 3 on; nil: systemd says what they are.
	Sockets []string
	// Log is for a process without a Config.
	Log Log
	// Stderr is where the log goes.
	Stderr io.Writer
}

// RunDNS is the DNS process. It returns nil after a stop that was asked for.
func RunDNS(ctx context.Context, opt DNSOptions) error {
	logs := opt.Log
	if opt.Config != "" {
		// What else is in there is the daemon's matter, and so is a mistake.
		if cfg, err := LoadConfig(opt.Config); err == nil {
			logs = cfg.Log
		}
	}
	plain, level := NewLogger(logs, opt.Stderr)
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
	cfg, err := dnsConfig(files)
	if err != nil {
		return err
	}
	cfg.Log, cfg.Level, cfg.Version = log, level, Version
	if systemd {
		cfg.Notify = func(state string) { daemon.SdNotify(false, state) }
		if cfg.Table, err = keptTable(files); err != nil {
			log.Warn("the next process will wait for the daemon's table", "error", err)
		}
		if cfg.Watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
			log.Warn("systemd's watchdog cannot be used", "error", err)
		}
	}
	err = process.Serve(ctx, cfg)
	if errors.Is(err, process.ErrStopped) {
		log.Info("stopped for good", "why", err)
		return nil
	}
	return err
}

// dnsConfig makes of open files what a DNS process needs. They are closed.
func dnsConfig(files []*os.File) (cfg process.Config, err error) {
	defer func() {
		for _, f := range files {
			if f.Name() != storedTable {
				f.Close() // the sockets hold duplicates
			}
		}
	}()
	for _, f := range files {
		switch f.Name() {
		case socketDNSUDP:
			c, err := net.FilePacketConn(f)
			if err != nil {
				return cfg, fmt.Errorf("socket %q is no datagram socket: %w", f.Name(), err)
			}
			u, ok := c.(*net.UDPConn)
			if !ok {
				c.Close()
				return cfg, fmt.Errorf("socket %q is a %T, not a UDP socket", f.Name(), c)
			}
			cfg.UDP = append(cfg.UDP, u)
		case socketDNSTCP, socketLink:
			l, err := net.FileListener(f)
			if err != nil {
				return cfg, fmt.Errorf("socket %q is no stream socket: %w", f.Name(), err)
			}
			if f.Name() == socketDNSTCP {
				cfg.TCP = append(cfg.TCP, l)
				continue
			}
			cfg.Link, cfg.Admit = l, process.AdmitOwner(l.Addr().String())
		case socketPeer:
			if cfg.Peer, err = net.FileConn(f); err != nil {
				return cfg, fmt.Errorf("socket %q: %w", f.Name(), err)
			}
		case storedTable:
		default:
			return cfg, fmt.Errorf("a socket is called %q: a DNS process takes dns-udp, dns-tcp and link", f.Name())
		}
	}
	if cfg.Peer == nil && cfg.Link == nil || len(cfg.UDP) == 0 || len(cfg.TCP) == 0 {
		return cfg, usage("casemate dns is started by casemate serve or by systemd, which give it its sockets")
	}
	return cfg, nil
}

// keptTable is the table that systemd keeps for the next process; a new one if it has none, or none that is of use.
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
	if err := process.Keep(f); err != nil {
		f.Close()
		return nil, err
	}
	return process.OpenTable(f)
}
