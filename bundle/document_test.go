package bundle

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// smallIndex is an index that Encode takes.
func smallIndex() *Index {
	return &Index{
		Version: 1,
		Images: []Image{
			{
				Repository: "docker.io/library/nginx",
				Tag:        "1",
				Digest:     digestA,
				MediaType:  "application/vnd.oci.image.index.v1+json",
				Size:       5,
			},
		},
		Files: []File{{URL: "https://dl.k8s.io/x", Digest: digestB, Size: 7}},
		Blobs: []Blob{{Digest: digestA, Size: 3}, {Digest: digestB, Size: 7}},
	}
}

// fullIndex is an index that uses every member.
func fullIndex() *Index {
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	file := "sha512:" + strings.Repeat("ab", 64)
	return &Index{
		Version: IndexVersion,
		Images: []Image{
			{Repository: "registry.k8s.io/pause", Tag: "3.10", Digest: digestA, MediaType: manifestType, Size: 600,
				Platforms: []string{"linux/amd64", "linux/arm64/v8"}, Sparse: true,
				Provenance: Provenance{From: "mirror.example/pause", On: "2026-11-24"}},
			{Repository: "registry.k8s.io/pause", Digest: digestB, MediaType: manifestType, Size: 40},
		},
		Files: []File{{URL: "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm?x=1&y=2", Digest: file, Size: 10,
			Provenance: Provenance{On: "2026-11-24"}}},
		Blobs: []Blob{{Digest: digestA, Size: 3}, {Digest: digestB, Size: 32}, {Digest: file, Size: 10}},
	}
}

// redirects returns n redirects.
func redirects(n int) (list []Redirect) {
	for i := range n {
		list = append(list, Redirect{fmt.Sprintf("https://a.example/%d", i), "https://a.example/x"})
	}
	return list
}

func TestIndexRoundTrip(t *testing.T) {
	full := fullIndex()
	full.Since = digestA
	full.Blobs[0].Omitted = true
	leads := fullIndex()
	leads.Redirects = []Redirect{
		{"https://update.example/stable", "https://a.example/releases/tag/v1+x1"}, {
			"https://a.example/z?q=1", "http://b.example/"}}
	unverified, both := fullIndex(), fullIndex()
	unverified.Unverified = []Unverified{{"https://b.example/InRelease", "it is signed by key AB"},
		{"https://a.example/InRelease", "it is signed by key CD"}}
	both.Redirects, both.Unverified = leads.Redirects, unverified.Unverified
	many := fullIndex()
	many.Redirects = redirects(MaxRedirects)
	for name, ix := range map[string]*Index{"small": smallIndex(), "empty": {
		Version: 1}, "full": full, "leads": leads, "unverified": unverified, "both": both,
		"many": many} {
		b, err := ix.Encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := DecodeIndex(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// Older programs read every index that has nothing which they do not know.
		version := 1
		if len(ix.Redirects) > 0 {
			version = 2
		}
		if len(ix.Unverified) > 0 {
			version = 3
		}
		if got.Version != version || !slices.Equal(got.Redirects, ix.Redirects) ||
			!slices.Equal(got.Unverified, ix.Unverified) {
			t.Errorf("%s: %s", name, b)
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: decoded and encoded it is\n%s\nnot\n%s (%v)", name, again, b, err)
		}
	}
}

// TestEncodeSorts: the order in which things were found changes nothing.
func TestEncodeSorts(t *testing.T) {
	ix := fullIndex()
	want, err := ix.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		other := fullIndex()
		other.Images[0], other.Images[1] = other.Images[1], other.Images[0]
		p := other.Images[1].Platforms
		p[0], p[1] = p[1], p[0]
		rand.Shuffle(
			len(other.Blobs),
			func(i, j int) { other.Blobs[i], other.Blobs[j] = other.Blobs[j], other.Blobs[i] },
		)
		if got, err := other.Encode(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s, want %s (%v)", got, want, err)
		}
	}
}

// TestEncodeRefuses: a document that could not be read is not written.
func TestEncodeRefuses(t *testing.T) {
	for says, change := range map[string]func(ix *Index){
		"version":                   func(ix *Index) { ix.Version = IndexVersion + 1 },
		"not a repository":          func(ix *Index) { ix.Images[0].Repository = "docker.io/library/Nginx" },
		`"" is not a repository`:    func(ix *Index) { ix.Images[0].Repository = "" },
		`../x" is not a repository`: func(ix *Index) { ix.Images[0].Repository = "docker.io/../x" },
		"not a tag":                 func(ix *Index) { ix.Images[0].Tag = "-1" },
		"neither sha256":            func(ix *Index) { ix.Images[0].Digest = "md5:aa" },
		"64 lower-case": func(ix *Index) {
			ix.Files[0].Digest = strings.ToUpper(digestB[:7]) + digestB[7:]
			ix.Files[0].Digest = "sha256:" + strings.Repeat("A", 64)
		},
		"not a media type":      func(ix *Index) { ix.Images[0].MediaType = "" },
		"size must be":          func(ix *Index) { ix.Images[0].Size = -1 },
		"not a platform":        func(ix *Index) { ix.Images[0].Platforms = []string{"linux amd64"} },
		"platforms linux/amd64": func(ix *Index) { ix.Images[0].Platforms = []string{"linux/amd64", "linux/amd64"} },
		"not among the blobs":   func(ix *Index) { ix.Images[0].Digest = "sha256:" + strings.Repeat("c", 64) },
		"images docker.io/library/nginx:1 and docker.io/library/nginx:1 are repeated": func(ix *Index) {
			ix.Images = append(ix.Images, ix.Images[0])
		},
		"printable ASCII":             func(ix *Index) { ix.Files[0].URL = "https://dl.k8s.io/a b" },
		"ftp":                         func(ix *Index) { ix.Files[0].URL = "ftp://dl.k8s.io/a" },
		"without user":                func(ix *Index) { ix.Files[0].URL = "https://me:secret@dl.k8s.io/a" },
		"not a URL":                   func(ix *Index) { ix.Files[0].URL = "https://dl.k8s.io/%zz" },
		"its blob 7":                  func(ix *Index) { ix.Files[0].Size = 8 },
		"size must be between":        func(ix *Index) { ix.Blobs[0].Size = -1 },
		"repeated":                    func(ix *Index) { ix.Blobs = append(ix.Blobs, ix.Blobs[0]) },
		"omitted, but since names no": func(ix *Index) { ix.Blobs[0].Omitted = true },
		"since":                       func(ix *Index) { ix.Since = "x" },
		"not printable":               func(ix *Index) { ix.Images[0].From = "a\nb" },
		"invalid UTF-8 not printable": func(ix *Index) { ix.Images[0].From = "\xff" },
		"leads to itself": func(ix *Index) {
			ix.Redirects = []Redirect{{"https://a.example/x", "https://a.example/x"}}
		},
		"is a file and a redirect": func(ix *Index) {
			ix.Redirects = []Redirect{{ix.Files[0].URL, "https://a.example/x"}}
		},
		"redirects https://a.example/x and https://a.example/x are repeated": func(ix *Index) {
			ix.Redirects = []Redirect{{"https://a.example/x", "https://a.example/y"}, {
				"https://a.example/x", "https://a.example/z"}}
		},
		`redirect: "/x" is not an http`: func(ix *Index) {
			ix.Redirects = []Redirect{{"https://a.example/x", "/x"}}
		},
		"20001 redirects":        func(ix *Index) { ix.Redirects = redirects(MaxRedirects + 1) },
		"unverified: the reason": func(ix *Index) { ix.Unverified = []Unverified{{"https://a.example/x", ""}} },
		`unverified: "/x" is not an http`: func(ix *Index) {
			ix.Unverified = []Unverified{{"/x", "it is signed by key AB"}}
		},
		"unverified https://a.example/x and https://a.example/x are repeated": func(ix *Index) {
			ix.Unverified = []Unverified{{"https://a.example/x", "one"}, {"https://a.example/x", "two"}}
		},
		"on must be a day": func(ix *Index) { ix.Files[0].On = "2026-1-1" },
	} {
		ix := smallIndex()
		change(ix)
		b, err := ix.Encode()
		want, _ := strings.CutPrefix(says, "invalid UTF-8 ")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v", says, b, err)
		}
	}
}

// TestDecodeRefuses: what means the same in other bytes is refused, and what means nothing.
func TestDecodeRefuses(t *testing.T) {
	good, err := smallIndex().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeIndex(good); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string][2]string{
		"newer casemate":          {`"version":1`, `"version":5`},
		`unverified`:              {`"version":1`, `"version":3`},
		`redirects`:               {`"version":1`, `"version":2`},
		"not a version":           {`"version":1`, `"version":01`},
		"unknown field":           {`"size":3`, `"size":3,"x":1`},
		"canonical form":          {`"size":3`, `"size": 3`},
		"canonical form, Size":    {`"size":3`, `"Size":3`},
		"canonical form, twice":   {`"size":3`, `"size":4,"size":3`},
		"canonical form, omitted": {`"size":3`, `"size":3,"omitted":false`},
		"cannot unmarshal":        {`"size":3`, `"size":3.5`},
		"want \",\\\"files":       {`"files"`, `"filez"`},
		"out of order": {"bbbb\",\"size\":7}\n]}", "bbbb\",\"size\":7}," +
			"\n{\"digest\":\"" + digestA + "\",\"size\":3}\n]}"},
		"does not end":       {"\n]}\n", ""},
		"want \"}":           {"]}\n", "],\"x\":1}\n"},
		"more than one":      {"]}\n", "]}\n{}"},
		"since is empty":     {"]}\n", "],\"since\":\"\"}\n"},
		"since: digest":      {"]}\n", "],\"since\":\"x\"}\n"},
		"not among the blob": {"{\"digest\":\"" + digestA + "\",\"size\":3},\n", ""},
	} {
		b := strings.Replace(string(good), change[0], change[1], 1)
		if b == string(good) {
			t.Fatalf("%s changes nothing", says)
		}
		want, _, _ := strings.Cut(says, ", ")
		if strings.HasPrefix(says, "want") {
			want = says[:5]
		}
		if _, err := DecodeIndex([]byte(b)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", says, err)
		}
	}
	for n := range good {
		if _, err := DecodeIndex(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken for an index", n, len(good))
		}
	}
}

// FuzzDecodeIndex: what is read is what would be written, byte for byte.
func FuzzDecodeIndex(f *testing.F) {
	full := fullIndex()
	asked := smallIndex()
	asked.Questions = []Question{question()}
	for _, ix := range []*Index{smallIndex(), full, asked, {Version: 1}} {
		b, err := ix.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ix, err := DecodeIndex(b)
		if err != nil {
			return
		}
		if again, err := ix.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("read %q, would write %q (%v)", b, again, err)
		}
	})
}
