package appliance

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"casemate/appliance/setup"
)

// A strict client's verification of a node's chain: it fetches the revocation lists from the URLs in the certificates
// and checks the whole chain.
func TestAClientChecksTheWholeChain(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("needs openssl")
	}
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	conn, err := tls.Dial("tcp", n.Addrs().HTTPS[0].String(),
		&tls.Config{ServerName: "registry.k8s.io",
			RootCAs: n.client.Transport.(*http.Transport).TLSClientConfig.RootCAs})
	if err != nil {
		t.Fatal(err)
	}
	chain := conn.ConnectionState().PeerCertificates
	conn.Close()
	var lists, between []byte
	for i, c := range chain {
		if len(c.CRLDistributionPoints) != 1 {
			t.Fatalf("%s names the lists %v", c.Subject, c.CRLDistributionPoints)
		}
		resp, body := n.do("GET", c.CRLDistributionPoints[0], nil)
		if _, err := x509.ParseRevocationList([]byte(body)); err != nil ||
			resp.Header.Get("Content-Type") != "application/pkix-crl" {
			t.Fatalf("%s: %s: %v", c.CRLDistributionPoints[0], resp.Status, err)
		}
		lists = append(lists, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte(body)})...)
		if i > 0 {
			between = append(between, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	out, err := exec.CommandContext(t.Context(), "openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile",
		file("roots.pem", n.Roots()),
		"-CRLfile", file("lists.pem", lists), "-untrusted", file("between.pem", between),
		file("leaf.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0].Raw}))).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// Additional requests that nodes make are not misses.
func TestQuestionsBesideAreNoMisses(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	r := n.resolver()
	for _, name := range []string{"x.localhost.", "a.b.localhost."} {
		if got, err := r.LookupHost(t.Context(), name); err != nil || len(got) != 2 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	r.LookupSRV(t.Context(), "http", "tcp", "registry.k8s.io.")
	r.LookupAddr(t.Context(), "10.9.8.7")
	r.LookupHost(t.Context(), "registry.k8s.io.default.svc.cluster.local.")
	r.LookupHost(t.Context(), "wanted.example.")
	for {
		list, err := n.book.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Name != "wanted.example" {
				t.Errorf("%s %s is a miss", e.Kind, e.Name)
			}
		}
		if len(list) > 0 || t.Failed() {
			return
		}
		runtime.Gosched()
	}
}
