package content

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/bundle"
	"casemate/bundle/signing"
)

func TestRecordsFit(t *testing.T) {
	long := func(n int, s string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("%s%d", s, i))
		}
		return list
	}
	for name, r := range map[string]Record{
		"small":    {Name: "x"},
		"notes":    {Name: "x", Notes: long(100, strings.Repeat("note ", 20))},
		"one note": {Name: "x", Notes: []string{strings.Repeat("é", 5000)}},
		"sources":  {Name: "x", Sources: long(500, "/mnt/parts/part")},
		"origins": {Name: "x", Origins: Origins{Enabled: long(300, "host.example."),
			NotPermitted: long(300, "other.example.")}, Notes: []string{"kept"}},
		"all of them": {Name: strings.Repeat("n", 63), Notes: long(500, "<&>"), Sources: long(500, "\x00"),
			Origins: Origins{Removed: long(500, "r"), Refused: long(500, "f")}},
	} {
		before := fmt.Sprint(r)
		data, err := r.encode()
		if err != nil || len(data) > maxRecord {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		var got Record
		if err := json.Unmarshal(data, &got); err != nil || got.Name != r.Name ||
			(got.Cut > 0) != (name != "small" && name != "one note") {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		if len(data) < maxRecord/2 && got.Cut > 0 {
			t.Errorf("%s: cut down to %d bytes", name, len(data))
		}
		if fmt.Sprint(r) != before {
			t.Errorf("%s: the caller's record was changed", name)
		}
	}
	p := pending{Key: strings.Repeat("k", 100), Name: strings.Repeat("n", 63),
		Sources: long(99, strings.Repeat("s", 999)), Scratch: long(99, strings.Repeat("d", 71)), Started: time.Now(),
		Touched: time.Now()}
	for n := range 2000 {
		p.Have = append(p.Have, n)
	}
	data := p.encode()
	var got pending
	if err := json.Unmarshal(data, &got); err != nil || len(data) > maxRecord || got.Name != p.Name ||
		got.Key != p.Key {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestPolicies(t *testing.T) {
	a, _, _ := signing.GenerateKey()
	b, _, _ := signing.GenerateKey()
	type keys = []ed25519.PublicKey
	for _, c := range []struct {
		require          bool
		trusted, request keys
		want             keys
		refused          bool
	}{
		{false, nil, nil, nil, false},
		{false, keys{a}, nil, nil, false},
		{false, nil, keys{b}, keys{b}, false},
		{true, nil, nil, nil, true},
		{true, keys{a, b}, nil, keys{a, b}, false},
		{true, nil, keys{b}, keys{b}, false},
		{true, keys{a}, keys{b}, nil, true},
		{true, keys{a}, keys{b, a}, keys{a}, false},
	} {
		got, err := Policy{Require: c.require, Keys: c.trusted}.admit(c.request)
		if c.refused != errors.Is(err, fs.ErrPermission) ||
			!slices.EqualFunc(got, c.want, func(x, y ed25519.PublicKey) bool { return x.Equal(y) }) {
			t.Errorf("%+v: %v %v", c, got, err)
		}
	}
	for signer, refused := range map[string]bool{"": true, signing.KeyName(a): false, signing.KeyName(b): true} {
		c := &bundle.Contents{Kind: bundle.KindBundle, Signer: signer}
		if err := (Policy{Keys: keys{a}}).check(c); refused != errors.Is(err, fs.ErrPermission) {
			t.Errorf("%q: %v", signer, err)
		}
		if err := (Policy{}).check(c); err != nil {
			t.Error(err)
		}
	}
	if err := (Policy{Keys: keys{a}}).check(&bundle.Contents{Kind: bundle.KindTree}); err != nil {
		t.Errorf("what cannot be signed: %v", err)
	}
}

func TestParseKeys(t *testing.T) {
	pub, _, _ := signing.GenerateKey()
	base := t.TempDir() + "/k"
	_, file, err := signing.WriteKeyPair(base)
	if err != nil {
		t.Fatal(err)
	}
	pem := readFile(t, file)
	for text, n := range map[string]int{
		"": 0, " \n": 0, signing.KeyName(pub): 1, signing.KeyName(pub) + ", " + signing.KeyName(pub): 2, pem: 1,
		pem + pem: 2, pem + signing.KeyName(pub): 2, signing.KeyName(pub) + "\n" + pem: 2,
		"-----BEGIN PUBLIC KEY-----\n": -1, pem[:len(pem)-40]: -1, "x": -1, pem + "x": -1, "x\n" + pem: -1,
		readFile(t, base+".key"): -1,
	} {
		keys, err := ParseKeys(text)
		if n < 0 && !errors.Is(err, fs.ErrInvalid) || n >= 0 && (err != nil || len(keys) != n) {
			t.Errorf("%q: %v %v", text, keys, err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add("MCowBQYDK2VwAyEA")
	f.Add("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC " +
		"KEY-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseKeys(text)
		if err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Error(err)
		}
		for _, k := range keys {
			if again, err := ParseKeys(signing.KeyName(k)); err != nil || len(again) != 1 || !again[0].Equal(k) {
				t.Error(k, err)
			}
		}
	})
}

func FuzzDefaultName(f *testing.F) {
	f.Add("/mnt/b.tar.part01of05")
	f.Add("pending")
	f.Fuzz(func(t *testing.T, source string) {
		name := defaultName(source)
		if err := errors.Join(CheckName(name), CheckName(name+"-1000")); err != nil {
			t.Error(err)
		}
	})
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
