package state

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

// TestErrorsKeepTheirIdentity sends every code through a snapshot as a remembered outcome.
func TestErrorsKeepTheirIdentity(t *testing.T) {
	want := map[Code]error{
		CodeInvalid: fs.ErrInvalid, CodeConflict: fs.ErrExist, CodeVersion: fs.ErrExist, CodeNoBlob: fs.ErrNotExist,
		CodeNoStage:   fs.ErrNotExist,
		CodeCollected: ErrCollected, CodeOldBoot: ErrOldBoot, CodeFinished: ErrFinished, CodeBusy: syscall.EAGAIN,
		CodeLimit: fs.ErrInvalid, CodeApproval: ErrApproval,
	}
	if len(want) != len(sentinels) {
		t.Fatalf("%d codes, %d in this table", len(sentinels), len(want))
	}
	for code, sentinel := range want {
		in := refuse(code, "put", "a/\xffb", "rule %d", 7)
		s := New()
		s.sessions.set("n", session{})
		s.remember(&Command{Node: "n", Seq: 1}, 0, in)
		s.commit()
		restored, err := Restore(strings.NewReader(string(snapshot(t, s))))
		if err != nil {
			t.Fatal(err)
		}
		o, ok := restored.outcomes.get(outcomeKey("n", 1))
		if !ok {
			t.Fatalf("code %d is not remembered", code)
		}
		out := o.error()
		if !errors.Is(in, sentinel) || !errors.Is(out, sentinel) || in.Error() != out.Error() {
			t.Errorf("code %d: %v became %v", code, in, out)
		}
		for other, s := range want {
			if s != sentinel && errors.Is(out, s) {
				t.Errorf("code %d is also code %d's %v", code, other, s)
			}
		}
	}
}
