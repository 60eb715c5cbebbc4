package digests

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

// TestReader: content passes only with its digest and its size, whatever the sizes of the reads are.
func TestReader(t *testing.T) {
	digest := SHA256([]byte("content"))
	for _, tt := range []struct {
		content string
		size    int64
		err     error
	}{
		{"content", -1, nil},
		{"content", 7, nil},
		{"Content", -1, syscall.EBADMSG},
		{"Content", 7, syscall.EBADMSG},
		{"conten", 7, io.ErrUnexpectedEOF},
		{"content and more", 7, io.ErrUnexpectedEOF},
		{"", 7, io.ErrUnexpectedEOF},
	} {
		for name, r := range map[string]io.Reader{
			"at once":   strings.NewReader(tt.content),
			"bytewise":  iotest.OneByteReader(strings.NewReader(tt.content)),
			"early EOF": iotest.DataErrReader(strings.NewReader(tt.content)),
		} {
			if _, err := io.ReadAll(NewSizedReader(r, digest, tt.size)); !errors.Is(err, tt.err) {
				t.Errorf("%q of %d, %s: got %v, want %v", tt.content, tt.size, name, err, tt.err)
			}
		}
	}
	// A caller that knows the size need not read to the end to find out.
	r := NewSizedReader(strings.NewReader("Content"), digest, 7)
	if _, err := io.ReadFull(r, make([]byte, 7)); err != nil && !errors.Is(err, syscall.EBADMSG) {
		t.Errorf("got %v", err)
	}
	if n, err := NewSizedReader(strings.NewReader("Content"), digest, 7).Read(make([]byte, 7)); n != 7 ||
		!errors.Is(err, syscall.EBADMSG) {
		t.Errorf("got %d, %v", n, err)
	}
}
