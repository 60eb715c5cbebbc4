package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"casemate/appliance/clientconn"
	"casemate/cluster/waittest"
)

// TestHandshakesWithoutARequest: a name that a client used in a handshake alone is reported once, when its connection
// ends, whether or not the client trusted the certificate.
func TestHandshakesWithoutARequest(t *testing.T) {
	shared := httptest.NewUnstartedServer(nil)
	shared.StartTLS()
	defer shared.Close()
	for _, c := range []struct {
		what, name string
		wary       bool     // the client does not trust the certificate
		protocols  []string // of a client that sends a request; nil: it sends none
		want       int
	}{
		{what: "a handshake", name: "quay.io", want: 1},
		{what: "without trust", name: "quay.io", wary: true, want: 1},
		{what: "of a name that is not served", name: "unknown.example"},
		{what: "without a name"},
		{what: "a request", name: "quay.io", protocols: []string{"http/1.1"}},
		{what: "a request over HTTP/2", name: "quay.io", protocols: []string{"h2"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			e, _ := testEdge(t)
			var mu sync.Mutex
			var told []string
			e.Unasked = func(name string, client netip.Addr) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, name+" "+client.String())
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := e.Server(false, nil)
			srv.TLSConfig = &tls.Config{Certificates: shared.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}
			ended := make(chan struct{})
			report := srv.ConnState
			srv.ConnState = func(conn net.Conn, state http.ConnState) {
				report(conn, state)
				if state == http.StateClosed {
					close(ended)
				}
			}
			served := make(chan struct{})
			go func() {
				srv.ServeTLS(&clientconn.Listener{Listener: l, Places: clientconn.NewPlaces(8, nil), Log: testLog(t),
					Stall: e.Stall}, "", "")
				close(served)
			}()
			cfg := &tls.Config{ServerName: c.name, InsecureSkipVerify: !c.wary, NextProtos: c.protocols}
			conn, err := tls.Dial("tcp", l.Addr().String(), cfg)
			if (err != nil) != c.wary {
				t.Fatalf("the handshake: %v", err)
			}
			if c.protocols != nil {
				client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: cfg,
					DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
				resp, err := client.Get("https://" + c.name + "/")
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				client.CloseIdleConnections()
			} else if conn != nil {
				conn.Close()
			}
			<-ended
			srv.Close()
			<-served
			if len(told) != c.want || c.want > 0 && told[0] != c.name+" 127.0.0.1" {
				t.Errorf("reported: %v", told)
			}
		})
	}
}

// TestStopAwaitsTheFirstRequest: a connection that was accepted before a stop gets an answer to its first request,
// which its client would not repeat.
func TestStopAwaitsTheFirstRequest(t *testing.T) {
	shared := httptest.NewUnstartedServer(nil)
	shared.StartTLS()
	defer shared.Close()
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			e, _ := testEdge(t)
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var fresh clientconn.Fresh
			l := &clientconn.Listener{Listener: inner, Places: clientconn.NewPlaces(8, nil), Log: testLog(t),
				Fresh: &fresh, Stall: e.Stall}
			srv := e.Server(false, nil)
			srv.TLSConfig = &tls.Config{Certificates: shared.TLS.Certificates, NextProtos: []string{protocol}}
			served := make(chan error, 1)
			go func() { served <- srv.ServeTLS(l, "", "") }()
			cfg := &tls.Config{ServerName: "quay.io", InsecureSkipVerify: true, NextProtos: []string{protocol}}
			dial := func() *tls.Conn {
				conn, err := tls.Dial("tcp", l.Addr().String(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				return conn
			}
			conn, silent := dial(), dial()
			silent.Close() // one that ends without a request is not waited for
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := waittest.Next(t, served, "the listener is closed"); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v", err)
			}
			stopped := make(chan error, 1)
			go func() {
				fresh.Wait(time.Minute)
				stopped <- srv.Shutdown(context.Background())
			}()
			select {
			case err := <-stopped:
				t.Fatal("it stops before the first request:", err)
			case <-time.After(100 * time.Millisecond): // longer hides no fault and shows none
			}
			client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: cfg,
				DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
			resp, err := client.Get("https://quay.io/")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			client.CloseIdleConnections()
			if err := waittest.Next(t, stopped, "it stops"); err != nil {
				t.Error(err)
			}
		})
	}
}
