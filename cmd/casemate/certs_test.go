package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A request may be PEM or DER; what is neither is said before the daemon is asked.
func TestReadRequest(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{DNSNames: []string{"harbor.bank.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	for name, c := range map[string]struct {
		data []byte
		ok   bool
	}{
		"PEM":                   {text, true},
		"PEM with words before": {append([]byte("Certificate Request:\n"), text...), true},
		"DER":                   {der, true},
		"cut off DER":           {der[:len(der)-1], false},
		"text":                  {[]byte("harbor.bank.example\n"), false},
		"nothing":               {nil, false},
	} {
		file := filepath.Join(t.TempDir(), "req")
		if err := os.WriteFile(file, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readRequest(file)
		switch {
		case c.ok && (err != nil || !bytes.Contains(got, text)):
			t.Errorf("%s: %v\n%s", name, err, got)
		case c.ok && len(csrNames(got)) != 1:
			t.Errorf("%s: names %q", name, csrNames(got))
		case !c.ok && (err == nil || !strings.Contains(err.Error(), "neither PEM nor DER")):
			t.Errorf("%s: %v", name, err)
		}
	}
}
