// Package syslog sends the lines of an audit log to a receiver: RFC 5424 messages over TLS (RFC 5425) or TCP (RFC 6587,
// octet counting).
//
// The protocol has no answers. So what was sent counts as received only when the receiver's host has acknowledged every
// byte and the connection has lived on for a while; after a broken connection everything else is sent again. A receiver
// may get an event twice, and knows it by its number.
package syslog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"casemate/appliance/audit/proof"
)

// Target is where events are sent.
type Target struct {
	TLS  bool
	Host string // name or address
	Port string
}

// Default ports: RFC 5425 section 4.1, and the one that receivers use for TCP.
const (
	tlsPort = "6514"
	tcpPort = "514"
)

// ParseTarget parses tls://HOST[:PORT] or tcp://HOST[:PORT].
func ParseTarget(text string) (t Target, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "tls" && u.Scheme != "tcp" || u.Hostname() == "" || u.User != nil ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || len(text) > 512 {
		return t, fmt.Errorf("must be tls://HOST:PORT or tcp://HOST:PORT, got %.80q", text)
	}
	t = Target{TLS: u.Scheme == "tls", Host: u.Hostname(), Port: u.Port()}
	if t.Port == "" {
		t.Port = tcpPort
		if t.TLS {
			t.Port = tlsPort
		}
	}
	if n, err := strconv.ParseUint(t.Port, 10, 16); err != nil || n == 0 {
		return t, fmt.Errorf("the port of %.80q must be between 1 and 65535", text)
	}
	return t, nil
}

// Addr is the address to dial.
func (t Target) Addr() string { return net.JoinHostPort(t.Host, t.Port) }

// Append appends the message of an event, framed. The line is the event's own; it is the message's text.
func Append(b []byte, e proof.Event, line string) []byte {
	const (
		facility = 13 // log audit
		info     = 6
		warning  = 4
	)
	severity := info
	if e.Outcome != "" {
		severity = warning
	}
	m := make([]byte, 0, len(line)+128)
	m = append(m, '<')
	m = strconv.AppendInt(m, int64(facility*8+severity), 10)
	m = append(m, ">1 "...)
	m = e.Time.UTC().AppendFormat(m, "2006-01-02T15:04:05.000000Z07:00")
	m = append(m, ' ')
	m = append(m, word(e.Node, 255)...)
	m = append(m, " casemate - "...)
	m = append(m, word(e.Verb, 32)...)
	m = append(m, " - "...)
	m = append(m, line...)
	b = strconv.AppendInt(b, int64(len(m)), 10)
	b = append(b, ' ')
	return append(b, m...)
}

// word is a header field of a message: printable ASCII without spaces, "-" for none.
func word(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '_'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}

// Conn is a connection to a receiver.
type Conn struct {
	net.Conn              // what is written to
	tcp      *net.TCPConn // below it
	gone     chan struct{}
}

const (
	dialTime  = 10 * time.Second
	writeTime = 30 * time.Second
)

// Dial connects to a receiver. roots verify it; nil are the system's.
func Dial(ctx context.Context, t Target, roots *x509.CertPool) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", t.Addr())
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: raw, tcp: raw.(*net.TCPConn), gone: make(chan struct{})}
	if t.TLS {
		secure := tls.Client(raw, &tls.Config{ServerName: t.Host, RootCAs: roots, MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		c.Conn = secure
	}
	// A receiver says nothing; a read ends when the connection does.
	go func() {
		defer close(c.gone)
		io.Copy(io.Discard, c.Conn)
	}()
	return c, nil
}

// Close ends the connection, and waits for its reader.
func (c *Conn) Close() error {
	err := c.tcp.Close()
	<-c.gone
	return err
}

// Gone is closed when the receiver has ended the connection.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

var errGone = errors.New("the receiver has closed the connection")

// Send writes framed messages.
func (c *Conn) Send(data []byte) error {
	select {
	case <-c.gone:
		return errGone
	default:
	}
	c.SetWriteDeadline(time.Now().Add(writeTime))
	_, err := c.Write(data)
	return err
}

// Acknowledged reports whether the receiver's host has acknowledged everything that was sent.
func (c *Conn) Acknowledged() (bool, error) {
	select {
	case <-c.gone:
		return false, errGone
	default:
	}
	return acknowledged(c.tcp)
}
