// Package service knows how systemd runs the daemon on this host: as which user, with which sockets. A package cannot
// contain the host's addresses, so this package writes them as drop-ins of the installed units.
//
// It promises: each file is written completely or not at all, the same config gives the same bytes, and an operator's
// files are not changed.
package service

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// User is the daemon's user and group.
const User = "casemate"

// Unit is the daemon's unit; it requires the four socket units, and is the one that an operator starts.
const Unit = "casemate.service"

// ExitNoNode is the exit code of a daemon that has no node to run: the unit is not restarted until someone starts it.
// systemd shows it as NOTCONFIGURED (systemd.exec(5)).
const ExitNoNode = 6

// DataDir is the data directory of the packaged unit.
const DataDir = "/var/lib/casemate"

// units are the directories in which packages and operators install units (systemd.unit(5)).
var units = []string{"etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system",
	"lib/systemd/system"}

// dropInDir is the directory of the operator's drop-ins, relative to the root directory.
const dropInDir = "etc/systemd/system"

// Host is a host on which systemd runs the daemon.
type Host struct {
	root     string // "/", or a test's directory
	uid, gid int
}

// Find returns the host's service, or nil if there is none: the unit is not installed, or the caller is not root and
// runs the daemon as that user.
func Find() (*Host, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if there, err := installed("/"); err != nil || !there {
		return nil, err
	}
	u, err := user.Lookup(User)
	if err != nil {
		return nil, fmt.Errorf("%s is installed, but its user %s does not exist (systemd-sysusers creates it): %w",
			Unit, User, err)
	}
	h := &Host{root: "/"}
	h.uid, err = strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	h.gid = gid
	return h, errors.Join(err, gerr)
}

func installed(root string) (bool, error) {
	for _, dir := range units {
		if _, err := os.Stat(filepath.Join(root, dir, Unit)); err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("whether systemd runs the daemon cannot be seen: %w", err)
		}
	}
	return false, nil
}

// Prepare creates the data directory for the daemon's user. It refuses a directory with another user's files, because
// the path is probably wrong.
func (h *Host) Prepare(data string) error {
	if err := Linked(data); err != nil {
		return err
	}
	if err := mkdirs(data); err != nil {
		return fmt.Errorf("data directory %s: %w", data, err)
	}
	dir, err := os.OpenRoot(data) // the daemon's user may own the files in it already: do not follow links out of it
	if err != nil {
		return fmt.Errorf("data directory %s: %w", data, err)
	}
	defer dir.Close()
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return fmt.Errorf("data directory %s: %w", data, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("data directory %s: %w", data, err)
		}
		if uid, ok := owner(info); ok && uid != h.uid && e.Name() != "lost+found" {
			return fmt.Errorf("data directory %s: %s belongs to user %d, but the daemon runs as %s: chown -R %s: %s",
				data, e.Name(), uid, User, User, data)
		}
	}
	if err := dir.Lchown(".", h.uid, h.gid); err != nil {
		return fmt.Errorf("data directory %s: %w", data, err)
	}
	return nil
}

// Linked says what to do about a data directory of the packages that is a symbolic link; nil if it is none.
func Linked(data string) error {
	to, err := os.Readlink(data)
	if err != nil || data != DataDir {
		return nil // whatever else is wrong with it is said where it is used
	}
	return fmt.Errorf("data directory %s is a symbolic link to %s, and packages, upgrades and systemd need a "+
		"directory of "+
		"its own there: remove the link, and mount the disk at %s, or write data: %s into casemate.yaml and run "+
		"casemate sockets (before there is a node: casemate init --data %s)", data, to, data, to, to)
}

// Owns says what to do about data that belongs to another user than the daemon's, as restored files do.
func (h *Host) Owns(path, data string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", data, err)
	}
	if uid, ok := owner(info); ok && uid != h.uid {
		return fmt.Errorf("data directory %s: %s belongs to user %d, and the daemon runs as %s, which may not read "+
			"it: "+
			"chown -R %s: %s", data, filepath.Base(path), uid, User, User, data)
	}
	return nil
}

// mkdirs makes a directory with its parents, which the daemon's user can pass whatever the umask is; those that are
// there stay as they are.
func mkdirs(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := MakeParents(filepath.Dir(dir)); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o750)
}

// MakeParents makes a directory with its parents, which every user can pass whatever the umask is; those that are there
// stay as they are.
func MakeParents(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := MakeParents(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// CanEnter returns an error if a directory above data is not accessible to the daemon's user.
func (h *Host) CanEnter(data string) error {
	// The target of a link may be hidden by the unit.
	if at, err := filepath.EvalSymlinks(data); err == nil {
		if err := hidden(at); err != nil {
			return err
		}
	}
	return h.As(func() error {
		for dir, rest := "/", strings.TrimPrefix(data, "/"); ; {
			if _, err := os.Stat(dir + "/."); errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("data directory %s: the daemon runs as %s, which may not enter %s: chmod o+x %s, "+
					"or choose another", data, User, dir, dir)
			}
			if rest == "" {
				return nil
			}
			var name string
			name, rest, _ = strings.Cut(rest, "/")
			dir = filepath.Join(dir, name)
		}
	})
}

// CanRead says what to do about a config that the daemon's user may not read; nil where there is none yet.
func (h *Host) CanRead(config string) error {
	return h.As(func() error {
		f, err := os.Open(config)
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("config %s: the daemon runs as %s, which may not read it: chmod o+r %s, and o+x for its "+
				"directories", config, User, config)
		}
		if err == nil {
			f.Close()
		}
		return nil // what else may be wrong is said where it is read
	})
}

// hidden refuses what the daemon does not see as others do (ProtectHome, PrivateTmp, PrivateDevices), or what is gone
// after a boot.
func hidden(data string) error {
	for _, dir := range []string{"/home", "/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"} {
		if data == dir || strings.HasPrefix(data, dir+"/") {
			return fmt.Errorf("data directory %s: %s is hidden from the daemon by its unit, or does not survive a "+
				"reboot: choose another, for example below /srv", data, dir)
		}
	}
	return nil
}

// Config is the part of the config that the units need.
type Config struct {
	Data             string
	HTTP, HTTPS, DNS []netip.AddrPort
}

// Write writes the drop-ins that cfg needs and removes those that it no longer needs. It returns the paths that
// changed; systemd must then reload them (systemctl daemon-reload).
func (h *Host) Write(cfg Config) (changed []string, err error) {
	files, err := DropIns(cfg)
	if err != nil {
		return nil, err
	}
	for _, path := range slices.Sorted(paths()) {
		want, needed := files[path]
		full := filepath.Join(h.root, dropInDir, path)
		got, err := os.ReadFile(full)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return changed, err
		case !needed && err != nil, needed && err == nil && bytes.Equal(got, want):
			continue
		case !needed:
			err = os.Remove(full)
		default:
			err = replace(full, want)
		}
		if err != nil {
			return changed, fmt.Errorf("drop-in for systemd: %w", err)
		}
		changed = append(changed, full)
	}
	return changed, nil
}

// Written reports whether all sockets have their addresses.
func (h *Host) Written() (bool, error) {
	for _, s := range sockets {
		_, err := os.Stat(filepath.Join(h.root, dropInDir, addressesOf(s.name)))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("drop-in for systemd: %w", err)
		}
	}
	return true, nil
}

func replace(path string, data []byte) error {
	if err := MakeParents(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".casemate-*") // systemd reads *.conf only
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// sockets are the socket units, by the name under which they pass a socket.
var sockets = []struct {
	name, listen string
	of           func(*Config) []netip.AddrPort
}{
	{"http", "ListenStream", func(c *Config) []netip.AddrPort { return c.HTTP }},
	{"https", "ListenStream", func(c *Config) []netip.AddrPort { return c.HTTPS }},
	{"dns-udp", "ListenDatagram", func(c *Config) []netip.AddrPort { return c.DNS }},
	{"dns-tcp", "ListenStream", func(c *Config) []netip.AddrPort { return c.DNS }},
}

func addressesOf(name string) string { return "casemate-" + name + ".socket.d/10-addresses.conf" }

const dataDropIn = Unit + ".d/10-data.conf"

// paths yields the paths of all possible drop-ins.
func paths() func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, s := range sockets {
			if !yield(addressesOf(s.name)) {
				return
			}
		}
		yield(dataDropIn)
	}
}

// DropIns returns the drop-ins for cfg, by path below /etc/systemd/system.
func DropIns(cfg Config) (map[string][]byte, error) {
	if strings.ContainsFunc(cfg.Data, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("data directory %q has control characters in its name, which systemd's units do not "+
			"support: choose another", cfg.Data)
	}
	if err := hidden(filepath.Clean(cfg.Data)); err != nil {
		return nil, err
	}
	const head = "# Written by casemate from its config; after a change there: casemate sockets\n"
	files := map[string][]byte{}
	for _, s := range sockets {
		list := s.of(&cfg)
		if len(list) == 0 {
			return nil, fmt.Errorf("there is no address for casemate-%s.socket", s.name)
		}
		var b strings.Builder
		b.WriteString(head + "[Socket]\n" + s.listen + "=\n") // an empty assignment resets the list
		for _, a := range list {
			if a.Port() == 0 {
				return nil, fmt.Errorf("casemate-%s.socket needs a port, got %s", s.name, a)
			}
			fmt.Fprintf(&b, "%s=%s\n", s.listen, a)
		}
		files[addressesOf(s.name)] = []byte(b.String())
	}
	if cfg.Data != DataDir {
		plain := strings.ReplaceAll(cfg.Data, "%", "%%")
		quoted := `"-` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(plain) + `"`
		files[dataDropIn] = fmt.Appendf(nil, "%s[Service]\nReadWritePaths=%s\n", head, quoted)
	}
	return files, nil
}

// Start returns the command that starts the daemon, now and at every boot.
func Start() string { return "systemctl enable --now " + Unit }

// Firewall returns the commands that open the ports for clients and the other nodes if firewalld runs: one service if
// every port is the usual one.
func Firewall(cfg Config, peer []netip.AddrPort) []string {
	usual := true
	var ports []string
	add := func(a netip.AddrPort, usually uint16, protos ...string) {
		usual = usual && a.Port() == usually
		for _, proto := range protos {
			ports = append(ports, fmt.Sprintf("--add-port=%d/%s", a.Port(), proto))
		}
	}
	for _, a := range cfg.HTTP {
		add(a, 80, "tcp")
	}
	for _, a := range cfg.HTTPS {
		add(a, 443, "tcp")
	}
	for _, a := range cfg.DNS {
		add(a, 53, "tcp", "udp")
	}
	for _, a := range peer {
		add(a, 7443, "tcp")
	}
	what := "--add-service=casemate"
	if !usual {
		slices.Sort(ports)
		what = strings.Join(slices.Compact(ports), " ")
	}
	return []string{"firewall-cmd --permanent " + what, "firewall-cmd --reload"}
}
