package bundle

import (
	"bytes"
	"errors"
	"io"
)

// A Skipper is a reader that can leave out bytes that nobody needs: where they come from afar, they are not sent. An
// Input.File may be one.
type Skipper interface {
	io.Reader
	// Skip moves forward by n bytes. Whether the content has that many shows only at the next Read.
	Skip(n int64) error
}

// Skip moves r forward by n bytes: without reading them if r is a Skipper. io.ErrUnexpectedEOF: r has fewer.
func Skip(r io.Reader, n int64) error {
	if s, ok := r.(Skipper); ok {
		return s.Skip(n)
	}
	_, err := io.CopyN(io.Discard, r, n)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Unread returns a reader of head and then of r. It is a Skipper if r is one.
func Unread(head []byte, r io.Reader) io.Reader {
	all := io.MultiReader(bytes.NewReader(head), r)
	if s, ok := r.(Skipper); ok {
		return &unread{all, head, s}
	}
	return all
}

type unread struct {
	io.Reader // of left and rest
	left      []byte
	rest      Skipper
}

func (u *unread) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	u.left = u.left[min(n, len(u.left)):]
	return n, err
}

func (u *unread) Skip(n int64) error {
	head := min(n, int64(len(u.left)))
	if _, err := io.CopyN(io.Discard, u, head); err != nil || n == head {
		return err
	}
	return u.rest.Skip(n - head)
}
