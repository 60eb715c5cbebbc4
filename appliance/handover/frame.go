package handover

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// sender writes frames. It is safe for concurrent use.
type sender struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// send writes m, with the descriptor of f unless f is nil. The caller keeps f and may close it afterwards.
func (s *sender) send(m *message, f *os.File) error {
	var rights []byte
	whole := *m
	if f != nil {
		whole.Descriptors = 1
		rights = unix.UnixRights(int(f.Fd()))
	}
	text, err := json.Marshal(&whole)
	if err != nil {
		return err
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f != nil {
		// The kernel may accept only a part of the bytes; the descriptor is sent with the first of them.
		n, _, err := s.conn.WriteMsgUnix(frame, rights, nil)
		runtime.KeepAlive(f)
		if err != nil {
			return err
		}
		if frame = frame[n:]; len(frame) == 0 {
			return nil
		}
	}
	_, err = s.conn.Write(frame)
	return err
}

// readFrame reads one frame of at most limit bytes. It allocates memory for bytes that have arrived, not for the
// length that the frame states.
func readFrame(r io.Reader, limit uint32) (*message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return nil, protocolError("a frame has %d bytes, more than %d", n, limit)
	}
	text, err := readText(r, int64(n))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	m := new(message)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, protocolError("a frame is not valid JSON: %w", err)
	}
	return m, nil
}

// readText reads n bytes. Most frames are about one file, and have fewer than 512.
func readText(r io.Reader, n int64) ([]byte, error) {
	if n <= 512 {
		text := make([]byte, n)
		_, err := io.ReadFull(r, text)
		return text, err
	}
	var text bytes.Buffer
	_, err := io.CopyN(&text, r, n)
	return text.Bytes(), err
}

// receiver reads bytes from a socket and stores the descriptors that come with them, in order.
type receiver struct {
	conn  *net.UnixConn
	files []int  // open descriptors that no frame has claimed yet
	oob   []byte // buffer for the descriptors that come with one read
}

// maxUnclaimed limits the descriptors that may arrive before their frame is read: they come with its first byte, so
// usually there is one.
const maxUnclaimed = 8

func (r *receiver) Read(p []byte) (int, error) {
	if r.oob == nil {
		r.oob = make([]byte, unix.CmsgSpace(4*maxUnclaimed))
	}
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(p, r.oob) // sets close-on-exec
	if oobn > 0 {
		if err := r.keep(r.oob[:oobn]); err != nil {
			return 0, err
		}
	}
	switch {
	case err != nil:
		return 0, err // n is -1 then
	case flags&unix.MSG_CTRUNC != 0 || len(r.files) > maxUnclaimed:
		return 0, protocolError("more descriptors than frames")
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (r *receiver) keep(oob []byte) error {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return protocolError("control message: %w", err)
	}
	for _, m := range list {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return protocolError("control message: %w", err)
		}
		r.files = append(r.files, fds...)
	}
	return nil
}

// next reads a frame and the descriptor that it announces, -1 if none. The caller owns the descriptor.
func (r *receiver) next(from io.Reader) (*message, int, error) {
	m, err := readFrame(from, maxAsk)
	if err != nil {
		return nil, -1, err
	}
	switch {
	case m.Descriptors == 0:
		return m, -1, nil
	case m.Descriptors != 1 || len(r.files) == 0:
		return nil, -1, protocolError("a frame announces %d descriptors, but %d arrived", m.Descriptors, len(r.files))
	}
	fd := r.files[0]
	r.files = r.files[1:]
	return m, fd, nil
}

// close closes the descriptors that no frame claimed.
func (r *receiver) close() {
	for _, fd := range r.files {
		unix.Close(fd)
	}
	r.files = nil
}
