package appliance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"casemate/appliance/setup"
)

// enterpriseEnding is a value for pki.issuer: a root, and a CA certificate below it that ends after this time.
func enterpriseEnding(t *testing.T, life time.Duration) string {
	t.Helper()
	var text []byte
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for i, cn := range []string{"Bank Root", "Bank Platform CA"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: cn}, BasicConstraintsValid: true,
			IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(life * time.Duration(10-9*i)),
		}
		if parent == nil {
			parent, parentKey = tmpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		parentKey = key
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...))
}

// The end of an enterprise's certificate is a warning for 30 days, and then a problem for status and readyz.
func TestEnterpriseEnds(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	var ahead atomic.Int64
	cfg := testConfig(t, filepath.Join(t.TempDir(), "data"))
	initNode(t, cfg, setup.InitOptions{})
	n := serveNodeWith(t, cfg, Options{Log: testLog(t),
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	n.must("PUT", "settings/pki.issuer", map[string]string{"value": enterpriseEnding(t, 100*day)}, nil)
	for _, c := range []struct {
		at               time.Duration
		problem, warning string
	}{
		{0, "", ""},
		{69 * day, "", ""},
		{71 * day, "", "CN=Bank Platform CA ends on"},
		{101 * day, "CN=Bank Platform CA ended on", ""},
	} {
		ahead.Store(int64(c.at))
		var s struct {
			Serving            bool
			Problems, Warnings []string
		}
		n.must("GET", "status", nil, &s)
		about := func(list []string) string {
			var found []string
			for _, sentence := range list {
				if strings.Contains(sentence, "Bank Platform CA") {
					found = append(found, sentence)
				}
			}
			return strings.Join(found, "\n")
		}
		for _, of := range []struct{ got, want string }{
			{about(s.Problems), c.problem}, {about(s.Warnings), c.warning},
		} {
			if !strings.Contains(of.got, of.want) || (of.want == "") != (of.got == "") {
				t.Errorf("after %s: %q, want %q", c.at, of.got, of.want)
			}
			if of.want != "" && !strings.Contains(of.got, "casemate config set pki.issuer") {
				t.Errorf("after %s: %q has no cure", c.at, of.got)
			}
		}
		ended := c.problem != ""
		resp, body := n.do(http.MethodGet, "http://casemate.internal/readyz", nil)
		if ready := resp.StatusCode == http.StatusOK; ready == ended || s.Serving == ended ||
			ended && !strings.Contains(body, "CN=Bank Platform CA ended") {
			t.Errorf("after %s: readyz %s %q, serving %v", c.at, resp.Status, body, s.Serving)
		}
	}
}
