package cluster_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/blob/blobtest"
	"casemate/cluster/clustertest"
)

// joiner is the config of a node that is not there yet.
func joiner(cl *clustertest.Cluster, name string) cluster.Config {
	return cluster.Config{Dir: "/data/casemate", Node: name, FS: blobtest.New(99),
		PeerAddrs: []string{clustertest.Addr(name)}, Dial: cl.Net.Dialer(name)}
}

func token(t *testing.T, c *cluster.Cluster) cluster.Token {
	t.Helper()
	tok, err := c.CreateToken(context.Background(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	again, err := cluster.ParseToken(tok.String())
	if err != nil || again.String() != tok.String() {
		t.Fatalf("token %s: %v", tok, err)
	}
	return again
}

// What a token is good for: one node, for its time, at its own cluster.
func TestTokens(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		var ahead atomic.Int64
		cl := clustertest.New(t, 1, func(c *cluster.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		})
		one := cl.Nodes[0]
		addr := clustertest.Addr("n1")
		join := func(cfg cluster.Config, tok cluster.Token) error {
			_, err := cluster.Join(context.Background(), cfg, addr, tok)
			return err
		}
		refused := func(err error, want string) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("refused with %v, want %q", err, want)
			}
		}
		tok := token(t, one.C)
		var listed []byte
		for name, info := range one.C.Tree().Walk("cluster/tokens", "") {
			if info.IsDir() {
				continue
			}
			data, err := one.C.Tree().ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			listed = append(listed, data...)
		}
		if len(listed) == 0 || bytes.Contains(listed, tok.Secret) ||
			strings.Contains(string(listed), strings.Split(tok.String(), ".")[2]) {
			t.Errorf("the tree keeps the secret, or nothing: %s", listed)
		}
		// The same node with the same key may use it again: an answer can be lost.
		cfg := joiner(cl, "n2")
		if err := join(cfg, tok); err != nil {
			t.Fatal(err)
		}
		refused(join(cfg, tok), "already initialised")
		half := cfg.FS.(*blobtest.FS)
		if err := half.Remove("/data/casemate/format"); err != nil {
			t.Fatal(err)
		}
		// as a crash before the end leaves it: O_RDWR|O_CREATE
		if f, err := half.OpenFile("/data/casemate/incomplete", 0o102, 0o600); err == nil {
			f.Close()
		}
		if err := join(cfg, tok); err != nil {
			t.Errorf("the same token again, after a join that was cut short: %v", err)
		}
		// Another one, or another key under that name, may not.
		refused(join(joiner(cl, "n3"), tok), "used by node n2")
		refused(join(joiner(cl, "n2"), tok), "used by node n2")
		refused(join(joiner(cl, "n2"), token(t, one.C)), "there is already a node named n2")
		refused(join(joiner(cl, "n1"), token(t, one.C)), "there is already a node named n1")
		// A wrong secret, an unknown id, an expired one.
		wrong := token(t, one.C)
		wrong.Secret = bytes.Repeat([]byte{1}, len(wrong.Secret))
		refused(join(joiner(cl, "n4"), wrong), "token is unknown or has expired")
		unknown := token(t, one.C)
		unknown.ID = "nobody"
		refused(join(joiner(cl, "n4"), unknown), "token is unknown or has expired")
		late := token(t, one.C)
		ahead.Store(int64(2 * time.Hour))
		refused(join(joiner(cl, "n4"), late), "token is unknown or has expired")
		ahead.Store(0)
		// Another cluster's token is noticed before anything is said.
		other := clustertest.New(t, 1, nil)
		refused(join(joiner(cl, "n4"), token(t, other.Nodes[0].C)), "the server's CA is not the one in the token")
		for _, s := range []string{"", "x", "casemate1.a.b.c", tok.String() + "x",
			strings.Replace(tok.String(), "casemate1", "casemate2", 1), "casemate1../" + tok.String()[10:]} {
			if _, err := cluster.ParseToken(s); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("ParseToken(%q): %v", s, err)
			}
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add("casemate1.a.b.c")
	f.Add(cluster.Token{ID: "abc", Secret: make([]byte, 32), Root: make([]byte, 32)}.String())
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := cluster.ParseToken(s)
		if err != nil {
			return
		}
		if again, err := cluster.ParseToken(tok.String()); err != nil || again.String() != tok.String() {
			t.Errorf("%q: %v", s, err)
		}
	})
}

// Nothing on the peer port answers an outsider but the call to join: not without a certificate, not with a foreign one,
// not with one of another cluster.
func TestOutsiders(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		other := clustertest.New(t, 1, nil)
		addr := clustertest.Addr("n1")
		token(t, cl.Nodes[0].C) // it has its certificate now
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n1"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		forged := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
		id := cl.Nodes[0].C.ID()
		dial := func(proto string, certs []tls.Certificate) (*tls.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			raw, err := cl.Net.Dialer("mallory")(ctx, addr)
			if err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto},
				Certificates: certs})
			if proto == "" {
				conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: certs})
			}
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			err = conn.HandshakeContext(ctx)
			if err == nil {
				// In TLS 1.3 the client's certificate is judged after its handshake is over: the first read says so.
				fmt.Fprintf(conn, "GET /beat HTTP/1.1\r\nHost: n1\r\n\r\n")
				_, err = conn.Read(make([]byte, 1))
			}
			return conn, err
		}
		for _, proto := range []string{"", "h2", "http/1.1", "casemate-raft/1/" + id, "casemate-peer/1/" + id,
			"casemate-peer/1/" + other.Nodes[0].C.ID(), "casemate-peer/1/"} {
			for name, certs := range map[string][]tls.Certificate{"no certificate": nil, "a forged one": forged} {
				conn, err := dial(proto, certs)
				conn.Close()
				if err == nil {
					t.Errorf("%q with %s: answered", proto, name)
				}
			}
		}
		// Of the join protocol only POST /join answers, and that says no.
		conn, err := dial("casemate-join/1", nil)
		conn.Close()
		if err != nil {
			t.Errorf("the join protocol is there for outsiders: %v", err)
		}
		for _, what := range []struct{ method, path, body string }{
			{"GET", "/join", ""}, {"POST", "/propose", "x"}, {"GET", "/beat", ""}, {
				"POST", "/member", `{"op":"remove","node":"n1"}`}, {
				"GET", "/blob/sha256:" + strings.Repeat("0", 64), ""},
			{"POST", "/join", "{"}, {"POST", "/join", `{}`}, {
				"POST", "/join", `{"node":"n9","addr":"n9:1","token":"../ca"}`}, {
				"POST", "/join", strings.Repeat("x", 1<<20)},
		} {
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					raw, err := cl.Net.Dialer("mallory")(ctx, addr)
					if err != nil {
						return nil, err
					}
					return struct{ net.Conn }{tls.Client(raw,
						&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"casemate-join/1"}})}, nil
				}}}
			req, err := http.NewRequest(what.method, "http://n1"+what.path, strings.NewReader(what.body))
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				continue
			}
			text, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if !(res.StatusCode == http.StatusNotFound && len(text) < 2) &&
				!strings.Contains(string(text), `"error":"`) {
				t.Errorf("%s %s: %d %.200s", what.method, what.path, res.StatusCode, text)
			}
			if strings.Contains(string(text), `"keys":"`) {
				t.Errorf("%s %s: keys are given away", what.method, what.path)
			}
		}
		if n := len(cl.Nodes[0].C.Members()); n != 1 {
			t.Errorf("there are %d members", n)
		}
	})
}

// Each node renews its own certificate in time. A node whose certificate expired while it was down comes back
// nevertheless.
func TestCertificates(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		var ahead atomic.Int64
		cl := clustertest.New(t, 3, func(c *cluster.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		})
		ends := func(n *clustertest.Node) time.Time {
			raw, err := cl.Net.Dialer("mallory")(context.Background(), clustertest.Addr(n.Name))
			if err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"casemate-join/1"}})
			defer conn.Close()
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			return conn.ConnectionState().PeerCertificates[0].NotAfter
		}
		down := cl.Followers()[0]
		before := ends(down)
		down.Stop()
		ahead.Store(int64(200 * 24 * time.Hour))
		for _, n := range cl.Nodes {
			if n != down {
				cl.Wait(func() error {
					if got := ends(n); !got.After(before.Add(100 * 24 * time.Hour)) {
						return fmt.Errorf("%s: its certificate ends on %s", n.Name, got)
					}
					return nil
				})
			}
		}
		if err := cl.Leader().Put("while it was down", "x"); err != nil {
			t.Fatal(err)
		}
		down.Start()
		cl.WaitVoters(3)
		if err := down.Put("after half a year", "y"); err != nil {
			t.Error(err)
		}
		cl.Wait(func() error {
			if got := ends(down); !got.After(before.Add(100 * 24 * time.Hour)) {
				return fmt.Errorf("its certificate ends on %s", got)
			}
			return nil
		})
	})
}

// A node that was down while another was removed, and while others joined, finds its way back: it knows neither the new
// CA nor the new nodes nor the new key.
func TestBackAfterMuch(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		away := cl.Followers()[0]
		gone := cl.Followers()[1]
		away.Stop()
		n4 := cl.Join() // so that there is a majority without the two
		cl.Wait(func() error {
			for _, m := range cl.Leader().C.Members() {
				if m.Node == n4.Name && m.Role == "learner" {
					return errors.New("it does not vote yet")
				}
			}
			return nil
		})
		cl.Wait(func() error { return cl.Leader().C.RemoveMember(context.Background(), gone.Name, true) })
		cl.Wait(func() error { // it is told, and stops by itself
			select {
			case <-gone.C.Done():
				return nil
			default:
				return errors.New("the removed node goes on")
			}
		})
		gone.PowerCut()
		// Let the one lead that it has never heard of.
		secret, err := n4.C.Seal([]byte("new secret"))
		if err != nil {
			t.Fatal(err)
		}
		if err := n4.Put("sealed", string(secret)); err != nil {
			t.Fatal(err)
		}
		away.Start()
		cl.WaitVoters(3)
		var data []byte
		cl.Wait(func() error { data, err = away.C.Tree().ReadFile("sealed"); return err })
		if plain, err := away.C.Unseal(data); err != nil || string(plain) != "new secret" {
			t.Errorf("%q, %v", plain, err)
		}
	})
}

// One host that opens connections and says nothing does not keep others out.
func TestSilentOutsiders(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		tok := token(t, cl.Nodes[0].C)
		var held []net.Conn
		defer func() {
			for _, c := range held {
				c.Close()
			}
		}()
		var closed atomic.Int64
		var reading sync.WaitGroup
		for range 200 {
			conn, err := cl.Net.Dialer("mallory")(context.Background(), clustertest.Addr("n1"))
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
			conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			reading.Go(func() {
				if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
					closed.Add(1)
				}
			})
		}
		reading.Wait()
		if n := closed.Load(); n < 50 {
			t.Errorf("only %d of 200 silent connections from one address were closed at once", n)
		}
		for _, c := range held {
			c.Close()
		}
		cl.Wait(func() error {
			cfg := joiner(cl, "n2")
			_, err := cluster.Join(context.Background(), cfg, clustertest.Addr("n1"), tok)
			return err
		})
	})
}
