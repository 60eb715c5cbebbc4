package cluster_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// A machine whose clock is far from the member's is refused before its token is used, in either direction; one that is
// a little apart is told; and an operator may vouch for the clock.
func TestJoinComparesClocks(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		for i, c := range []struct {
			apart         time.Duration
			any           bool
			refused, says string
		}{
			{0, false, "", ""},
			{5 * time.Second, false, "", ""},
			{-20 * time.Minute, false, "", "differs from the member's"},
			{20 * time.Minute, false, "", "differs from the member's"},
			{2 * time.Hour, false, "set the one that is wrong", ""},
			{-2 * time.Hour, false, "set the one that is wrong", ""},
			{2 * time.Hour, true, "", "differs from the member's"},
			{-40 * 24 * time.Hour, false, "set the clock that is wrong", ""},
		} {
			cfg := joiner(cl, "m"+string(rune('a'+i)))
			var said bytes.Buffer
			cfg.Log = slog.New(slog.NewTextHandler(&said, nil))
			cfg.AnyClock = c.any
			cfg.Now = func() time.Time { return time.Now().Add(c.apart) }
			tok := token(t, cl.Nodes[0].C)
			_, err := cluster.Join(context.Background(), cfg, clustertest.Addr("n1"), tok)
			if c.refused == "" && err != nil || c.refused != "" && (err == nil ||
				!strings.Contains(err.Error(), c.refused)) {
				t.Errorf("%s apart: %v, want %q", c.apart, err, c.refused)
			}
			if !strings.Contains(said.String(), c.says) || c.says == "" && strings.Contains(said.String(), "differs") {
				t.Errorf("%s apart: said %q, want %q", c.apart, said.String(), c.says)
			}
			if c.refused == "" {
				continue
			}
			cfg.Now = time.Now
			if _, err := cluster.Join(context.Background(), cfg, clustertest.Addr("n1"), tok); err != nil {
				t.Errorf("%s apart, after the clock was set: %v", c.apart, err)
			}
		}
	})
}
