package pki

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// serveHTTP serves every known name as the appliance does: net/http over TLSConfig.
func (h *house) serveHTTP() (addr string) {
	h.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: h.ca.TLSConfig(), ErrorLog: log.New(logTo{h.t}, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "served over %s", r.Proto)
		})}
	done := make(chan struct{})
	go func() { defer close(done); srv.ServeTLS(ln, "", "") }()
	h.t.Cleanup(func() { srv.Close(); <-done })
	return ln.Addr().String()
}

// No offer of a client ends a handshake, and the client is then served in its protocol.
func TestEveryOfferOfProtocolsIsServed(t *testing.T) {
	h := build(t, nil)
	addr := h.serveHTTP()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(h.ca.Roots())
	for _, c := range []struct {
		offers []string
		want   string // negotiated
		speaks string
	}{
		{nil, "", "HTTP/1.1"},
		{[]string{"http/1.1"}, "http/1.1", "HTTP/1.1"},
		{[]string{"h2", "http/1.1"}, "http/1.1", "HTTP/1.1"},
		{[]string{"http/1.0"}, "http/1.0", "HTTP/1.0"},
		{[]string{"http/1.0", "http/1.1"}, "http/1.1", "HTTP/1.1"},
		{[]string{"http/0.9"}, "", "HTTP/1.0"},
		{[]string{"http/0.9", "http/1.0"}, "http/1.0", "HTTP/1.0"},
		{[]string{"spdy/3.1"}, "", "HTTP/1.1"},
		{[]string{"h2c"}, "", "HTTP/1.1"},
		{[]string{"h3"}, "", "HTTP/1.1"},
		{[]string{"HTTP/1.1"}, "", "HTTP/1.1"}, // identifiers are compared byte by byte (RFC 7301, 3.1)
		{[]string{"\xda\xda", "something"}, "", "HTTP/1.1"},
		{[]string{"h2"}, "h2", "HTTP/2.0"},
		{[]string{"h2", "something"}, "h2", "HTTP/2.0"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%q %s", c.offers, tls.VersionName(version)), func(t *testing.T) {
				cfg := &tls.Config{RootCAs: pool, ServerName: "registry.k8s.io", NextProtos: c.offers,
					MaxVersion: version}
				conn, err := tls.Dial("tcp", addr, cfg)
				if err != nil {
					t.Fatalf("no handshake: %v", err)
				}
				defer conn.Close()
				if got := conn.ConnectionState().NegotiatedProtocol; got != c.want {
					t.Errorf("negotiated %q, want %q", got, c.want)
				}
				var resp *http.Response
				req, _ := http.NewRequest("GET", "https://registry.k8s.io/", nil)
				if c.speaks == "HTTP/2.0" {
					tr := &http.Transport{ForceAttemptHTTP2: true,
						DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
					defer tr.CloseIdleConnections()
					resp, err = tr.RoundTrip(req)
				} else {
					fmt.Fprintf(conn, "GET / %s\r\nHost: registry.k8s.io\r\n\r\n", c.speaks)
					resp, err = http.ReadResponse(bufio.NewReader(conn), req)
				}
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "served over "+c.speaks {
					t.Errorf("got %q, %v", body, err)
				}
			})
		}
	}
}

// The clients of the reports.
func TestClientsThatSpeakHTTP10(t *testing.T) {
	h := build(t, nil)
	_, port, _ := net.SplitHostPort(h.serveHTTP())
	roots := write(t, "roots.pem", h.ca.Roots())
	at := "registry.k8s.io:" + port
	for _, args := range [][]string{
		{"curl", "--http1.0"}, {"curl", "--http1.1"}, {"curl", "--http2"}, {"curl", "--http2-prior-knowledge"}, {
			"curl", "--no-alpn"},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skip(err)
		}
		args = append(args, "-sSf", "--noproxy", "*", "--cacert", roots, "--resolve", at+":127.0.0.1",
			"https://"+at+"/")
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "served over HTTP/") {
			t.Errorf("%s: %v: %s", strings.Join(args[:2], " "), err, out)
		}
	}
}
