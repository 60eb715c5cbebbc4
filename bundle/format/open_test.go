package format

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"casemate/bundle"
	"casemate/bundle/digests"
	"casemate/bundle/signing"
)

// TestRefuses: unreadable inputs are refused before anything is put, by name.
func TestRefuses(t *testing.T) {
	ix, s := bigSample()
	split := splitFor(t, ix, false, 4096)
	parts := written(t, ix, s, WriteOptions{Split: split})
	otherSize := written(t, ix, s, WriteOptions{Split: split + 512})
	otherSize = append(otherSize, otherSize[0]) // long enough to pick from
	small, ss := sample()
	other := written(t, small, ss, WriteOptions{Split: split})
	signed := written(t, ix, s, WriteOptions{Split: split + 1024, Key: testKey(1)})
	last := len(parts) - 1
	swap := func(p []byte, old, new string) []byte { return bytes.Replace(p, []byte(old), []byte(new), 1) }
	for _, c := range []struct {
		name  string
		parts [][]byte
		is    error
		says  []string
	}{
		{"another bundle", [][]byte{parts[0], other[0]}, nil, []string{"x.tar.001 is a part of bundle",
			"x.tar.002 of bundle", "one bundle at a time"}},
		{"twice", [][]byte{parts[1], parts[0], parts[1]}, nil, []string{"x.tar.001 and x.tar.003 are both part 2"}},
		{"another split", [][]byte{parts[0], otherSize[1]}, nil, []string{"x.tar.001 and x.tar.002",
			"split in different ways"}},
		{"signed and not", [][]byte{parts[0], signed[1]}, nil, []string{"x.tar.001 and x.tar.002",
			"split in different ways"}},
		{"cut in the documents", [][]byte{parts[0], parts[1][:3000]}, ErrDamaged, []string{"x.tar.002", "byte 3000",
			"truncated"}},
		{"cut in content", [][]byte{parts[0], parts[1], parts[2][:len(parts[2])-2000]}, ErrDamaged,
			[]string{"x.tar.003 (part 3 of", fmt.Sprintf("byte %d: ", len(parts[2])-2000), "truncated"}},
		{"cut in the end", [][]byte{parts[0], parts[1][:len(parts[1])-1]}, ErrDamaged, []string{"x.tar.002 (part 2 of",
			"truncated"}},
		{"longer", [][]byte{slices.Concat(parts[last], []byte{0})}, ErrDamaged, []string{"x.tar.001 (part",
			"the file continues"}},
		{"empty", [][]byte{nil}, ErrDamaged, []string{"x.tar.001", "not a bundle"}},
		{"something else", [][]byte{bytes.Repeat([]byte("x"), 2000)}, ErrDamaged, []string{"x.tar.001",
			"not a bundle"}},
		{"nothing", nil, nil, []string{"no bundle was named"}},
		{"part.json changed", [][]byte{swap(parts[0], `"part":1`, `"part":2`)}, ErrDamaged,
			[]string{bundle.PartDocument}},
		{"a header too large to be", [][]byte{swap(parts[0], string(tarHeader(indexName, 0))[:len(indexName)],
			strings.Repeat("z", len(indexName)))}, ErrDamaged, []string{indexName}},
	} {
		for way, in := range ways {
			t.Run(c.name+"/"+way, func(t *testing.T) {
				sink := newFakeSink(t)
				got, err := Read(t.Context(), in(c.parts...), sink, bundle.ReadOptions{})
				if got != nil || err == nil || c.is != nil && !errors.Is(err, c.is) {
					t.Fatalf("got %v, %v", got, err)
				}
				if c.is == ErrDamaged && !errors.Is(err, syscall.EBADMSG) {
					t.Errorf("%v is not EBADMSG", err)
				}
				for _, says := range c.says {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("got %q, want it to say %q", err, says)
					}
				}
				if len(sink.puts) > 0 && way == "files" {
					t.Errorf("%d blobs were put", len(sink.puts))
				}
			})
		}
	}
}

// forge makes a bundle of an unchecked part document and index document.
func forge(doc partDoc, indexJSON string) []byte {
	doc.Bundle = digests.SHA256([]byte(indexJSON))
	b, _ := doc.encode()
	var out bytes.Buffer
	_ = writeDocuments(
		&out,
		[]document{
			{bundle.PartDocument, b},
			{partSumName, partSum(b)},
			{indexName, []byte(indexJSON)},
			{ociLayoutName, []byte(ociLayout)},
		},
	)
	out.Write(make([]byte, 4096))
	return out.Bytes()
}

// TestForged: a bundle whose checksums are right and that still cannot be.
func TestForged(t *testing.T) {
	ix, _ := bigSample()
	good, err := ix.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const huge = `{"version":1,"images":[],"files":[],"blobs":[` + "\n" + `{"digest":"` + someDigest +
		`","size":1125899906842624}` + "\n]}\n"
	for says, b := range map[string][]byte{
		"the bundle has version 2": forge(partDoc{Version: 2, Part: 1, Parts: 1}, string(good)),
		"index has version 9": forge(partDoc{Version: 1, Part: 1, Parts: 1}, strings.Replace(string(good),
			`"version":1`, `"version":9`, 1)),
		"part 2 of 1": forge(partDoc{Version: 1, Part: 2, Parts: 1}, string(good)),
		"part 1 of 2": forge(partDoc{Version: 1, Part: 1, Parts: 2}, string(good)),
		"gives 1 parts": forge(partDoc{Version: 1, Part: 1, Parts: 1, Cut: []cut{{someDigest,
			[]string{otherDigest}}}}, string(good)),
		"contradicts": forge(partDoc{Version: 1, Part: 1, Parts: 7, Split: 1 << 20}, string(good)),
		"is not a sha256": forge(partDoc{Version: 1, Part: 1, Parts: 1, Cut: []cut{{someDigest,
			[]string{"sha512:" + strings.Repeat("a", 128)}}}}, string(good)),
		"too little room": forge(partDoc{Version: 1, Part: 1, Parts: 2, Split: 8192}, huge),
		"index document":  forge(partDoc{Version: 1, Part: 1, Parts: 1}, "{}"),
	} {
		for way, in := range ways {
			if c, err := Read(t.Context(), in(b), newFakeSink(t), bundle.ReadOptions{}); err == nil ||
				!strings.Contains(err.Error(), says) {
				t.Errorf("%s, %s: %v, %v", says, way, c, err)
			}
		}
	}
}

// TestInspect reads no content.
func TestInspect(t *testing.T) {
	ix, s := bigSample()
	held := ix.Images[0].Digest
	omit(ix, held)
	parts := written(t, ix, s, WriteOptions{Split: splitFor(t, ix, true, 4096), Key: testKey(1)})
	for n, p := range parts {
		parts[n] = p[:min(len(p), int(splitFor(t, ix, true, 0)))] // the documents and less than the rest
	}
	c, err := Inspect(
		append(
			inFiles(parts[1:]...),
			bundle.Input{
				Name: "x.tar.sha256",
				File: inFiles([]byte(strings.Repeat("a", 64) + "  x.tar.001\n"))[0].File,
			},
		),
	)
	if err != nil {
		t.Fatal(err)
	}
	if c.Kind != bundle.KindBundle || len(c.Index.Images) != 2 || c.Parts != len(parts) || c.Have != len(parts)-1 ||
		c.Numbers[0] != 2 ||
		c.Signer != signing.KeyName(publicOf(testKey(1))) {
		t.Errorf("%+v", c)
	}
	if !slices.Contains(c.Absent, held) || len(c.Notes) != 2 {
		t.Errorf("absent %v, notes %q", c.Absent, c.Notes)
	}
}

// TestOmitted: blobs that the far side has reported are used from there, and reported missing if they are gone.
func TestOmitted(t *testing.T) {
	ix, s := sample()
	held := ix.Images[0].Digest
	omit(ix, held)
	parts := written(t, ix, s, WriteOptions{})
	if bytes.Contains(parts[0], []byte(blobName(held))) ||
		bytes.Contains(parts[0], []byte(`ref.name":"registry.k8s.io/pause:3.10"`)) {
		t.Error("the omitted manifest is in the tar or in the layout's index")
	}
	for _, has := range []bool{false, true} {
		sink := newFakeSink(t)
		if has {
			sink.has[held] = s[held]
		}
		c, err := Read(t.Context(), inFiles(parts...), sink, bundle.ReadOptions{})
		if err != nil || slices.Contains(c.Absent, held) == has || len(c.Absent) > 1 {
			t.Errorf("stored %v: %+v, %v", has, c, err)
		}
	}
	sink := newFakeSink(t)
	sink.has[held] = []byte("of another size")
	if _, err := Read(t.Context(), inFiles(parts...), sink, bundle.ReadOptions{}); !errors.Is(err, syscall.EBADMSG) {
		t.Errorf("two sizes of one digest: %v", err)
	}
}

// TestPlan: Plan hears all before the first Put, and may end it.
func TestPlan(t *testing.T) {
	ix, s := bigSample()
	var total int64
	for _, b := range s {
		total += int64(len(b))
	}
	parts := written(t, ix, s, WriteOptions{Split: splitFor(t, ix, false, 4096)})
	for way, in := range ways {
		sink := newFakeSink(t)
		var need int64
		refuse := errors.New("too much")
		for _, answer := range []error{refuse, bundle.ErrStop, nil} {
			calls := 0
			c, err := Read(
				t.Context(),
				in(parts...),
				sink,
				bundle.ReadOptions{Plan: func(c *bundle.Contents, n int64) error {
					calls++
					need = n
					if len(sink.puts) > 0 || c.Have != len(parts) || c.ID == "" {
						t.Errorf("%s: at Plan %d blobs were put; %+v", way, len(sink.puts), c)
					}
					return answer
				}},
			)
			if calls != 1 || (answer == refuse) != (err != nil) || (c == nil) != (answer == refuse) ||
				answer != nil && len(sink.puts) > 0 {
				t.Errorf("%s: answer %v: %v, %v, %d puts, %d calls", way, answer, c, err, len(sink.puts), calls)
			}
		}
		var put int64
		for _, d := range sink.puts {
			put += int64(len(sink.has[d]))
		}
		if put != need || need < total {
			t.Errorf("%s: need was %d, put %d of %d", way, need, put, total)
		}
	}
}

// TestProgress: in the end all is done, whatever the sink had.
func TestProgress(t *testing.T) {
	ix, s := bigSample()
	parts := written(t, ix, s, WriteOptions{Split: splitFor(t, ix, false, 4096)})
	var size int64
	for _, p := range parts {
		size += int64(len(p))
	}
	for way, in := range ways {
		sink := newFakeSink(t)
		for _, run := range []string{"first", "second", "verify"} {
			last, most := make(chan int64, 10000), int64(0)
			progress := func(done, total int64) {
				if total != size || done > total {
					t.Errorf("%s %s: %d of %d, want of %d", way, run, done, total, size)
				}
				last <- done
			}
			var err error
			if run == "verify" {
				_, err = Verify(t.Context(), in(parts...), VerifyOptions{Progress: progress})
			} else {
				_, err = Read(t.Context(), in(parts...), sink, bundle.ReadOptions{Progress: progress})
			}
			close(last)
			for n := range last {
				most = max(most, n)
			}
			if err != nil || most != size {
				t.Errorf("%s %s: %d of %d, %v", way, run, most, size, err)
			}
		}
	}
}

// failingSink cannot store.
type failingSink struct {
	*fakeSink
	err error
}

func (s failingSink) Put(context.Context, string, int64, io.Reader) (string, int64, error) {
	return "", 0, s.err
}

// TestSinkFails: an error of the sink is passed on, and is not reported as damage.
func TestSinkFails(t *testing.T) {
	ix, s := sample()
	parts := written(t, ix, s, WriteOptions{})
	for way, in := range ways {
		_, err := Read(t.Context(), in(parts...), failingSink{newFakeSink(t), syscall.ENOSPC}, bundle.ReadOptions{})
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrDamaged) ||
			!strings.Contains(err.Error(), "x.tar.001") {
			t.Errorf("%s: %v", way, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for way, in := range ways {
		if _, err := Read(ctx, in(parts...), newFakeSink(t), bundle.ReadOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", way, err)
		}
		if _, err := Verify(ctx, in(parts...), VerifyOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: verify: %v", way, err)
		}
	}
}

// remade is the one file that an unsigned bundle of these blobs is.
func remade(t *testing.T, ix *bundle.Index, s store) []byte {
	doc, err := ix.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := newBundleLayout(ix, doc, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := c.documents(1)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeDocuments(&b, docs); err != nil {
		t.Fatal(err)
	}
	pieces := c.partition.parts[0]
	for i := range pieces {
		b.Write(c.frame(pieces, i))
		b.Write(s[c.digestOf(&pieces[i])])
	}
	b.Write(c.frame(pieces, len(pieces)))
	return b.Bytes()
}

// FuzzReadBundle: no bytes are taken for a bundle that are not what Write makes, and none make it panic.
func FuzzReadBundle(f *testing.F) {
	ix, s := bigSample()
	for _, opt := range []WriteOptions{{}, {Key: testKey(1)}, {Split: splitFor(f, ix, false, 4096)}} {
		for _, p := range written(f, ix, s, opt) {
			f.Add(p)
		}
	}
	f.Add(forge(partDoc{Version: 1, Part: 1, Parts: 1}, "{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for way, in := range ways {
			sink := newFakeSink(t)
			c, err := Read(t.Context(), in(b), sink, bundle.ReadOptions{})
			if err != nil || c.Parts > 0 || len(c.Absent) > 0 || c.Signer != "" {
				continue // only a complete and unsigned one can be made again
			}
			if !bytes.Equal(remade(t, c.Index, sink.has), b) {
				t.Errorf("%s: read other bytes than would be written", way)
			}
		}
	})
}

// FuzzRepaired gives the fuzzer documents whose checksums are right, so that it comes further than to them.
func FuzzRepaired(f *testing.F) {
	ix, _ := bigSample()
	doc, err := ix.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc, []byte("\x00\x01"), int64(0), int64(0), 1, 1)
	f.Add(doc, []byte("ab"), int64(16384), int64(3072), 2, 3)
	f.Fuzz(func(t *testing.T, index, tail []byte, split, chunk int64, part, parts int) {
		b := append(
			forge(partDoc{Version: 1, Split: split, Chunk: chunk, Part: part, Parts: parts}, string(index)),
			tail...)
		for way, in := range ways {
			if c, err := Read(t.Context(), in(b), newFakeSink(t), bundle.ReadOptions{}); err == nil &&
				c.ID != digests.SHA256(index) {
				t.Errorf("%s: %+v", way, c)
			}
		}
	})
}

// omit leaves a blob out, as collecting against an inventory does.
func omit(ix *bundle.Index, digest string) {
	ix.Since = someDigest
	for i := range ix.Blobs {
		ix.Blobs[i].Omitted = ix.Blobs[i].Digest == digest
	}
}
