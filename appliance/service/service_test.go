package service

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func at(list ...string) (l []netip.AddrPort) {
	for _, s := range list {
		l = append(l, netip.MustParseAddrPort(s))
	}
	return l
}

var usual = Config{Data: DataDir, HTTP: at("10.0.0.11:80"), HTTPS: at("10.0.0.11:443", "[fd00::11]:443"),
	DNS: at("10.0.0.11:53")}

func TestDropInsSayTheAddressesAndNothingElse(t *testing.T) {
	files, err := DropIns(usual)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"casemate-http.socket.d/10-addresses.conf":    "[Socket]\nListenStream=\nListenStream=10.0.0.11:80\n",
		"casemate-https.socket.d/10-addresses.conf":   "[Socket]\nListenStream=\nListenStream=10.0.0.11:443\nListenStream=[fd00::11]:443\n",
		"casemate-dns-udp.socket.d/10-addresses.conf": "[Socket]\nListenDatagram=\nListenDatagram=10.0.0.11:53\n",
		"casemate-dns-tcp.socket.d/10-addresses.conf": "[Socket]\nListenStream=\nListenStream=10.0.0.11:53\n",
	} {
		head, got, _ := strings.Cut(string(files[path]), "\n")
		if !strings.HasPrefix(head, "# Written by casemate") || got != want {
			t.Errorf("%s:\n%s", path, files[path])
		}
		delete(files, path)
	}
	if len(files) > 0 {
		t.Errorf("there are others: %q", slices.Collect(maps.Keys(files)))
	}
}

func TestDataElsewhere(t *testing.T) {
	cfg := usual
	cfg.Data = `/srv/100% "big"`
	files, err := DropIns(cfg)
	want := "\n[Service]\nReadWritePaths=\"-/srv/100%% \\\"big\\\"\"\n"
	if got := string(files["casemate.service.d/10-data.conf"]); err != nil || !strings.HasSuffix(got, want) {
		t.Errorf("%v\n%s", err, got)
	}
	cfg.Data = "/srv/a\n[Service]\nUser=root"
	if _, err := DropIns(cfg); err == nil || !strings.Contains(err.Error(), "control characters") {
		t.Errorf("a path with a line of its own: %v", err)
	}
}

// The daemon cannot see these directories.
func TestDataWhereTheDaemonCannotSeeIt(t *testing.T) {
	for _, data := range []string{"/home/ops/casemate", "/root", "/tmp/x", "/var/tmp/x", "/srv/../home/x",
		"/run/casemate/data"} {
		cfg := usual
		cfg.Data = data
		if _, err := DropIns(cfg); err == nil || !strings.Contains(err.Error(),
			"is hidden from the daemon by its unit") {
			t.Errorf("%s: %v", data, err)
		}
	}
	cfg := usual
	cfg.Data = "/homes/casemate"
	if _, err := DropIns(cfg); err != nil {
		t.Error(err)
	}
}

// Root's umask may be 077, and the daemon is another user.
func TestPrepareMakesAWayForTheUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := &Host{uid: 65534, gid: 65534}
	dir, err := os.MkdirTemp("/var/lib", "casemate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "deep", "er", "data")
	old := syscall.Umask(0o077)
	err = h.Prepare(data)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CanEnter(data); err == nil || !strings.Contains(err.Error(), "may not enter "+dir+":") {
		t.Errorf("a directory of root's alone: %v", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := h.CanEnter(data); err != nil {
		t.Error(err)
	}
}

func TestWhatSocketsCannotBe(t *testing.T) {
	cfg := usual
	cfg.HTTP = at("10.0.0.11:0")
	if _, err := DropIns(cfg); err == nil || !strings.Contains(err.Error(), "casemate-http.socket needs a port") {
		t.Error(err)
	}
	cfg.HTTP = nil
	if _, err := DropIns(cfg); err == nil || !strings.Contains(err.Error(), "no address for casemate-http.socket") {
		t.Error(err)
	}
}

func TestWriteChangesWhatHasChanged(t *testing.T) {
	h := &Host{root: t.TempDir()}
	operators := filepath.Join(h.root, "etc/systemd/system/casemate.service.d/override.conf")
	if err := os.MkdirAll(filepath.Dir(operators), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(operators, []byte("[Service]\nMemoryMax=1G\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	write := func(cfg Config, want ...string) {
		t.Helper()
		changed, err := h.Write(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := range changed {
			changed[i], _ = filepath.Rel(filepath.Join(h.root, "etc/systemd/system"), changed[i])
		}
		if slices.Sort(want); !slices.Equal(changed, want) {
			t.Errorf("changed %q, want %q", changed, want)
		}
	}
	http, data := "casemate-http.socket.d/10-addresses.conf", "casemate.service.d/10-data.conf"
	write(usual, http, "casemate-https.socket.d/10-addresses.conf", "casemate-dns-udp.socket.d/10-addresses.conf",
		"casemate-dns-tcp.socket.d/10-addresses.conf")
	write(usual)
	moved := usual
	moved.Data, moved.HTTP = "/srv/casemate", at("10.0.0.12:80")
	write(moved, http, data)
	write(usual, http, data) // the drop-in for the data is gone
	if _, err := os.Stat(filepath.Join(h.root, "etc/systemd/system", data)); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", data, err)
	}
	if text, err := os.ReadFile(operators); err != nil || string(text) != "[Service]\nMemoryMax=1G\n" {
		t.Errorf("the operator's own drop-in: %q, %v", text, err)
	}
	left, err := filepath.Glob(filepath.Join(h.root, "etc/systemd/system/*/.casemate-*"))
	if len(left) > 0 || err != nil {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestPrepareRefusesOthersFiles(t *testing.T) {
	h := &Host{uid: os.Getuid(), gid: os.Getgid()}
	data := filepath.Join(t.TempDir(), "srv", "data")
	if err := h.Prepare(data); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(data); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(data, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Prepare(data); err != nil {
		t.Errorf("a second time: %v", err)
	}
	other := &Host{uid: os.Getuid() + 1, gid: os.Getgid()}
	if err := other.Prepare(data); err == nil || !strings.Contains(err.Error(), "mine belongs to user") ||
		!strings.Contains(err.Error(), "chown -R casemate: ") {
		t.Errorf("got %v", err)
	}
}

func TestFirewallNamesTheServiceOrThePorts(t *testing.T) {
	peer := at("10.0.0.11:7443", "[fd00::11]:7443")
	if got := Firewall(usual, peer); got[0] != "firewall-cmd --permanent --add-service=casemate" ||
		got[1] != "firewall-cmd --reload" {
		t.Errorf("%q", got)
	}
	cfg := usual
	cfg.HTTP = at("10.0.0.11:8080")
	want := "firewall-cmd --permanent --add-port=443/tcp --add-port=53/tcp --add-port=53/udp --add-port=7443/tcp " +
		"--add-port=8080/tcp"
	if got := Firewall(cfg, peer); got[0] != want {
		t.Errorf("%q", got[0])
	}
}

// TestAs becomes another user and comes back; only root can.
func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := &Host{uid: 65534, gid: 65534}
	file := filepath.Join(dir, "file")
	if err := h.As(func() error {
		if _, err := os.ReadFile(secret); !os.IsPermission(err) {
			t.Errorf("it reads what is root's: %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the test's directory is root's alone
		t.Fatal(err)
	}
	err := h.As(func() error { return os.WriteFile(file, nil, 0o600) })
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if uid, _ := owner(info); uid != 65534 {
		t.Errorf("the file is user %d's", uid)
	}
	if os.Geteuid() != 0 {
		t.Error("it did not come back")
	}
	if _, err := os.ReadFile(secret); err != nil {
		t.Error(err)
	}
}
