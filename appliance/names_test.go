package appliance

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"casemate/appliance/resolver"
	"casemate/appliance/setup"
	"casemate/cluster"
	"casemate/cluster/waittest"
)

// putName writes a name like another node does.
func putName(b cluster.Batch, owner, kind, value string) {
	b.Put("names/"+owner+"/"+kind, fmt.Appendf(nil, `{"values":[%q]}`, value))
}

// Names that change in the tree, one or many, written on this node or another, are applied, and only these are read.
func TestNamesThatChangeAreTakenUp(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	ctx := context.Background()
	update := func(fn func(b cluster.Batch)) {
		t.Helper()
		if err := n.tree.Update(ctx, func(b cluster.Batch) error { fn(b); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(name string, want bool) {
		t.Helper()
		waittest.Until(t, fmt.Sprintf("%s is held: %v", name, want), func() bool {
			answer, err := dns.Exchange(new(dns.Msg).SetQuestion(name+".", dns.TypeA), n.Addrs().DNS[0].String())
			return err == nil && (len(answer.Answer) > 0) == want
		})
	}
	update(func(b cluster.Batch) {
		putName(b, "a.bank.example", "A", "10.0.0.1")
		putName(b, "*.apps.bank.example", "CNAME", "a.bank.example")
	})
	holds("a.bank.example", true)
	holds("x.apps.bank.example", true)
	update(func(b cluster.Batch) { b.Remove("names/a.bank.example") })
	holds("a.bank.example", false)
	holds("x.apps.bank.example", true)

	// More than the tree records as changed, and more than DNS is sent at once.
	const many = 2*resolver.PartOfNames + 10
	update(func(b cluster.Batch) {
		for i := range many {
			putName(b, fmt.Sprintf("host%d.bank.example", i), "A", "10.0.0.1")
			if i%7 == 0 {
				putName(b, fmt.Sprintf("host%d.bank.example", i), "TXT", "seven")
			}
		}
	})
	holds(fmt.Sprintf("host%d.bank.example", many-1), true)
	for i := 0; i < many; i += 41 {
		holds(fmt.Sprintf("host%d.bank.example", i), true)
	}
	holds("x.apps.bank.example", true)

	// A record that cannot be read is reported, and applied once it can be read.
	update(func(b cluster.Batch) {
		b.Put("names/host1.bank.example/A", []byte("damaged"))
		b.Remove("names/host2.bank.example")
	})
	waittest.Until(t, "the damage is said", func() bool {
		return strings.Contains(strings.Join(n.problems.List(), ""), "name host1.bank.example A: its record is damaged")
	})
	update(func(b cluster.Batch) {
		putName(b, "host1.bank.example", "A", "10.0.0.2")
		b.Remove("names/*.apps.bank.example")
	})
	holds("host2.bank.example", false)
	holds("x.apps.bank.example", false)
	holds("host1.bank.example", true)
	update(func(b cluster.Batch) { b.Remove("names") })
	holds("host1.bank.example", false)
	holds(fmt.Sprintf("host%d.bank.example", many-1), false)
}
