package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"testing"

	"casemate/cluster/state"
)

// The format is raised only when every member has said that it understands it; down is not a way.
func TestRaiseFormat(t *testing.T) {
	c := start(t, testConfig(t, t.TempDir()))
	agreed, newest := c.Format()
	if agreed != state.MaxFormat || newest != state.MaxFormat {
		t.Fatalf("formats %d, %d", agreed, newest)
	}
	ctx := context.Background()
	if err := c.RaiseFormat(ctx, agreed); err != nil {
		t.Errorf("what is agreed already: %v", err)
	}
	if err := c.RaiseFormat(ctx, 0); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("back: %v", err)
	}
	if err := c.RaiseFormat(ctx, newest+1); !errors.Is(err, fs.ErrInvalid) ||
		!strings.Contains(err.Error(), "upgrade it first") {
		t.Errorf("beyond this program: %v", err)
	}

	cfg := testConfig(t, t.TempDir())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Peer, cfg.Version = []net.Listener{l}, "v1"
	c = start(t, cfg)
	eventually(t, func() error {
		if m := c.Members(); len(m) != 1 || m[0].Format != state.MaxFormat {
			return fmt.Errorf("members %+v", m)
		}
		return nil
	})
	defer func(was uint64) { maxFormat = was }(maxFormat)
	maxFormat = state.MaxFormat + 1 // this program, but not what the record says of its node
	if err := c.RaiseFormat(ctx, state.MaxFormat+1); !errors.Is(err, fs.ErrExist) ||
		!strings.Contains(err.Error(), fmt.Sprintf("n1 (casemate v1, up to %d)", state.MaxFormat)) {
		t.Errorf("a member that has not said so: %v", err)
	}
}
