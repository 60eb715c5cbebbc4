//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"testing"
)

// TestEgress: what a node used names for is listed with dig and curl as its programs, and doctor tells whether it can
// leave the site past the bastions.
func TestEgress(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	resolver := l.host("corp", "") // it does not answer
	b := newBastion(t, l, "n1", "--set", "dns.forward=corp.example="+resolver.ip)
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	n.must(t, "dig", "@"+b.ip, "registry.k8s.io")
	n.must(t, "dig", "+tcp", "@"+b.ip, "stats.grafana.org")
	n.try("dig", "+tries=1", "+time=1", "@"+b.ip, "git.corp.example")
	n.must(t, "curl", "-sS", "-o", "/dev/null", "https://dl.k8s.io/release/stable.txt")
	n.try("curl", "-sSk", "--resolve", "unknown.example:443:"+b.ip, "https://unknown.example/")
	n.must(t, "curl", "-sS", "-o", "/dev/null", "--resolve", "unknown.example:80:"+b.ip, "http://unknown.example/")
	n.must(t, "sh", "-c", "openssl s_client -connect "+b.at("443")+" -servername quay.io </dev/null")
	until(t, "the names are listed", func() error {
		list := b.casemate(t, "egress", "--client", n.ip+"/32")
		for _, want := range []string{"dns +registry.k8s.io +answered", "dns +stats.grafana.org +refused .* telemetry",
			"dns +git.corp.example +forwarded", "dns +dl.k8s.io +answered", "tls +dl.k8s.io +answered +1",
			"handshake +quay.io +answered +1", "tls +unknown.example +refused", "http +unknown.example +refused +1"} {
			if !regexp.MustCompile("(?m)^" + regexp.QuoteMeta(n.ip) + " +" + want).MatchString(list) {
				return fmt.Errorf("no %q in\n%s", want, list)
			}
		}
		return nil
	})

	out := l.host("outside", "")
	open := out.listenOn(t, out.at("443")) // nobody accepts: the kernel completes the handshake
	defer open.Close()
	r := n.doctor(t, 3, "--outside", out.at("443"), "--outside", out.at("53"))
	if !says(r, "outside-open", false, out.at("443")) || says(r, "outside-resolver", false, out.at("53")) {
		t.Error(show(r))
	}
}
