package format

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

// ErrDamaged is what every error about bytes of a bundle wraps that are not what they must be. Such an error is
// syscall.EBADMSG too.
var ErrDamaged = errors.New("the bundle is damaged")

// damageError is an error about an input's bytes.
type damageError struct {
	input string // its name
	part  string // "part 2 of 3", as far as it is known
	at    int64  // the first wrong byte, counted from 0; -1 if only the entry is known
	entry string // what stands there
	what  string
	cause error
}

func (d *damageError) Error() string {
	s := d.input
	if d.part != "" {
		s += " (" + d.part + ")"
	}
	if d.at >= 0 {
		s += fmt.Sprintf(": byte %d", d.at)
	}
	if d.entry != "" {
		s += ": " + d.entry
	}
	s += ": " + d.what
	if d.cause != nil {
		s += ": " + d.cause.Error()
	}
	return s
}

func (d *damageError) Unwrap() error { return d.cause }

func (d *damageError) Is(target error) bool { return target == ErrDamaged || target == syscall.EBADMSG }

// stream is a part as it comes, with the count of what was read.
type stream struct {
	r     io.Reader
	off   int64
	input string
	part  string
	end   int64 // where the part ends; -1 while that is not known
}

func (s *stream) damaged(at int64, entry, what string, cause error) error {
	return &damageError{s.input, s.part, at, entry, what, cause}
}

// readError says what an error of the underlying reader means at this place.
func (s *stream) readError(entry string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		if s.end >= 0 {
			return s.damaged(s.off, entry, fmt.Sprintf("it is cut short: the file ends here and must have %d bytes", s.end), io.ErrUnexpectedEOF)
		}
		return s.damaged(s.off, entry, "it is cut short: the file ends here", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%s: byte %d: %w", s.input, s.off, err)
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.off += int64(n)
	return n, err
}

// readN reads n bytes. Memory grows with what is there, not with n.
func (s *stream) readN(entry string, n int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(s, n))
	if err == nil && int64(len(b)) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, s.readError(entry, err)
	}
	return b, nil
}

// comparer is the Writer that compares: what is written to it is what the stream must have next.
type comparer struct {
	*stream
	entry string
	buf   []byte
}

func (m *comparer) Write(want []byte) (int, error) {
	if n := min(len(want), 32<<10); len(m.buf) < n {
		m.buf = make([]byte, n)
	}
	done := 0
	for done < len(want) {
		got := m.buf[:min(len(want)-done, len(m.buf))]
		at := m.off
		n, err := io.ReadFull(m.stream, got)
		for i := range n {
			if got[i] != want[done+i] {
				return done, m.damaged(at+int64(i), m.entry, fmt.Sprintf("it is %#02x and must be %#02x", got[i], want[done+i]), nil)
			}
		}
		if err != nil {
			return done, m.readError(m.entry, err)
		}
		done += n
	}
	return done, nil
}
