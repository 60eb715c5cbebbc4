//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// hostV6 is a host with an IPv6 address; with both it keeps its IPv4 address, too.
func (l *lab) hostV6(name string, both bool) (h *host, v6 string) {
	l.t.Helper()
	h = l.host(name, "")
	v6 = fmt.Sprintf("fd00:77::%x", l.hosts+1)
	must(l.t, "ip", "-n", h.ns, "addr", "add", v6+"/64", "dev", "eth0", "nodad")
	if !both {
		must(l.t, "ip", "-n", h.ns, "addr", "del", h.ip+"/24", "dev", "eth0")
		h.ip = v6
	}
	return h, v6
}

// bastionV6 is a bastion with what its config says besides the admin socket, which is where its data is.
func bastionV6(h *host, config string) *bastion {
	b := &bastion{host: h}
	b.config, b.socket = b.path("casemate.yaml"), b.path("admin.sock")
	b.write("casemate.yaml", fmt.Sprintf("%slisten:\n  admin: %s\n", config, b.socket))
	return b
}

// shows waits until every node that runs has each name of names.
func (tr *trio) shows(names []string) {
	tr.t.Helper()
	until(tr.t, "every node has what was written", func() error {
		for b := range tr.procs {
			list, err := b.try(b.bin(), "--socket", b.socket, "name", "list")
			for _, n := range names {
				if err != nil || !strings.Contains(list, n) {
					return fmt.Errorf("%s: %s is missing: %w\n%s", b.name, n, err, list)
				}
			}
		}
		return nil
	})
}

// writeEverywhere sets a name at each node that runs, and waits until all have it.
func (tr *trio) writeEverywhere(tag string) {
	tr.t.Helper()
	var names []string
	for b := range tr.procs {
		name := fmt.Sprintf("%s-%s.corp.example", tag, b.name)
		until(tr.t, b.name+" writes", func() error {
			out, err := b.try(b.bin(), "--socket", b.socket, "name", "set", name, "AAAA", "[FD00:77:0::99]")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		names = append(names, name)
	}
	tr.shows(names)
}

// TestThreeBastionsV6: three bastions on a network without IPv4.
func TestThreeBastionsV6(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tr := &trio{t: t, lab: l, procs: map[*bastion]*exec.Cmd{}}
	add := func(name string) (b *bastion, flags []string) {
		h, v6 := l.hostV6(name, false)
		b = bastionV6(h, "")
		tr.nodes = append(tr.nodes, b)
		return b, []string{"--config", b.config, "--name", name, "--data", b.path("data"), "--advertise",
			"[" + v6 + "]"}
	}
	n1, flags := add("n1")
	n1.fails(t, "--advertise must be an address without a zone", n1.bin(), "init", "--config", n1.config, "--data",
		n1.path("data"), "--advertise", "fe80::1%eth0")
	n1.fails(t, "advertise must not have a link-local address", n1.bin(), "init", "--config", n1.config, "--data",
		n1.path("data"), "--advertise", "fe80::1")
	n1.must(t, append([]string{n1.bin(), "init"}, flags...)...)
	tr.start(n1)
	for name, at := range map[string]string{"n2": "[" + n1.ip + "]", "n3": n1.ip} {
		b, flags := add(name)
		token := strings.Fields(n1.casemate(t, "token", "create"))[0]
		b.must(t, append(append([]string{b.bin(), "join"}, flags...), "--token", token, at)...)
		tr.start(b)
	}
	tr.whole(3)
	tr.writeEverywhere("begin")
	t.Run("each is at its own address alone", func(t *testing.T) {
		var list []struct {
			Node  string
			Addrs []string
		}
		if err := json.Unmarshal([]byte(n1.casemate(t, "member", "list", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, b := range tr.nodes {
			found := false
			for _, m := range list {
				found = found || m.Node == b.name && fmt.Sprint(m.Addrs) == fmt.Sprintf("[[%s]:7443]", b.ip)
			}
			if !found {
				t.Errorf("%s should be at [%s]:7443 in %v", b.name, b.ip, list)
			}
		}
	})
	client, _ := l.hostV6("client", false)
	client.write("etc/resolv.conf", "nameserver "+n1.ip+"\noptions timeout:2 attempts:2\n")
	client.trust(n1.casemate(t, "ca"))
	t.Run("a client is served by name and by address", func(t *testing.T) {
		if out := client.must(t, "dig", "+short", "@"+n1.ip, "registry.k8s.io", "AAAA"); strings.Count(out, "\n") != 3 {
			t.Errorf("AAAA of registry.k8s.io: %q", out)
		}
		client.must(t, "curl", "-fsS", "-o", "/dev/null", "https://registry.k8s.io/v2/")
		for _, b := range tr.nodes {
			until(t, b.name+" has a certificate for its address", func() error {
				if out, err := client.try("curl", "-fsS", "-o", "/dev/null", "https://["+b.ip+"]/healthz"); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
		}
	})
	t.Run("the leader is killed", func(t *testing.T) {
		leader, _ := tr.roles()
		tr.kill(leader)
		tr.writeEverywhere("killed")
		tr.start(leader)
		tr.whole(3)
		tr.writeEverywhere("back")
	})
}

// TestBastionsOfTwoFamilies: a bastion that has both families, one with IPv6 alone, and a third one with both. Then
// IPv4 between the two of them dies without a word.
func TestBastionsOfTwoFamilies(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tr := &trio{t: t, lab: l, procs: map[*bastion]*exec.Cmd{}}
	for i, name := range []string{"n1", "n2", "n3"} {
		h, v6 := l.hostV6(name, i != 1)
		at := v6
		if i != 1 {
			at = h.ip + ", \"" + v6 + "\""
		}
		b := bastionV6(h, fmt.Sprintf("node: %s\ndata: %s\nadvertise: [%s]\n", name, h.path("data"), at))
		if i == 0 {
			b.must(t, b.bin(), "init", "--config", b.config)
		} else {
			token := strings.Fields(tr.nodes[0].casemate(t, "token", "create"))[0]
			b.must(t, b.bin(), "join", "--config", b.config, "--token", token, "[fd00:77::2]:7443")
		}
		tr.nodes = append(tr.nodes, b)
		tr.start(b)
	}
	tr.whole(3)
	tr.writeEverywhere("begin")
	// What is sent to a wrong hardware address arrives nowhere, and nobody says so.
	for _, way := range [][2]int{{0, 2}, {2, 0}} {
		must(t, "ip", "-n", tr.nodes[way[0]].ns, "neigh", "replace", tr.nodes[way[1]].ip, "lladdr", "02:00:00:00:00:99",
			"dev", "eth0", "nud", "permanent")
	}
	tr.writeEverywhere("without")
	tr.whole(3)
	leader, _ := tr.roles()
	tr.kill(leader)
	tr.writeEverywhere("killed")
	tr.start(leader)
	tr.whole(3)
	tr.writeEverywhere("back")
}

// TestJoinOutsideOfTheRoot: a bastion joins with a public address in another network than the first one's. Init and
// join say what that needs, and the command that join prints does it.
func TestJoinOutsideOfTheRoot(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tr := &trio{t: t, lab: l, procs: map[*bastion]*exec.Cmd{}}
	public := func(h *host, addr string) *host {
		must(t, "ip", "-n", h.ns, "addr", "add", addr+"/32", "dev", "eth0", "nodad")
		h.ip = addr
		return h
	}
	add := func(name, addr string) *bastion {
		h, _ := l.hostV6(name, false)
		b := bastionV6(public(h, addr), fmt.Sprintf("node: %s\ndata: %s\nadvertise: [\"%s\"]\n", name, h.path("data"),
			addr))
		tr.nodes = append(tr.nodes, b)
		return b
	}
	n1, n2 := add("n1", "2001:db8:1::11"), add("n2", "2001:db8:2::12")
	out := n1.must(t, n1.bin(), "init", "--config", n1.config)
	for _, want := range []string{"casemate config set dns.allow private,connected,2001:db8:1::/48",
		"--permit 2001:db8:1::/48", "casemate ca rotate --permit 2001:db8:1::/48"} {
		if !strings.Contains(out, want) {
			t.Errorf("init should say %q:\n%s", want, out)
		}
	}
	tr.start(n1)
	token := strings.Fields(n1.casemate(t, "token", "create"))[0]
	out = n2.must(t, n2.bin(), "join", "--config", n2.config, "--token", token, n1.ip)
	if !strings.Contains(out, "note: the root certificate does not permit 2001:db8:2::12") ||
		!strings.Contains(out, "casemate ca rotate --permit 2001:db8:2::/64") {
		t.Errorf("join should say that the address is not permitted:\n%s", out)
	}
	tr.start(n2)
	tr.whole(2)
	client, _ := l.hostV6("client", false)
	public(client, "2001:db8:1::99")
	client.trust(n1.casemate(t, "ca"))
	trusted := func(b *bastion) error {
		out, err := client.try("curl", "-fsS", "-o", "/dev/null", "https://["+b.ip+"]/healthz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	until(t, "n1 is trusted by its address", func() error { return trusted(n1) })
	if err := trusted(n2); err == nil {
		t.Error("n2 is trusted at an address that the root does not permit")
	}
	until(t, "status of n1 warns", func() error {
		if out := n1.casemate(t, "status"); !strings.Contains(out, "casemate ca rotate --permit 2001:db8:2::/64") {
			return fmt.Errorf("it says\n%s", out)
		}
		return nil
	})
	n1.casemate(t, "ca", "rotate", "--permit", "2001:db8:2::/64")
	client.trust(n1.casemate(t, "ca"))
	for _, b := range tr.nodes {
		until(t, b.name+" is trusted by its address after the rotation", func() error { return trusted(b) })
	}
	if out := n2.casemate(t, "status"); strings.Contains(out, "does not permit") {
		t.Errorf("status of n2 after the rotation:\n%s", out)
	}
}

// TestInitChoosesALastingAddress: the kernel prefers a temporary address (RFC 8981) for the default route, init does
// not.
func TestInitChoosesALastingAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	h, v6 := l.hostV6("n1", false)
	must(t, "ip", "-n", h.ns, "addr", "del", v6+"/64", "dev", "eth0")
	h.must(t, "sh", "-c", "echo 2 > /proc/sys/net/ipv6/conf/eth0/use_tempaddr")
	must(t, "ip", "-n", h.ns, "addr", "add", v6+"/64", "dev", "eth0", "nodad", "mngtmpaddr", "valid_lft", "3600",
		"preferred_lft", "3600")
	must(t, "ip", "-n", h.ns, "-6", "route", "add", "default", "dev", "eth0")
	until(t, "the kernel prefers a temporary address", func() error {
		out := must(t, "ip", "-n", h.ns, "-6", "route", "get", "2001:db8::1")
		if !strings.Contains(out, " src fd00:77:") || strings.Contains(out, " src "+v6+" ") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	b := bastionV6(h, "")
	b.must(t, b.bin(), "init", "--config", b.config, "--name", "n1", "--data", b.path("data"))
	if out := b.must(t, b.bin(), "config", "check", b.config); !strings.Contains(out, v6+"\n") {
		t.Errorf("init should advertise %s:\n%s", v6, out)
	}
}
