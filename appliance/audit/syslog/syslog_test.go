package syslog

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"casemate/appliance/audit/proof"
)

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"tls://logs.example": "logs.example:6514", "tcp://10.0.0.1": "10.0.0.1:514",
		"tcp://[fd00::1]:1514": "[fd00::1]:1514", "tls://logs.example:99/": "logs.example:99",
		"": "", "logs.example": "", "udp://logs.example": "", "tls://": "", "tls://a:0": "", "tls://a:70000": "",
		"tls://user@a": "", "tls://a/b": "", "tls://a?b": "", "tls://" + strings.Repeat("a", 600): "",
	} {
		got, err := ParseTarget(text)
		if (err != nil) != (want == "") ||
			err == nil && (got.Addr() != want || got.TLS != strings.HasPrefix(text, "tls")) {
			t.Errorf("%.40q: %+v, %v", text, got, err)
		}
	}
}

// TestMessages: header fields are printable ASCII, and the length counts bytes (RFC 5424 section 6, RFC 6587 3.4.1).
func TestMessages(t *testing.T) {
	e := proof.Event{Time: time.Date(2026, 1, 31, 11, 0, 0, 123456789, time.FixedZone("", 3600)), Node: "n 1é",
		Verb: strings.Repeat("v", 40)}
	if got, want := string(Append(nil, e, `{"é"}`)), "92 <110>1 2026-01-31T10:00:00.123456Z n_1_ casemate - "+
		strings.Repeat("v", 32)+` - {"é"}`; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	e = proof.Event{Outcome: "refused"}
	if got := string(Append([]byte("x"), e, "")); !strings.HasPrefix(got, "x52 <108>1 0001-01-01T00:00:00.000000Z - ") {
		t.Errorf("%q", got)
	}
}

// TestTLS: a receiver whose certificate is not trusted gets nothing.
func TestTLS(t *testing.T) {
	known := httptest.NewTLSServer(nil) // for its certificate
	known.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: known.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			text, _ := bufio.NewReader(c).ReadString('\n')
			c.Close()
			if text != "" {
				lines <- text
			}
		}
	}()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	target := Target{TLS: true, Host: host, Port: port}
	if c, err := Dial(t.Context(), target, x509.NewCertPool()); err == nil {
		c.Close()
		t.Error("a receiver that is not trusted is accepted")
	}
	roots := x509.NewCertPool()
	roots.AddCert(known.Certificate())
	c, err := Dial(t.Context(), target, roots)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send([]byte("5 event\n")); err != nil {
		t.Fatal(err)
	}
	if got := <-lines; got != "5 event\n" {
		t.Errorf("%q", got)
	}
	<-c.Gone()
	if err := c.Send(nil); err == nil {
		t.Error("sent to a receiver that is gone")
	}
	if _, err := c.Acknowledged(); err == nil {
		t.Error("a receiver that is gone has everything")
	}
}
