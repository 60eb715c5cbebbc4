package signing

import (
	"crypto/ed25519"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadKeys(t *testing.T) {
	key, err := ReadPrivateKey([]byte(opensslPrivate))
	if err != nil || KeyName(key.Public().(ed25519.PublicKey)) != opensslName {
		t.Errorf("private: %v", err)
	}
	for _, s := range []string{opensslPublic, "# a comment\n" + opensslPublic, opensslName, opensslName + "\n"} {
		if pub, err := ReadPublicKey([]byte(s)); err != nil || KeyName(pub) != opensslName {
			t.Errorf("public %q: %v", s, err)
		}
	}
	for in, says := range map[string]string{
		"":            "not a PEM",
		opensslPublic: "this is the public key",
		opensslP256:   "want an ed25519 key",
		strings.Replace(opensslPrivate, "PRIVATE", "ENCRYPTED PRIVATE", 2): "encrypted",
		strings.Replace(opensslPrivate, "PRIVATE", "RSA PRIVATE", 2):       "RSA PRIVATE KEY",
		strings.Replace(opensslPrivate, "MC4CAQ", "MC4CAA", 1):             "signing key",
	} {
		if _, err := ReadPrivateKey([]byte(in)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("private key %q: %v", in, err)
		}
	}
	for in, says := range map[string]string{
		"":              "neither",
		opensslName[1:]: "neither",
		"AAAA":          "neither",
		opensslPrivate:  "this is the private key",
		strings.Replace(opensslPublic, "PUBLIC KEY", "CERTIFICATE", 2):    "CERTIFICATE",
		strings.Replace(opensslPublic, "MCowBQYDK2Vw", "MCowBQYDK2Vv", 1): "public key",
	} {
		if _, err := ReadPublicKey([]byte(in)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("public key %q: %v", in, err)
		}
	}
}

func TestWriteKeyPair(t *testing.T) {
	base := filepath.Join(t.TempDir(), "office")
	private, public, err := WriteKeyPair(base)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string, mode os.FileMode) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
		return b
	}
	key, err := ReadPrivateKey(read(private, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ReadPublicKey(read(public, 0o644))
	if err != nil || !key.Public().(ed25519.PublicKey).Equal(pub) {
		t.Errorf("the two are no pair: %v", err)
	}
	if out, err := exec.Command("openssl", "pkey", "-in", private, "-noout").CombinedOutput(); err != nil &&
		!strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("openssl does not read it: %s", out)
	}
	before := string(read(private, 0o600))
	if _, _, err := WriteKeyPair(base); !errors.Is(err, os.ErrExist) || string(read(private, 0o600)) != before {
		t.Errorf("a second pair of the same name: %v", err)
	}
	// With only the public half in the way, no new private key may stay behind.
	if err := os.Remove(private); err != nil {
		t.Fatal(err)
	}
	if _, _, err := WriteKeyPair(base); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a public key: %v", err)
	}
	if _, err := os.Stat(private); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a pair is left: %v", err)
	}
}

// Made by "openssl genpkey -algorithm ed25519" and "openssl pkey -pubout"; the last one is a P-256 key.
const (
	opensslPrivate = "-----BEGIN PRIVATE " +
		"KEY-----\nMC4CAQAwBQYDK2VwBCIEIO7F6R/9Wg6H8+ffl6BxyhKYUcONU8iRqztzRk//fOzy\n-----END PRIVATE KEY-----\n"
	opensslPublic = "-----BEGIN PUBLIC " +
		"KEY-----\nMCowBQYDK2VwAyEAlL6oGU1Q4RbYcmAAmbrc6E0P8P+zhtc5ExeSvPADenY=\n-----END PUBLIC KEY-----\n"
	opensslName = "lL6oGU1Q4RbYcmAAmbrc6E0P8P+zhtc5ExeSvPADenY="
	opensslP256 = "-----BEGIN PRIVATE " +
		"KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgrNEmJrOOx8yHaUSo\nwGPszW/" +
		"pZWvmi6zmBzIxlfVe76OhRANCAASAvOJCwyNhJLbHajfL+e6k8iYDoovJ\nnHkfCQtSgz7B779beYPYWjNOrIdfGId6/" +
		"vIPMG4tosTKloXO4pAevu9t\n-----END PRIVATE KEY-----\n"
)
