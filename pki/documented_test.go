package pki

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The extensions that the operator's manual tells an enterprise to sign are sufficient, and every verifier accepts
// them.
func TestDocumentedExtensions(t *testing.T) {
	if find("openssl") == "" {
		t.Skip("needs openssl")
	}
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(page), "```ini\n")
	block, _, end := strings.Cut(block, "```")
	if !ok || !end {
		t.Fatal("the manual has no such block")
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("ext"), []byte(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"}
	for _, args := range [][]string{
		append([]string{
			"req", "-x509", "-days", "30", "-subj", "/CN=Bank Root", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
			"-keyout", in("root.key"), "-out", in("root.pem"),
		}, key...),
		append([]string{"req", "-subj", "/CN=Bank Platform CA", "-keyout", in("mid.key"), "-out", in("mid.csr")},
			key...),
		{
			"x509", "-req", "-days", "20", "-in", in("mid.csr"), "-CA", in("root.pem"), "-CAkey", in("root.key"),
			"-CAcreateserial",
			"-extfile", in("ext"), "-out", in("mid.pem"),
		},
	} {
		if err := run("openssl", args...); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(in(name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	h := build(t, nil)
	h.constrain("registry.k8s.io", "dl.k8s.io", "docker.io")
	chain := append(read("mid.pem"), read("root.pem")...)
	if err := h.ca.UseEnterprise(t.Context(), chain, read("mid.key")); err != nil {
		t.Fatal(err)
	}
	if s := h.ca.Shape(); s.Name != ShapeKept || len(s.Missing) != 0 {
		t.Errorf("shape %+v", s)
	}
	block2, _ := pem.Decode(read("root.pem"))
	root, err := x509.ParseCertificate(block2.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"casemate.internal", "registry.k8s.io", "dl.k8s.io", "docker.io"} {
		sent, key := h.sent(name)
		t.Run(name, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				if err := v.verify(t, []*x509.Certificate{root}, sent, key, name); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
