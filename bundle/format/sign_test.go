package format

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/bundle/signing"
)

// TestTrust: whose signature is required.
func TestTrust(t *testing.T) {
	ix, s := sample()
	unsigned := written(t, ix, s, WriteOptions{})
	signed := written(t, ix, s, WriteOptions{Key: testKey(1)})
	one, two := publicOf(testKey(1)), publicOf(testKey(2))
	for _, c := range []struct {
		name   string
		parts  [][]byte
		keys   []ed25519.PublicKey
		says   string
		signer string
	}{
		{"unsigned, none required", unsigned, nil, "", ""},
		{"signed, none required", signed, nil, "", signing.KeyName(one)},
		{"signed by one of them", signed, []ed25519.PublicKey{two, one}, "", signing.KeyName(one)},
		{"unsigned", unsigned, []ed25519.PublicKey{one}, "is not signed, and a " +
			"signature by " + signing.KeyName(one), ""},
		{"signed by another", signed, []ed25519.PublicKey{two}, "is signed by " + signing.KeyName(one) +
			", and a signature by " + signing.KeyName(two), ""},
	} {
		for way, in := range ways {
			sink := newFakeSink(t)
			read, err := Read(t.Context(), in(c.parts...), sink, bundle.ReadOptions{Keys: c.keys})
			v, verr := Verify(t.Context(), in(c.parts...), VerifyOptions{Keys: c.keys})
			if c.says == "" {
				if err != nil || verr != nil || read.Signer != c.signer || v.Contents.Signer != c.signer {
					t.Errorf("%s, %s: %v, %v", c.name, way, err, verr)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || verr == nil ||
				!strings.Contains(verr.Error(), c.says) ||
				len(sink.puts) > 0 {
				t.Errorf("%s, %s: %v, %v, %d blobs put", c.name, way, err, verr, len(sink.puts))
			}
		}
	}
}
