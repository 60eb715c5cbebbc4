//go:build bench

package appliance

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"casemate/appliance/setup"
	"casemate/cluster"
	"casemate/cluster/waittest"
)

// TestBenchNames prints what the rows "Names at scale" of docs/performance.md say of a node with 200 000 names. With
// NAMES_DATA the node's directory stays there, so that a daemon can be started on it.
func TestBenchNames(t *testing.T) {
	const names = 200_000
	dir := os.Getenv("NAMES_DATA")
	if dir == "" {
		dir = t.TempDir()
	}
	cfg := testConfig(t, dir)
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	ctx := context.Background()
	const part = 2000
	for from := 0; from < names; from += part {
		if err := n.tree.Update(ctx, func(b cluster.Batch) error {
			for i := from; i < from+part; i++ {
				putName(b, fmt.Sprintf("host%d.site%d.bank.example", i, i%1000), "A",
					fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Until(t, "all are answered", func() bool {
		return n.resolves(fmt.Sprintf("host%d.site%d.bank.example", names-1, (names-1)%1000))
	})
	measure := func(what string, times int, do func(i int)) {
		var worst time.Duration
		cpu, begin := used(t), time.Now()
		for i := range times {
			at := time.Now()
			do(i)
			worst = max(worst, time.Since(at))
		}
		t.Logf("| %s | %.2f ms CPU | %.2f ms | %.2f ms |", what, (used(t)-cpu).Seconds()*1000/float64(times),
			time.Since(begin).Seconds()*1000/float64(times), worst.Seconds()*1000)
	}
	t.Log("| what | CPU each | time each | longest |")
	measure("`name set`, there", 100, func(i int) {
		n.must("PUT", fmt.Sprintf("names/host%d.site%d.bank.example/A", i, i),
			map[string]any{"values": []string{fmt.Sprintf("10.9.9.%d", i)}}, nil)
	})
	measure("`name set`, new", 100, func(i int) {
		n.must("PUT", fmt.Sprintf("names/new%d.bank.example/A", i), map[string]any{"values": []string{"10.9.9.9"}}, nil)
	})
	measure("`name delete`", 100, func(i int) {
		n.must("DELETE", fmt.Sprintf("names/new%d.bank.example", i), nil, nil)
	})
	measure("settings or health", 100, func(int) {
		if err := n.dns.Refresh(); err != nil {
			t.Fatal(err)
		}
	})
	measure("`name list`, all", 3, func(int) {
		var body string
		n.must("GET", "names", nil, &body)
	})
}
