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

// Before its format nothing can be held, and the error says what to do; imports without approval need no format.
func TestApprovalsNeedTheFormat(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.format = heldFormat - 1
	c, ctx := start(t, cfg), context.Background()
	none := func(Batch) error { return nil }
	for what, err := range map[string]error{
		"require": c.Tree().Update(ctx, func(b Batch) error { RequireApproval(b, true); return nil }),
		"hold":    c.Tree().Hold(ctx, Held{Claim: "c", Content: "d"}, none, none),
		"reject":  c.Tree().Reject(ctx, "x"),
	} {
		if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "casemate cluster format --raise") {
			t.Errorf("%s: %v", what, err)
		}
	}
	update(t, c.Tree(), func(b Batch) { RequireApproval(b, false); b.Put("x", nil) })
	if err := c.RaiseFormat(ctx, heldFormat); err != nil {
		t.Fatal(err)
	}
	update(t, c.Tree(), func(b Batch) { RequireApproval(b, true) })
	if !c.Tree().ApprovalRequired() {
		t.Error("no approval is required")
	}
}
