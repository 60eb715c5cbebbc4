package setup

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"casemate/appliance/clock"
)

// TestWrongClock: init, join and restore refuse a clock that is before this program before anything is written or
// asked; an operator who vouches for the clock goes on; a doubtful clock is a note.
func TestWrongClock(t *testing.T) {
	at1970 := Clock{Evidence: clock.Evidence{Now: time.Unix(1000, 0)}}
	for what, run := range map[string]func(t *testing.T, c Clock) error{
		"init": func(t *testing.T, c Clock) error {
			_, err := Init(t.Context(), testConfig(t, t.TempDir()), InitOptions{Clock: c})
			return err
		},
		"restore": func(t *testing.T, c Clock) error {
			_, _, err := Restore(t.Context(), testConfig(t, t.TempDir()), strings.NewReader(""),
				RestoreOptions{Passphrase: "x", Clock: c})
			return err
		},
		"join": func(t *testing.T, c Clock) error {
			cfg := testConfig(t, t.TempDir())
			cfg.Listen.Peer = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}
			_, err := Join(t.Context(), cfg, JoinOptions{Clock: c, Addr: "127.0.0.1:1",
				Token: "casemate1.a." + strings.Repeat("A", 43) + "." + strings.Repeat("A", 43)})
			return err
		},
	} {
		err := run(t, at1970)
		if what == "join" && err != nil && strings.Contains(err.Error(), "token") {
			t.Fatalf("%s: the test's token is refused: %v", what, err)
		}
		if err == nil || !strings.Contains(err.Error(), "shows 1970-01-01") {
			t.Errorf("%s: %v", what, err)
		}
		vouched := at1970
		vouched.Right = true
		if err := run(t, vouched); err != nil && strings.Contains(err.Error(), "clock") {
			t.Errorf("%s, vouched for: %v", what, err)
		}
	}
	now := time.Now()
	res, err := Init(t.Context(), testConfig(t, t.TempDir()), InitOptions{
		Clock: Clock{Evidence: clock.Evidence{Now: now, Hardware: now.Add(100 * time.Hour)}}})
	if err != nil || !strings.Contains(strings.Join(res.Notes, "\n"), "hardware clock shows") {
		t.Errorf("%q, %v", res.Notes, err)
	}
}
