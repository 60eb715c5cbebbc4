package format

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"casemate/bundle"
)

// ErrDamaged is wrapped by every error about wrong bytes of a bundle. Such an error is syscall.EBADMSG too.
var ErrDamaged = errors.New("the bundle is damaged")

// damageError reports wrong bytes of an input.
type damageError struct {
	input string // the name of the input
	part  string // "part 2 of 3", if known
	at    int64  // offset of the first wrong byte; -1 if only the entry is known
	entry string // the tar entry at that offset
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

// stream reads a part and counts the bytes.
type stream struct {
	r     io.Reader
	off   int64
	input string
	part  string
	end   int64 // the size of the part; -1 while it is not known
}

func (s *stream) damaged(at int64, entry, what string, cause error) error {
	return &damageError{s.input, s.part, at, entry, what, cause}
}

// readError explains an error of the underlying reader at this offset.
func (s *stream) readError(entry string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		if s.end >= 0 {
			return s.damaged(
				s.off,
				entry,
				fmt.Sprintf("truncated: the file ends here and must have %d bytes", s.end),
				io.ErrUnexpectedEOF,
			)
		}
		return s.damaged(s.off, entry, "truncated: the file ends here", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%s: byte %d: %w", s.input, s.off, err)
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.off += int64(n)
	return n, err
}

// skips reports whether skip moves without reading.
func (s *stream) skips() bool {
	_, ok := s.r.(bundle.Skipper)
	return ok
}

// skip moves forward by n bytes.
func (s *stream) skip(n int64) error {
	err := bundle.Skip(s.r, n)
	if err == nil {
		s.off += n
	}
	return err
}

// readN reads n bytes. Memory grows with the bytes that are there, not with n.
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

// comparer is a Writer that compares: the stream must continue with the bytes that are written to it.
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
				return done, m.damaged(
					at+int64(i),
					m.entry,
					fmt.Sprintf("it is %#02x and must be %#02x", got[i], want[done+i]),
					nil,
				)
			}
		}
		if err != nil {
			return done, m.readError(m.entry, err)
		}
		done += n
	}
	return done, nil
}
