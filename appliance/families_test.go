package appliance

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"casemate/appliance/setup"
)

// dns.families is applied when it is set, and refused where it would leave our names without an address.
func TestFamiliesFollowTheSetting(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	record := map[string]any{"values": []string{"fd00::80"}}
	n.must("PUT", "names/www.bank.example/AAAA", record, nil)
	set := func(families string) (int, string) {
		return n.admin("PUT", "settings/dns.families", map[string]string{"value": families}, nil)
	}
	answers := func(name string, qtype uint16) int {
		t.Helper()
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(name, qtype), n.Addrs().DNS[0].String())
		if err != nil || m.Rcode != dns.RcodeSuccess {
			t.Fatalf("%s: %v %v", name, err, m)
		}
		return len(m.Answer)
	}
	check := func(addresses int) {
		t.Helper()
		if got := answers("www.bank.example.", dns.TypeAAAA); got != addresses {
			t.Errorf("AAAA of a name of the operator: %d, want %d", got, addresses)
		}
		if answers("registry.k8s.io.", dns.TypeA) != 1 || answers("registry.k8s.io.", dns.TypeAAAA) != 0 {
			t.Error("the node's only address is an IPv4 address")
		}
	}
	check(1)
	if status, sentence := set("ipv6"); status < 400 || !strings.Contains(sentence, "no node has such an address") {
		t.Errorf("%d %q", status, sentence)
	}
	check(1)
	if status, sentence := set("ipv4"); status >= 300 {
		t.Fatalf("%d %s", status, sentence)
	}
	check(0)
	n.must("DELETE", "settings/dns.families", nil, nil)
	check(1)
}
