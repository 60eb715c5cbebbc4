package resolver

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"casemate/appliance/sockets"
	"casemate/dnssrv/process"
)

// heldSocket is a DNS socket that stays open for the next DNS process. It is a bare descriptor: a net.Conn or an
// os.File would be in the runtime's poller, and each query would wake this process as well.
type heldSocket struct {
	fd   int
	name string
}

// hold removes the DNS sockets from the poller.
func (r *Resolver) hold() error {
	hold := func(name string, c syscall.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var dup error
		err = raw.Control(func(fd uintptr) {
			var held int
			if held, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); dup == nil {
				r.held = append(r.held, heldSocket{held, name})
			}
		})
		return errors.Join(err, dup)
	}
	for _, c := range r.cfg.Sockets.DNSUDP {
		if err := hold(sockets.DNSUDP, c); err != nil {
			return fmt.Errorf("socket %s: %w", c.LocalAddr(), err)
		}
		c.Close()
	}
	for _, l := range r.cfg.Sockets.DNSTCP {
		t, ok := l.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("socket %s is a %T, not a TCP listener", l.Addr(), l)
		}
		if err := hold(sockets.DNSTCP, t); err != nil {
			return fmt.Errorf("socket %s: %w", l.Addr(), err)
		}
		t.Close()
	}
	return nil
}

// files returns the DNS sockets as a child process inherits them, with their names.
func (r *Resolver) files() (files []*os.File, names []string, err error) {
	for _, h := range r.held {
		fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeAll(files)
			return nil, nil, err
		}
		files, names = append(files, os.NewFile(uintptr(fd), h.name)), append(names, h.name)
	}
	return files, names, nil
}

func (r *Resolver) release() {
	for _, h := range r.held {
		unix.Close(h.fd)
	}
	r.held = nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// start starts this program as a DNS process.
func (r *Resolver) start(peer *os.File) (process.Process, error) {
	files, names, err := r.files()
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if r.cfg.Start != nil {
		return r.cfg.Start(peer, files, names)
	}
	exe := "/proc/self/exe" // the running file, even if its path was replaced since
	if _, err := os.Stat(exe); err != nil {
		if exe, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	level := r.cfg.LogConfig.Level
	if r.cfg.Level != nil {
		level = r.cfg.Level.Level()
	}
	cmd := &exec.Cmd{
		Path: exe,
		Args: []string{"casemate", "dns", "--sockets", strings.Join(append([]string{SocketPeer}, names...), ","),
			"--log-level", level.String(), "--log-format", cmp.Or(r.cfg.LogConfig.Format, "auto")},
		Dir:        "/",
		Stderr:     os.Stderr,
		ExtraFiles: append([]*os.File{peer}, files...),
	}
	// the environment without the daemon's own variables, above all those for notifying systemd
	for _, v := range os.Environ() {
		for _, keep := range []string{"GODEBUG=", "GOMAXPROCS=", "GOTRACEBACK=", "GOCOVERDIR=", "JOURNAL_STREAM="} {
			if strings.HasPrefix(v, keep) {
				cmd.Env = append(cmd.Env, v)
			}
		}
	}
	return process.Exec(cmd)
}
