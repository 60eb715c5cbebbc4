package cluster_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
	"casemate/cluster/lograte"
	"casemate/cluster/peer"
)

func csrOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	req := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "n2"}}
	der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// csrWithKey puts another public key into a request: only its signature is wrong then.
func csrWithKey(t *testing.T, spki []byte) []byte {
	t.Helper()
	type algorithm struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	type info struct {
		Version                  int
		Subject, Key, Attributes asn1.RawValue
	}
	raw := func(der ...byte) asn1.RawValue { return asn1.RawValue{FullBytes: der} }
	der, err := asn1.Marshal(struct {
		Info      info
		Algorithm algorithm
		Signature asn1.BitString
	}{
		Info: info{0, raw(0x30, 0), raw(spki...), raw(0xa0, 0)},
		Algorithm: algorithm{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11},
			Parameters: asn1.NullRawValue},
		Signature: asn1.BitString{Bytes: make([]byte, 256), BitLength: 2048},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificateRequest(der); err != nil {
		t.Fatal(err)
	}
	return der
}

func giantRSA(t *testing.T, bits uint) []byte {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	spki, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 1<<31 - 1})
	if err != nil {
		t.Fatal(err)
	}
	return csrWithKey(t, spki)
}

// The data of an outsider is checked in the order of the cost of the checks: size, kind of key, token, and only with a
// valid token a signature by a key of its choice.
func TestJoinsAreCheckedCheapestFirst(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		var verified atomic.Int64
		cl := clustertest.New(t, 1, func(c *cluster.Config) { cluster.CountCSRs(c, &verified) })
		tok := token(t, cl.Nodes[0].C)
		wrong := tok
		wrong.Secret = bytes.Repeat([]byte{1}, len(tok.Secret))
		unknown := tok
		unknown.ID = "nobody"
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		good := csrOf(t, key)
		spki, err := x509.MarshalPKIXPublicKey(other.Public())
		if err != nil {
			t.Fatal(err)
		}
		forged := csrWithKey(t, spki)
		const noToken, kind = "the token is unknown or has expired", "the key must be ECDSA P-256"
		cfg := joiner(cl, "n2")
		for _, c := range []struct {
			name     string
			token    cluster.Token
			csr      []byte
			want     string // "": let in
			verified int64
		}{
			{"an RSA key of 180 000 bits", unknown, giantRSA(t, 180_000), "it has more than 16384 bytes", 0},
			{"the same, and a token", tok, giantRSA(t, 180_000), "it has more than 16384 bytes", 0},
			{"an RSA key of 64 000 bits", unknown, giantRSA(t, 64_000), "must have at most 2048 bytes", 0},
			{"an RSA key of 8192 bits", unknown, giantRSA(t, 8192), kind, 0},
			{"the same, and a token", tok, giantRSA(t, 8192), kind, 0},
			{"P-384", tok, csrOf(t, wide), kind, 0},
			{"no request", tok, []byte("x"), "the certificate request", 0},
			{"an unknown token", unknown, good, noToken, 0},
			{"an unknown token and a wrong signature", unknown, forged, noToken, 0},
			{"a wrong secret", wrong, good, noToken, 0},
			{"a wrong secret and a wrong signature", wrong, forged, noToken, 0},
			{"a token and a wrong signature", tok, forged, "the certificate request: x509", 1},
			{"a token", tok, good, "", 1},
		} {
			verified.Store(0)
			err := cluster.AskToJoin(context.Background(), cfg, clustertest.Addr("n1"), c.token, c.csr)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			if n := verified.Load(); n != c.verified {
				t.Errorf("%s: %d signatures were verified, want %d", c.name, n, c.verified)
			}
		}
	})
}

// lineCount counts the lines of a log by message.
type lineCount struct {
	slog.Handler
	mu *sync.Mutex
	n  map[string]int
}

func (l lineCount) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n[r.Message]++
	return nil
}

func (l lineCount) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l lineCount) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l lineCount) WithGroup(string) slog.Handler                    { return l }

func (l lineCount) of(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n[message]
}

// A flood from one address costs the others nothing: neither a joiner, nor members that come back, nor the log.
func TestAFloodOfOutsiders(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		lines := lineCount{mu: &sync.Mutex{}, n: map[string]int{}}
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.Log = slog.New(lines) })
		leader := cl.Leader()
		addr := clustertest.Addr(leader.Name)
		tok := token(t, leader.C)
		bad := tok
		bad.ID = "nobody"
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		mallory := joiner(cl, "mallory")
		for range 50 {
			if err := cluster.AskToJoin(context.Background(), mallory, addr, bad, csrOf(t, key)); err == nil {
				t.Fatal("let in")
			}
		}
		if n := lines.of("a request to join was refused"); n != 1 {
			t.Errorf("50 refusals of one address are %d lines", n)
		}
		refused := 0
		for range peer.BurstConnections + 200 {
			conn, err := cl.Net.Dialer("mallory")(context.Background(), addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
				refused++
			}
			conn.Close()
		}
		if refused == 0 {
			t.Error("none of the connections was refused")
		}
		if n := lines.of("a connection of an outsider was refused"); n < 1 || n > lograte.Lines {
			t.Errorf("%d refused connections are %d lines", refused, n)
		}
		// Others are served meanwhile.
		back := cl.Followers()[0]
		back.Stop()
		back.Start()
		cl.WaitVoters(3)
		cl.Wait(func() error {
			_, err := cluster.Join(context.Background(), joiner(cl, "n9"), addr, tok)
			return err
		})
		if err := cl.Leader().Put("after the flood", "x"); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * lograte.Interval)
		if n := lines.of("a request to join was refused"); n != 2 {
			t.Errorf("50 refusals are %d lines in the end, want the first and the count", n)
		}
	})
}

// No more work is done for an outsider that hangs up while it waits to be admitted.
func TestHangingUpEndsAJoin(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		lines := lineCount{mu: &sync.Mutex{}, n: map[string]int{}}
		cl := clustertest.New(t, 2, func(c *cluster.Config) { c.Log, c.LeaderWait = slog.New(lines), time.Hour })
		one := cl.Nodes[0]
		tok := token(t, one.C)
		cl.Net.Cut([]string{"n1"}, []string{"n2"}) // there is no majority to let anybody in
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ctx, hangUp := context.WithTimeout(context.Background(), 10*time.Second)
		defer hangUp()
		if err := cluster.AskToJoin(ctx, joiner(cl, "n9"), clustertest.Addr("n1"), tok, csrOf(t, key)); err == nil {
			t.Fatal("let in without a majority")
		}
		time.Sleep(10 * time.Second)
		if n := lines.of("a request to join was refused"); n != 1 {
			t.Errorf("ten seconds after it has hung up its request is under way")
		}
		cl.Net.Heal()
		cl.WaitVoters(2)
	})
}

// A handshake that is too large is cut off before its certificates are parsed.
func TestHandshakesAreBounded(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		token(t, cl.Nodes[0].C)
		id := cl.Nodes[0].C.ID()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n1"}, NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		chain := tls.Certificate{PrivateKey: key}
		for range 40_000 / len(der) {
			chain.Certificate = append(chain.Certificate, der)
		}
		raw, err := cl.Net.Dialer("mallory")(context.Background(), clustertest.Addr("n1"))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		conn := tls.Client(raw, &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"casemate-peer/1/" + id},
			Certificates: []tls.Certificate{chain},
		})
		conn.SetDeadline(time.Now().Add(time.Minute))
		start := time.Now()
		if err = conn.Handshake(); err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if err == nil || strings.Contains(err.Error(), "remote error") || time.Since(start) > 20*time.Second {
			t.Errorf("got %v after %s, want a connection that was cut", err, time.Since(start))
		}
	})
}

// What a client of one node has chosen reaches the handler of another and nothing else.
func TestPassedRequestsReachTheHandlerOnly(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		var got atomic.Pointer[string]
		cl := clustertest.New(t, 2, func(c *cluster.Config) {
			c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := fmt.Sprintf("%s %s?%s from %s", r.Method, r.URL.Path, r.URL.RawQuery, peer.From(r))
				got.Store(&s)
				io.WriteString(w, s)
			})
		})
		one, two := cl.Nodes[0], cl.Nodes[1]
		for _, c := range []struct {
			method, path string
			ok           bool
		}{
			{"GET", "/v2/x/blobs/uploads/1", true},
			{"POST", "/v2/x/blobs/uploads/", true},
			{"POST", "/member", true}, // the handler's, not the node's
			{"GET", "/beat", true},
			{"GET", "/", true},
			{"GET", "/v2/x/blobs/uploads/../../../../../member", false},
			{"POST", "/../member", false},
			{"POST", "/../propose", false},
			{"PUT", "/..", false},
			{"PUT", "/v2//../../blob", false},
			{"GET", "//member", false},
			{"GET", "/./member", false},
			{"GET", "/a/.", false},
		} {
			got.Store(nil)
			req, err := http.NewRequest(c.method, "http://"+two.Name+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.URL.Path, req.URL.RawQuery = c.path, "a=b"
			res, err := one.C.RoundTrip(req)
			if !c.ok {
				if !errors.Is(err, fs.ErrInvalid) || got.Load() != nil {
					t.Errorf("%s %s: %v, it is sent", c.method, c.path, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s %s: %v", c.method, c.path, err)
				continue
			}
			text, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if want := fmt.Sprintf("%s %s?a=b from %s", c.method, c.path, one.Name); string(text) != want {
				t.Errorf("%s %s: %d %q, want %q", c.method, c.path, res.StatusCode, text, want)
			}
		}
	})
}
