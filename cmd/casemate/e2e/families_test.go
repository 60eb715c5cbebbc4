//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"casemate/appliance/doctor"
)

// six gives the host an IPv6 address beside its other one.
func (h *host) six(t *testing.T) string {
	t.Helper()
	ip := "fd77::" + h.ip[strings.LastIndexByte(h.ip, '.')+1:]
	must(t, "ip", "-n", h.ns, "addr", "add", ip+"/64", "dev", "eth0", "nodad")
	return ip
}

// dualBastion is newBastion with an address of each family.
func dualBastion(t *testing.T, l *lab, name string) (b *bastion, six string) {
	t.Helper()
	b = &bastion{host: l.host(name, "")}
	six = b.six(t)
	b.config, b.socket = b.path("casemate.yaml"), b.path("admin.sock")
	b.write("casemate.yaml", fmt.Sprintf("node: %s\ndata: %s\nadvertise: [%s, \"%s\"]\nlisten:\n  admin: %s\n", name,
		b.path("data"), b.ip, six, b.socket))
	b.must(t, b.bin(), "init", "--config", b.config)
	return b, six
}

// nameservers are those of the node's resolv.conf.
func (h *host) nameservers(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(h.path("etc/resolv.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^nameserver (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		list = append(list, m[1])
	}
	return strings.Join(list, " ")
}

// familyTroubles are the troubles about a family or an unreachable address, in order.
func familyTroubles(r *doctor.Report) (list []string) {
	for _, c := range r.Checks {
		for _, tr := range c.Troubles {
			switch tr.ID {
			case "family-lost", "no-family", "resolver-family", "unreachable", "refused", "lookup-timeout":
				list = append(list, tr.ID)
			}
		}
	}
	return list
}

// TestEnrollFamilies: the line of a bastion with addresses of both families enrols nodes with IPv4 only, with IPv6
// only, with both, and with both where IPv6 is lost on the way; a node whose new resolver does not answer has its old
// one back.
func TestEnrollFamilies(t *testing.T) {
	l := newLab(t)
	b, six := dualBastion(t, l, "n1")
	b.serve(t)
	line := b.line(t)
	works := func(t *testing.T, n *host, nameservers string) {
		t.Helper()
		if got := n.nameservers(t); got != nameservers {
			t.Errorf("the node asks %q, want %q", got, nameservers)
		}
		if out := n.must(t, "curl", "-fsS", "-o", "/dev/null", "-w", "%{http_code}",
			"https://registry.k8s.io/v2/"); out != "200" {
			t.Errorf("https://registry.k8s.io/v2/: %s", out)
		}
		if out := n.must(t, "sh", "-c", line); !strings.Contains(out, "nothing to do") {
			t.Errorf("the second run said:\n%s", out)
		}
	}
	for _, c := range []struct {
		name        string
		four, six   bool
		lost        bool
		nameservers string
		troubles    string
	}{
		{name: "four", four: true, nameservers: b.ip},
		{name: "six", six: true, nameservers: six},
		{name: "dual", four: true, six: true, nameservers: b.ip + " " + six},
		{name: "lost", four: true, six: true, lost: true, nameservers: b.ip + " " + six, troubles: "family-lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := l.fresh(t, c.name)
			if c.six {
				from := n.six(t)
				if c.lost {
					hole := []string{"INPUT", "-s", from, "-j", "DROP"}
					b.must(t, append([]string{"ip6tables", "-A"}, hole...)...)
					defer b.must(t, append([]string{"ip6tables", "-D"}, hole...)...)
				}
			}
			if !c.four {
				must(t, "ip", "-n", n.ns, "-4", "addr", "flush", "dev", "eth0")
			}
			out := n.must(t, "sh", "-c", line)
			if left := strings.Contains(out, "it leaves out addresses to which this node has no route: "); left ==
				(c.six && c.four) {
				t.Errorf("it says that it leaves out addresses: %v\n%s", left, out)
			}
			if silent := strings.Contains(out, "no bastion answers this node over IPv6"); silent != c.lost {
				t.Errorf("it says that IPv6 is lost: %v\n%s", silent, out)
			}
			works(t, n, c.nameservers)
			r := n.doctor(t, 0)
			if got := strings.Join(familyTroubles(r), " "); got != c.troubles {
				t.Errorf("doctor found %q, want %q\n%s", got, c.troubles, show(r))
			}
			n.must(t, "sh", "-c", line+" --undo")
			if got := n.nameservers(t); got != "10.77.0.250" {
				t.Errorf("after undo the node asks %q", got)
			}
		})
	}
	t.Run("large packets are lost over IPv6", func(t *testing.T) {
		b.casemate(t, "import", "--name", "large", writeImage(t, b.path("large"), randomImage(t, 6<<20, 1)),
			"--repository", "quay.io/team/large:1")
		n := l.fresh(t, "mtu")
		hole := []string{"OUTPUT", "-d", n.six(t), "-m", "length", "--length", "1301:65535", "-j", "DROP"}
		n.must(t, "sh", "-c", line)
		b.must(t, append([]string{"ip6tables", "-A"}, hole...)...)
		defer b.must(t, append([]string{"ip6tables", "-D"}, hole...)...)
		r := n.doctor(t, 3, "--image", "quay.io/team/large:1")
		if out := show(r); !says(r, "stall", false, six) || !strings.Contains(out, "ping -M do -s 1452 -c 1 "+six) ||
			strings.Contains(out, "1472") {
			t.Errorf("\n%s", out)
		}
	})
	t.Run("the old resolver is put back", func(t *testing.T) {
		n := l.fresh(t, "back")
		n.six(t)
		had, err := os.ReadFile(n.path("etc/resolv.conf"))
		if err != nil {
			t.Fatal(err)
		}
		b.casemate(t, "config", "set", "dns.allow", "192.0.2.0/24")
		n.fails(t, "the old resolver was put back, and casemate doctor shows why", "sh", "-c", line)
		if is, err := os.ReadFile(n.path("etc/resolv.conf")); err != nil || string(is) != string(had) {
			t.Errorf("resolv.conf is %q (%v), was %q", is, err, had)
		}
		b.casemate(t, "config", "set", "dns.allow", "--default")
		n.must(t, "sh", "-c", line)
		works(t, n, b.ip+" "+six)
	})
	t.Run("without the program ip", func(t *testing.T) {
		n := l.fresh(t, "noip")
		n.six(t)
		must(t, "ip", "-n", n.ns, "-4", "addr", "flush", "dev", "eth0")
		script := n.write("tmp/enroll.sh", strings.Replace(b.casemate(t, "enroll", "--format", "sh"), "\nmain \"$@\"\n",
			"\ncommand() { [ \"$2\" != ip ] && builtin command \"$@\"; }\nmain \"$@\"\n", 1))
		n.must(t, "bash", script)
		if got := n.nameservers(t); got != six {
			t.Errorf("the node asks %q, want %q", got, six)
		}
	})
}
