package tree

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// TestDigestForms is the family of what is a digest and what is none; nothing else may become a path or a header.
func TestDigestForms(t *testing.T) {
	short, long := strings.Repeat("0f", 32), strings.Repeat("a9", 64)
	for _, c := range []struct {
		digest, algorithm, encoded string // algorithm "": none
	}{
		{"sha256:" + short, "sha256", short},
		{"sha512:" + long, "sha512", long},
		{"sha256:" + long, "", ""},
		{"sha512:" + short, "", ""},
		{"sha256:" + strings.ToUpper(short), "", ""},
		{"SHA256:" + short, "", ""},
		{"sha256:" + short[1:], "", ""},
		{"sha256:" + short + "0", "", ""},
		{"sha256:" + short[1:] + "g", "", ""},
		{"sha256:" + short[1:] + "/", "", ""},
		{"sha256:" + short[1:] + ":", "", ""},
		{"sha256:" + short[2:] + "é", "", ""},
		{"sha256:" + short[1:] + "\n", "", ""},
		{"sha256" + short, "", ""},
		{"md5:" + short, "", ""},
		{"sha384:" + short + short[:32], "", ""},
		{short, "", ""},
		{":" + short, "", ""},
		{"sha256:", "", ""},
		{"", "", ""},
		{strings.Repeat("x", 1<<20), "", ""},
	} {
		algorithm, encoded, err := ParseDigest(c.digest)
		if algorithm != c.algorithm || encoded != c.encoded || errors.Is(err, fs.ErrInvalid) != (c.algorithm == "") {
			t.Errorf("%.80q: %q, %.80q, %v", c.digest, algorithm, encoded, err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%.80q: the error has %d bytes", c.digest, len(err.Error()))
		}
		if ValidDigest(c.digest) != (c.algorithm != "") {
			t.Errorf("%.80q: valid is %v", c.digest, ValidDigest(c.digest))
		}
		if n := testing.AllocsPerRun(10, func() { ValidDigest(c.digest) }); n != 0 {
			t.Errorf("%.80q: ValidDigest allocates %v times", c.digest, n)
		}
	}
}

// TestSums: the digests of the empty content are those of FIPS 180-4, and both ways of making one agree.
func TestSums(t *testing.T) {
	const (
		empty256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
		empty512 = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
			"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
	)
	for like, want := range map[string]string{"": empty256, empty256: empty256, empty512: empty512} {
		if got := Sum(nil, like); got != want {
			t.Errorf("nothing like %.10q is %s", like, got)
		}
		h := NewHash(like)
		h.Write([]byte("casemate"))
		if got := SumOf(like, h); got != Sum([]byte("casemate"), like) || !ValidDigest(got) {
			t.Errorf("like %.10q: %s and %s", like, got, Sum([]byte("casemate"), like))
		}
	}
	if NewHash("").Size() != sha256.Size {
		t.Error("blobs are named by sha256 unless something else is asked for")
	}
}

type info struct{ fs.FileInfo }

func (info) Digest() string  { return "sha256:x" }
func (info) Version() uint64 { return 7 }
func (info) Claim() string   { return "jan" }

// TestInfo: a file of another tree has neither digest, version nor claim, and is no mistake.
func TestInfo(t *testing.T) {
	var _ Info = info{}
	foreign, err := fs.Stat(fstest.MapFS{"f": {}}, "f")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fi      fs.FileInfo
		digest  string
		version uint64
		claim   string
	}{{info{foreign}, "sha256:x", 7, "jan"}, {foreign, "", 0, ""}, {nil, "", 0, ""}} {
		if d, v, cl := DigestOf(c.fi), VersionOf(c.fi), ClaimOf(c.fi); d != c.digest || v != c.version ||
			cl != c.claim {
			t.Errorf("%v: %q, %d, %q", c.fi, d, v, cl)
		}
	}
}
