package peer

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"casemate/cluster/stall"
)

// abrupt is a TLS connection that is closed without the close_notify alert (RFC 8446, section 6.1). To send it,
// crypto/tls waits up to 5 s for a stalled connection, and net/http does so while holding a lock. All protocols between
// nodes are framed, so none of them takes the end of a connection for the end of a message.
type abrupt struct {
	*tls.Conn
	wire *bulk
}

func (c abrupt) Close() error { return c.NetConn().Close() }

// stalling is an HTTP connection between nodes: a read or a write that takes too long ends it.
//
// Reads are bounded here at the client's end only. Writes extend the read deadline, because the sender of a large blob
// receives no byte before it has sent the last one. The server reads even while a handler runs, to notice that the
// client has gone; that read may wait for ever, and if it failed, every request of this connection would be cancelled,
// beats first. So the server bounds the reads of headers itself, and stallingBody those of bodies.
type stalling struct {
	net.Conn
	wire  *bulk // below it; nil for an outsider
	node  string
	reads bool
	time  time.Duration

	read, write stall.Deadline
}

func (s *stalling) extendRead() {
	if s.reads {
		s.read.Extend(s.Conn.SetReadDeadline, s.time)
	}
}

func (s *stalling) Read(p []byte) (int, error) {
	s.extendRead()
	return s.Conn.Read(p)
}

// SetDeadline and the methods below are called by the servers.
func (s *stalling) SetDeadline(t time.Time) error {
	s.read.Forget()
	s.write.Forget()
	return s.Conn.SetDeadline(t)
}

func (s *stalling) SetReadDeadline(t time.Time) error {
	s.read.Forget()
	return s.Conn.SetReadDeadline(t)
}

func (s *stalling) SetWriteDeadline(t time.Time) error {
	s.write.Forget()
	return s.Conn.SetWriteDeadline(t)
}

func (s *stalling) Write(p []byte) (int, error) {
	s.write.Extend(s.Conn.SetWriteDeadline, s.time)
	large := s.wire != nil && len(p) > 16<<10 // more than one record
	if large {
		s.wire.cork()
	}
	n, err := s.Conn.Write(p)
	if large {
		if sent := s.wire.uncork(); err == nil && sent != nil {
			n, err = 0, sent
		}
	}
	s.extendRead()
	return n, err
}

// stallingBody is a request's body that bounds how long a read waits.
type stallingBody struct {
	io.ReadCloser
	conn *http.ResponseController
	time time.Duration
	read stall.Deadline
}

func (b *stallingBody) Read(p []byte) (int, error) {
	b.read.Extend(b.conn.SetReadDeadline, b.time)
	n, err := b.ReadCloser.Read(p)
	if err != nil { // after the body, the server's background read must not time out
		b.conn.SetReadDeadline(time.Time{})
		b.read.Forget()
	}
	return n, err
}

// chanListener is a listener whose connections were accepted elsewhere.
type chanListener struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newChanListener(addr net.Addr) *chanListener {
	return &chanListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *chanListener) deliver(conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.closed:
		conn.Close()
	}
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *chanListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *chanListener) Addr() net.Addr { return l.addr }
