package openpgp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

var now = time.Date(2025, 6, 15, 12, 0, 0, 0, time.UTC)

func at(t time.Time) *packet.Config {
	return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return t }}
}

// entity makes a key a year ago, which expires after a lifetime, if that is not 0.
func entity(t testing.TB, name string, lifetime time.Duration) *openpgp.Entity {
	t.Helper()
	c := at(now.AddDate(-1, 0, 0))
	c.KeyLifetimeSecs = uint32(lifetime / time.Second)
	e, err := openpgp.NewEntity(name, "", name+"@example.org", c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func binary(t testing.TB, list ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, e := range list {
		if err := e.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func armored(t testing.TB, kind string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, kind, nil)
	if err == nil {
		_, err = w.Write(b)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}

func ring(t testing.TB, list ...*openpgp.Entity) *Keyring {
	t.Helper()
	k, err := ReadKeyring(binary(t, list...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, text string, c *packet.Config, by ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, e := range by {
		if err := openpgp.DetachSign(&b, []*openpgp.Entity{e}, strings.NewReader(text), c); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestVerify(t *testing.T) {
	good, other, late := entity(t, "good", 0), entity(t, "other", 0), entity(t, "late", 24*time.Hour)
	revoked := entity(t, "revoked", 0)
	whenRevoked := at(now.AddDate(0, -1, 0))
	sub := entity(t, "sub", 0)
	if err := sub.AddSigningSubkey(at(now.AddDate(-1, 0, 0))); err != nil {
		t.Fatal(err)
	}
	const text = "the text\n"
	week := at(now.AddDate(0, 0, -7))
	beforeRevocation := sign(t, text, week, revoked)
	if err := revoked.Revoke(packet.KeyCompromised, "lost", whenRevoked); err != nil {
		t.Fatal(err)
	}
	shortLived := at(now.AddDate(0, 0, -7))
	shortLived.SigLifetimeSecs = 3600
	weak := at(now.AddDate(0, 0, -7))
	weak.DefaultHash = crypto.SHA1
	weak.RejectMessageHashAlgorithms = map[crypto.Hash]bool{}
	whenValid := at(now.AddDate(-1, 0, 0).Add(time.Hour))
	for _, x := range []struct {
		name string
		sig  []byte
		keys *Keyring
		by   string
		want string
	}{
		{name: "good", sig: sign(t, text, week, good), keys: ring(t, good), by: "good"},
		{name: "another key", sig: sign(t, text, week, other), keys: ring(t, good), want: "not among the given keys"},
		{name: "one of two is known", sig: sign(t, text, week, other, good), keys: ring(t, good), by: "good"},
		{name: "both are known", sig: sign(t, text, week, other, good), keys: ring(t, good, other), by: "other good"},
		{name: "one is of another text", sig: append(sign(t, "x", week, good), sign(t, text, week, other)...),
			keys: ring(t, good, other), by: "other"},
		{name: "of another text", sig: sign(t, "x", week, good), keys: ring(t, good), want: "is not good"},
		{name: "a subkey", sig: sign(t, text, week, sub), keys: ring(t, sub), by: "sub"},
		{name: "an expired key", sig: sign(t, text, whenValid, late), keys: ring(t, late), want: "has expired"},
		{name: "an expired key and a good one", sig: append(sign(t, text, whenValid, late), sign(t, text, week,
			good)...),
			keys: ring(t, late, good), by: "good"},
		{name: "a revoked key", sig: beforeRevocation, keys: ring(t, revoked), want: "was revoked"},
		{name: "an expired signature", sig: sign(t, text, shortLived, good), keys: ring(t, good),
			want: "the signature of key"},
		{name: "no keys", sig: sign(t, text, week, good), keys: &Keyring{}, want: "not among the given keys"},
		{name: "no signature", sig: nil, keys: ring(t, good), want: "it has no signature"},
		{name: "rubbish", sig: []byte("x\x00\xff"), keys: ring(t, good), want: ""},
		{name: "a key instead of a signature", sig: binary(t, good), keys: ring(t, good),
			want: "it is not one of a document"},
		{name: "armored", sig: armored(t, openpgp.SignatureType, sign(t, text, week, good)), keys: ring(t, good),
			by: "good"},
	} {
		t.Run(x.name, func(t *testing.T) {
			signers, err := Detached([]byte(text), x.sig, x.keys, now)
			var by []string
			for _, s := range signers {
				name, _, _ := strings.Cut(s.Name, " ")
				by = append(by, name)
			}
			switch {
			case x.by != "" && (err != nil || strings.Join(by, " ") != x.by):
				t.Errorf("got %v, %v, want %s", by, err, x.by)
			case x.by == "" && (err == nil || !strings.Contains(err.Error(), x.want)):
				t.Errorf("got %v, want %q", err, x.want)
			}
		})
	}
	t.Run("a weak hash", func(t *testing.T) {
		sig := &packet.Signature{Version: 4, SigType: packet.SigTypeBinary, PubKeyAlgo: good.PrimaryKey.PubKeyAlgo,
			Hash: crypto.SHA1, CreationTime: now.AddDate(0, 0, -7), IssuerKeyId: &good.PrimaryKey.KeyId}
		h := crypto.SHA1.New()
		h.Write([]byte(text))
		salt := false
		plain := &packet.Config{NonDeterministicSignaturesViaNotation: &salt}
		if err := sig.Sign(h, good.PrivateKey, plain); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := sig.Serialize(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := Detached([]byte(text), b.Bytes(), ring(t, good), now); err == nil ||
			!strings.Contains(err.Error(), "its hash SHA-1 is too weak") {
			t.Errorf("got %v", err)
		}
	})
}

func TestClearsigned(t *testing.T) {
	good := entity(t, "good", 0)
	const text = "Origin: x\n- dash\n\nSHA256:\n trailing \t \n"
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, good.PrivateKey, at(now))
	if err == nil {
		_, err = w.Write([]byte(text))
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	doc := b.String()
	got, by, err := Clearsigned([]byte(doc), ring(t, good), now)
	if err != nil || len(by) != 1 || string(got) != "Origin: x\n- dash\n\nSHA256:\n trailing\n" {
		t.Fatalf("got %q, %v, %v", got, by, err)
	}
	for name, bad := range map[string]string{
		"before":     "x\n" + doc,
		"behind":     doc + "\nx\n",
		"twice":      doc + doc,
		"changed":    strings.Replace(doc, "Origin: x", "Origin: y", 1),
		"truncated":  doc[:len(doc)/2],
		"not signed": text,
		"empty":      "",
	} {
		if _, _, err := Clearsigned([]byte(bad), ring(t, good), now); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReadKeyring(t *testing.T) {
	a, b := entity(t, "a", 0), entity(t, "b", 0)
	for name, x := range map[string]struct {
		text []byte
		keys int
		want string
	}{
		"binary":  {text: binary(t, a, b), keys: 2},
		"armored": {text: armored(t, openpgp.PublicKeyType, binary(t, a, b)), keys: 2},
		"two blocks": {text: append(armored(t, openpgp.PublicKeyType, binary(t, a)), armored(t,
			openpgp.PublicKeyType, binary(t, b))...), keys: 2},
		"text around": {text: []byte("key of x\n" + string(armored(t, openpgp.PublicKeyType, binary(t, a))) +
			"end\n"), keys: 1},
		"a broken block": {text: append(armored(t, openpgp.PublicKeyType, binary(t, a)),
			"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxx"...), keys: 1},
		"a signature":  {text: armored(t, openpgp.SignatureType, []byte("x")), want: "no public key"},
		"nothing":      {text: []byte(" \n"), want: "the keyring is empty"},
		"another text": {text: []byte("<html>"), want: "it has no public key"},
		"a keybox":     {text: []byte("\x00\x00\x00\x20\x01\x01\x00\x02KBXf\x00\x00"), want: "gpg --export"},
		"truncated":    {text: binary(t, a)[:20], want: "no public key can be read"},
		"a huge file":  {text: make([]byte, maxKeyring+1), want: "larger than"},
	} {
		k, err := ReadKeyring(x.text)
		if x.want == "" && (err != nil || len(k.keys) != x.keys) ||
			x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: got %v, %v, want %d keys, %q", name, k, err, x.keys, x.want)
		}
	}
}

func TestOnly(t *testing.T) {
	a, b := entity(t, "a", 0), entity(t, "b", 0)
	if err := b.AddSigningSubkey(at(now)); err != nil {
		t.Fatal(err)
	}
	k := ring(t, a, b)
	for print, want := range map[string]int{
		fmt.Sprintf("%X", a.PrimaryKey.Fingerprint):           1,
		fmt.Sprintf("%x!", a.PrimaryKey.Fingerprint):          1,
		fmt.Sprintf("%X", b.Subkeys[0].PublicKey.Fingerprint): 1,
		fmt.Sprintf("%X", a.PrimaryKey.Fingerprint)[24:]:      0,
		"": 0,
	} {
		if got := len(k.Only([]string{print}).keys); got != want {
			t.Errorf("%s: got %d keys, want %d", print, got, want)
		}
	}
	if got := len(Join(k, nil, k).keys); got != 4 {
		t.Errorf("joined: %d", got)
	}
}

// Whatever a document is, it is verified or refused, never by no key.
func FuzzVerify(f *testing.F) {
	good := entity(f, "good", 0)
	keys := ring(f, good)
	f.Add([]byte("text"), sign(f, "text", at(now), good))
	f.Add([]byte("text"), armored(f, openpgp.SignatureType, sign(f, "text", at(now), good)))
	f.Fuzz(func(t *testing.T, text, sig []byte) {
		if by, err := Detached(text, sig, keys, now); (err == nil) != (len(by) > 0) {
			t.Errorf("got %v, %v", by, err)
		}
		if by, err := Detached(text, sig, &Keyring{}, now); err == nil {
			t.Errorf("no key has signed it: %v", by)
		}
		if _, by, err := Clearsigned(text, keys, now); (err == nil) != (len(by) > 0) {
			t.Errorf("got %v, %v", by, err)
		}
	})
}

func FuzzKeyring(f *testing.F) {
	f.Add(binary(f, entity(f, "a", 0)))
	f.Add(armored(f, openpgp.PublicKeyType, binary(f, entity(f, "a", 0))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ReadKeyring(b); err == nil && k.Empty() {
			t.Error("a keyring without keys")
		}
	})
}
