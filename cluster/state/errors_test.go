package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

// TestErrorsKeepTheirIdentity sends every code over the wire and through a remembered outcome.
func TestErrorsKeepTheirIdentity(t *testing.T) {
	want := map[Code]error{
		CodeInvalid: fs.ErrInvalid, CodeConflict: fs.ErrExist, CodeVersion: fs.ErrExist, CodeNoBlob: fs.ErrNotExist, CodeNoStage: fs.ErrNotExist,
		CodeCollected: ErrCollected, CodeOldBoot: ErrOldBoot, CodeFinished: ErrFinished, CodeBusy: syscall.EAGAIN, CodeLimit: fs.ErrInvalid,
	}
	if len(want) != len(sentinels) {
		t.Fatalf("%d codes, %d in this table", len(sentinels), len(want))
	}
	for code, sentinel := range want {
		in := refuse(code, "put", "a/\xffb", "rule %d", 7)
		data, err := EncodeError(fmt.Errorf("import x: %w", in))
		if err != nil {
			t.Fatal(err)
		}
		out, err := DecodeError(data)
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(in, sentinel) || !errors.Is(out, sentinel) || in.Error() != out.Error() {
			t.Errorf("code %d: %v became %v", code, in, out)
		}
		for other, s := range want {
			if s != sentinel && errors.Is(out, s) {
				t.Errorf("code %d is also code %d's %v", code, other, s)
			}
		}
		s := New()
		s.sessions.set("n", session{})
		s.remember(&Command{Node: "n", Seq: 1}, 0, in)
		s.commit()
		restored, err := Restore(strings.NewReader(string(snapshot(t, s))))
		if err != nil {
			t.Fatal(err)
		}
		if o, ok := restored.outcomes.get(outcomeKey("n", 1)); !ok || !errors.Is(o.error(), sentinel) || o.error().Error() != in.Error() {
			t.Errorf("code %d: remembered as %v", code, o)
		}
	}
	data, err := EncodeError(nil)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := DecodeError(data); out != nil || err != nil {
		t.Errorf("no error became %v, %v", out, err)
	}
	if _, err := EncodeError(io.EOF); !errors.Is(err, io.EOF) {
		t.Errorf("a foreign error: %v", err)
	}
	for _, code := range []Code{0, 200} {
		data, err := encMode.Marshal(&Error{Code: code})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := DecodeError(data); err == nil {
			t.Errorf("code %d was read as %v", code, out)
		}
	}
	for _, data := range []string{"", "\x80", "\xff", "\x84\x01", string(data) + "x"} {
		if out, err := DecodeError([]byte(data)); err == nil {
			t.Errorf("%q was read as %v", data, out)
		}
	}
}
