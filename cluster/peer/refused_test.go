package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster/blob/blobtest"
)

// doorkeeper knows no members, and answers Admit in turn with what the test says.
type doorkeeper struct {
	Members
	cert    *tls.Certificate
	verdict []error
	asked   atomic.Int32
}

func (d *doorkeeper) Admit([]*x509.Certificate) (string, error) {
	return "n2", d.verdict[min(int(d.asked.Add(1)), len(d.verdict))-1]
}
func (d *doorkeeper) Removed(string) bool                         { return false }
func (d *doorkeeper) Certificate() *tls.Certificate               { return d.cert }
func (d *doorkeeper) Others() []string                            { return nil }
func (d *doorkeeper) Expected() []string                          { return nil }
func (d *doorkeeper) Addresses(string) ([]string, bool)           { return nil, false }
func (d *doorkeeper) JoinAddresses(string) []string               { return nil }
func (d *doorkeeper) Changed(ctx context.Context) <-chan struct{} { return make(chan struct{}) }

// lastBeat is a node that sends one beat.
type lastBeat struct{ Host }

func (lastBeat) Beat(string) Beat      { return Beat{Stopped: "the test is over"} }
func (lastBeat) Done() <-chan struct{} { return nil }

// A node that hears that it was removed stops for good, so it hears that only if it is true: a member that is refused
// for another reason, between two looks at its certificate, finds the connection closed and dials again.
func TestOnlyRemovedNodesAreToldSo(t *testing.T) {
	for name, c := range map[string]struct {
		verdict []error
		status  int // 0: no answer
	}{
		"member":                       {[]error{nil, nil}, http.StatusOK},
		"removed":                      {[]error{ErrRemoved, ErrRemoved}, http.StatusGone},
		"removed during the handshake": {[]error{nil, ErrRemoved}, http.StatusGone},
		"refused during the handshake": {[]error{nil, ErrStranger}, 0},
		"a failure of this node":       {[]error{nil, errors.New("the tree cannot be read")}, 0},
		"stranger":                     {[]error{ErrStranger}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cert := selfSigned(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			life, end := context.WithCancel(context.Background())
			p := New(Config{Node: "n1", Cluster: "c", Log: slog.New(slog.DiscardHandler), Life: life, Now: time.Now,
				Listeners: []net.Listener{l}, Addrs: []string{l.Addr().String()}, Stall: StallTime,
				Handle: func(*http.ServeMux) {}, Members: &doorkeeper{cert: cert, verdict: c.verdict}, Host: lastBeat{},
				FS: blobtest.New(1), AddressFile: "/addresses.json"})
			p.Serve()
			defer p.Close()
			defer end()
			client := http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (
				net.Conn, error) {
				return tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true,
					NextProtos: []string{alpnPeer + "c"}, Certificates: []tls.Certificate{*cert}})
			}}}
			defer client.CloseIdleConnections()
			status := 0
			if res, err := client.Get("https://n1/beat"); err == nil {
				status = res.StatusCode
				res.Body.Close()
			}
			if status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
		})
	}
}

func selfSigned(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n2"},
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
