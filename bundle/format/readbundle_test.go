package format

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"

	"casemate/bundle"
)

// TestFlip changes every byte of bundles, one at a time: every change is detected, and the error gives its place.
func TestFlip(t *testing.T) {
	for _, c := range []struct {
		name  string
		key   ed25519.PrivateKey
		split bool
	}{{"one file", nil, false}, {"one file, signed", testKey(1), false}, {"parts", nil, true}, {"parts, signed",
		testKey(1), true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := store{}
			image := bundle.Image{
				Repository: "docker.io/library/nginx",
				Tag:        "1",
				Digest:     s.add("{}"),
				MediaType:  "application/vnd.oci.image.manifest.v1+json",
				Size:       2,
			}
			file := bundle.File{URL: "https://dl.k8s.io/stable.txt", Digest: s.add512("v1.35.0"), Size: 7}
			s.add(strings.Repeat("y", 3000)) // is cut
			ix := s.index([]bundle.Image{image}, []bundle.File{file})
			opt := WriteOptions{Key: c.key}
			if c.split {
				opt.Split = splitFor(t, ix, c.key != nil, 2048)
			}
			parts := written(t, ix, s, opt)
			if c.split && len(parts) < 3 {
				t.Fatalf("only %d parts", len(parts))
			}
			t.Logf("%d parts, the first with %d bytes", len(parts), len(parts[0]))
			for p := range parts {
				for at := 0; at < len(parts[p]); at += every(4) { // 4 meets every way of reading and every bit
					if padded(parts[p], at) && at%every(7) != 0 {
						continue
					}
					if c.split && at%4 != 0 {
						continue // all parts are read for each byte; one file has every one of them tried
					}
					if c.key != nil && at%5 != 0 && padded(parts[p], at) {
						continue // every byte of padding is tried without a signature
					}
					parts[p][at] ^= 1 << (at % 7)
					flipped(t, parts, p, at)
					parts[p][at] ^= 1 << (at % 7)
					if t.Failed() {
						return
					}
				}
			}
			for way, in := range ways {
				if _, err := Verify(t.Context(), in(parts...), VerifyOptions{}); err != nil {
					t.Errorf("undamaged, %s: %v", way, err)
				}
			}
		})
	}
}

// padded reports whether a byte is amid zeros.
func padded(b []byte, at int) bool {
	return len(bytes.Trim(b[max(0, at-8):min(len(b), at+8)], "\x00")) == 0
}

// flipped reads a bundle of which one byte of part p is wrong, in one of three ways.
func flipped(t *testing.T, parts [][]byte, p, at int) {
	name := inFiles(parts...)[p].Name
	switch at % 3 {
	case 0, 1:
		in := []func(...[]byte) []bundle.Input{inFiles, inPipes}[at%3]
		c, err := Read(t.Context(), in(parts...), newFakeSink(t), bundle.ReadOptions{})
		if c != nil || !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), name) {
			t.Errorf("byte %d of part %d, way %d: read: %v, %v", at, p+1, at%3, c, err)
		}
	case 2:
		v, err := Verify(t.Context(), inFiles(parts...), VerifyOptions{})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d of part %d: verify: %v", at, p+1, err)
		}
		for i, vp := range v.Parts {
			if (vp.Problem != "") != (i == p) {
				t.Errorf("byte %d of part %d: verify says of part %d: %q", at, p+1, i+1, vp.Problem)
			}
		}
	}
}

// TestReadParts reads a split bundle in many ways: every blob arrives, or is said to be absent.
func TestReadParts(t *testing.T) {
	ix, s := bigSample()
	big := ix.Blobs[0].Digest
	for _, b := range ix.Blobs {
		if len(s[b.Digest]) > len(s[big]) {
			big = b.Digest
		}
	}
	parts := written(t, ix, s, WriteOptions{Split: splitFor(t, ix, false, 4096)})
	if len(parts) < 4 {
		t.Fatalf("only %d parts", len(parts))
	}
	for way, in := range ways {
		t.Run(way, func(t *testing.T) {
			t.Run("backwards", func(t *testing.T) {
				ins := in(parts...)
				slices.Reverse(ins)
				sink := newFakeSink(t)
				c, err := Read(t.Context(), ins, sink, bundle.ReadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if lost := sink.missing(s); len(lost) > 0 || len(c.Absent) > 0 || c.Parts != len(parts) ||
					c.Have != len(parts) {
					t.Errorf("missing %v; %+v", lost, c)
				}
				if stored := len(sink.puts) > len(s); stored != (way == "pipes") {
					t.Errorf("chunks were stored: %v", stored)
				}
			})
			t.Run("one by one", func(t *testing.T) {
				sink := newFakeSink(t)
				for i := range parts {
					c, err := Read(t.Context(), in(parts[len(parts)-1-i]), sink, bundle.ReadOptions{})
					if err != nil {
						t.Fatal(err)
					}
					if _, err := Read(t.Context(), in(parts[len(parts)-1-i]), sink, bundle.ReadOptions{}); err != nil {
						t.Fatal(err) // a chunk that the sink has is not put again
					}
					lost := sink.missing(s)
					if !slices.Equal(lost, c.Absent) {
						t.Errorf("after %d parts: missing %v, but absent are %v", i+1, lost, c.Absent)
					}
					if whole := i == len(parts)-1; whole != (len(lost) == 0) || c.Have != 1 ||
						!slices.Equal(c.Numbers, []int{len(parts) - i}) {
						t.Errorf("after %d parts: missing %v; %+v", i+1, lost, c)
					}
				}
				if _, ok := sink.has[big]; !ok {
					t.Error("the cut blob was not put together")
				}
			})
			t.Run("again", func(t *testing.T) {
				sink := newFakeSink(t)
				for range 2 {
					if _, err := Read(t.Context(), in(parts...), sink, bundle.ReadOptions{}); err != nil {
						t.Fatal(err) // the sink fails the test if anything is put twice
					}
				}
			})
		})
	}
}
