package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/parts"
	"casemate/appliance/setup"
	"casemate/bundle/format"
	"casemate/cluster/waittest"
)

// threeNodes returns a cluster whose nodes all see each other.
func threeNodes(t *testing.T) (nodes []*node) {
	for i := range 3 {
		cfg := testConfig(t, t.TempDir())
		cfg.Node = fmt.Sprintf("n%d", i+1)
		here := netip.AddrFrom4([4]byte{127, 0, 0, byte(11 + i)})
		l, err := net.Listen("tcp", net.JoinHostPort(here.String(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		cfg.Advertise = []netip.Addr{here}
		cfg.Listen.Peer = []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}
		if i == 0 {
			initNode(t, cfg, setup.InitOptions{})
		} else {
			var token struct{ Token, Addr string }
			nodes[0].must("POST", "tokens", map[string]string{"ttl": "1h"}, &token)
			if _, err := setup.Join(t.Context(), cfg, setup.JoinOptions{Addr: token.Addr, Token: token.Token,
				Wait: true, Log: testLog(t)}); err != nil {
				t.Fatal(err)
			}
		}
		nodes = append(nodes, serveNode(t, cfg))
	}
	for _, n := range nodes {
		waittest.Until(t, n.cfg.Node+" sees all", func() bool {
			up := 0
			for _, m := range n.cluster.Members() {
				if m.Up && m.Role != "learner" {
					up++
				}
			}
			return up == len(nodes)
		})
	}
	return nodes
}

// remote sends a request to the admin API of a node over https, with an API key.
func (n *node) remote(key, method, path string, body []byte, edits ...func(*http.Request)) (int, []byte) {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), method,
		"https://"+n.cfg.Node+".casemate.internal/v1/"+path, bytes.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	for _, edit := range edits {
		edit(r)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.Roots())
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", n.Addrs().HTTPS[0].String())
		}}}
	resp, err := c.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, data
}

// account adds an account, and returns its key as soon as all nodes know it.
func account(t *testing.T, nodes []*node, name, role string) string {
	t.Helper()
	var key struct{ Key string }
	nodes[0].must("POST", "apikeys", map[string]any{"name": name, "roles": []map[string]string{{"role": role}}}, &key)
	for _, n := range nodes {
		waittest.Until(t, n.cfg.Node+" knows "+name, func() bool {
			status, _ := n.remote(key.Key, "GET", "whoami", nil)
			return status == http.StatusOK
		})
	}
	return key.Key
}

// An upload that one bastion holds goes on over any of them, for its owner alone; without its holder there is one
// sentence that says so.
func TestAnUploadGoesOnOverAnyBastion(t *testing.T) {
	t.Parallel()
	nodes := threeNodes(t)
	ada, eve, rob := account(t, nodes, "ada", "importer"), account(t, nodes, "eve", "importer"),
		account(t, nodes, "rob", "reader")
	s := newStick(t)
	const images = 12
	for i := range images {
		s.image(fmt.Sprintf("registry.k8s.io/app%d:v1", i), noise(uint64(i), 1<<20))
	}
	paths := s.write("a.tar", format.WriteOptions{Split: 5 << 20})
	files := contents(t, paths)
	begin := func(n *node, q handover.Request) (state parts.State) {
		t.Helper()
		q.Inputs = inputs(paths, files)
		body, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		status, data := n.remote(ada, "POST", "imports/parts", body)
		if err := json.Unmarshal(data, &state); err != nil || status != http.StatusOK ||
			parts.Holder(state.ID) != n.cfg.Node {
			t.Fatalf("%d %s", status, data)
		}
		return state
	}
	// send sends the next part over a node.
	send := func(n *node, state parts.State, key string, edits ...func(*http.Request)) (int, []byte) {
		t.Helper()
		path := "imports/parts/" + state.ID
		if state.File < 0 {
			return n.remote(key, "GET", path, nil, edits...)
		}
		data := files[state.File][min(int(state.Offset), len(files[state.File])):]
		part := data[:min(len(data), state.Most)]
		sum := sha256.Sum256(part)
		path += fmt.Sprintf("?file=%d&offset=%d&last=%v", state.File, state.Offset, len(part) == len(data))
		digest := func(r *http.Request) {
			r.Header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
		}
		return n.remote(key, "PATCH", path, part, append([]func(*http.Request){digest}, edits...)...)
	}
	refused := func(what string, status int, sentence string, code int, data []byte) {
		t.Helper()
		var e struct{ Error string }
		if err := json.Unmarshal(data, &e); err != nil || code != status || !strings.Contains(e.Error, sentence) {
			t.Errorf("%s: %d %s", what, code, data)
		}
	}

	state := begin(nodes[0], handover.Request{})
	for i, n := range nodes {
		code, data := send(n, state, eve)
		refused("another account over "+n.cfg.Node, 404, "there is no such import", code, data)
		code, data = send(n, state, eve, func(r *http.Request) {
			r.Header.Set("Casemate-Account", "key%2Fada")
			r.Header.Set("Casemate-Passed", "n1")
		})
		refused("another account with the headers of a bastion", 404, "there is no such import", code, data)
		code, data = send(n, state, rob)
		refused("an account that may not import", 403, "may not import", code, data)
		wrong := func(r *http.Request) {
			r.Header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(make([]byte, 32))+":")
		}
		if state.File >= 0 {
			code, data = send(n, state, ada, wrong)
			refused("a wrong sum", 503, "send it again", code, data)
			code, data = n.remote(ada, "PATCH", "imports/parts/"+state.ID+"?file=0&offset=x", nil)
			refused("no offset", 400, "numbers", code, data)
		}
		var list []parts.Listed
		code, data = nodes[2-i].remote(ada, "GET", "imports/parts", nil)
		if err := json.Unmarshal(data, &list); err != nil || len(list) != 1 || list[0].ID != state.ID {
			t.Errorf("%s lists %d %s", nodes[2-i].cfg.Node, code, data)
		}
		code, data = nodes[i].remote(eve, "GET", "imports/parts", nil)
		if strings.TrimSpace(string(data)) != "[]" {
			t.Errorf("another account is shown %d %s", code, data)
		}
	}
	for i := 0; !state.Finished; i++ {
		code, data := send(nodes[i%3], state, ada)
		switch {
		case code == http.StatusConflict: // what was wanted ahead is stored already
			state.File = -1
		case code != http.StatusOK:
			t.Fatalf("over %s: %d %s", nodes[i%3].cfg.Node, code, data)
		default:
			state = parts.State{}
			if err := json.Unmarshal(data, &state); err != nil {
				t.Fatal(err)
			}
		}
	}
	var res content.Result
	if err := json.Unmarshal(state.Result, &res); err != nil || res.State != content.Imported || res.New != images ||
		res.Maker != "key/ada" {
		t.Errorf("%+v, %v", state, err)
	}
	if code, data := nodes[1].remote(ada, "DELETE", "imports/parts/"+state.ID, nil); code != http.StatusNoContent {
		t.Errorf("ended over another bastion: %d %s", code, data)
	}
	code, data := nodes[2].remote(ada, "GET", "imports/parts/"+state.ID, nil)
	refused("after its end", 410, "was ended", code, data)
	for _, id := range []string{"abc-n9", "abc-", "abc", "abc-n2.evil.example:80", "abc-%2e%2e"} {
		code, data := nodes[0].remote(ada, "GET", "imports/parts/"+id, nil)
		refused("the ID "+id, 404, "there is no", code, data)
	}

	// The holder is down.
	state = begin(nodes[2], handover.Request{Name: "again"})
	nodes[2].stop()
	waittest.Until(t, "n1 knows that n3 is down", func() bool { return !nodes[0].cluster.Up("n3") })
	code, data = send(nodes[0], state, ada)
	refused("without its holder", 503, "the bastion n3, which holds this upload, does not answer", code, data)
	code, data = nodes[0].remote(ada, "GET", "imports/parts", nil)
	if code != http.StatusOK || strings.TrimSpace(string(data)) != "[]" {
		t.Errorf("the list without a bastion: %d %s", code, data)
	}
}
