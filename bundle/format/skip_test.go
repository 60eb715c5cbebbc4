package format

import (
	"bytes"
	"io"
	"io/fs"
	"strings"
	"testing"

	"casemate/bundle"
)

// skippedFile is a pipe of which bytes can be left out.
type skippedFile struct {
	*memoryFile
	read, skipped int64
}

func (f *skippedFile) Read(p []byte) (int, error) {
	n, err := f.memoryFile.Read(p)
	f.read += int64(n)
	return n, err
}

func (f *skippedFile) Skip(n int64) error {
	f.skipped += n
	_, err := f.Seek(n, io.SeekCurrent)
	return err
}

// TestStoredContentIsSkipped: of a bundle that arrives over a network, what the sink has is not read, but all that is
// put, and what is around it, is verified as ever.
func TestStoredContentIsSkipped(t *testing.T) {
	const size = 100_000
	for name, stored := range map[string]func(i int) bool{
		"nothing": func(int) bool { return false }, "all": func(int) bool { return true },
		"the beginning": func(i int) bool { return i < 12 }, "every other": func(i int) bool { return i%2 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			s := store{}
			var files []bundle.File
			for i := range 20 {
				content := strings.Repeat(string(rune('a'+i)), size+i)
				url := "https://dl.k8s.io/" + string(rune('a'+i))
				files = append(files, bundle.File{URL: url, Digest: s.add(content), Size: int64(size + i)})
			}
			ix := s.index(nil, files)
			for _, part := range [][][]byte{written(t, ix, s, WriteOptions{Key: testKey(1)}),
				written(t, ix, s, WriteOptions{Split: splitFor(t, ix, false, 600_000)})} {
				sink := newFakeSink(t)
				had := int64(0)
				for i, b := range ix.Blobs {
					if stored(i) {
						sink.has[b.Digest] = s[b.Digest]
						had += b.Size
					}
				}
				var ins []bundle.Input
				var all []*skippedFile
				for _, in := range inputs(fs.ModeNamedPipe, part) {
					f := &skippedFile{memoryFile: in.File.(*memoryFile)}
					all, ins = append(all, f), append(ins, bundle.Input{Name: in.Name, File: f})
				}
				var done int64
				c, err := Read(t.Context(), ins, sink, bundle.ReadOptions{Progress: func(n, _ int64) { done = n }})
				if err != nil || len(c.Absent) > 0 {
					t.Fatal(c, err)
				}
				if lost := sink.missing(s); len(lost) > 0 {
					t.Errorf("missing: %v", lost)
				}
				var read, skipped, total int64
				for i, f := range all {
					read, skipped, total = read+f.read, skipped+f.skipped, total+int64(len(part[i]))
				}
				if read+skipped != total || done != total || skipped < had*9/10 && name != "every other" {
					t.Errorf("read %d, skipped %d of %d, %d were stored; progress %d", read, skipped, total, had, done)
				}
			}
		})
	}
}

// TestDamageBesideSkipped: the content and the frames that are read are compared, also after bytes that were skipped.
func TestDamageBesideSkipped(t *testing.T) {
	s := store{}
	s.add(strings.Repeat("x", 200_000))
	s.add(strings.Repeat("y", 1000))
	ix := s.index(nil, nil)
	whole := written(t, ix, s, WriteOptions{})[0]
	for _, b := range ix.Blobs {
		at := bytes.Index(whole, s[b.Digest])
		for what, c := range map[string]struct {
			at   int
			want bool // an error
		}{"its content": {at + 10, b.Size < 100_000}, "the end": {len(whole) - 1, true}, "cut": {-1, true}} {
			damaged := bytes.Clone(whole)
			if c.at < 0 {
				damaged = damaged[:len(damaged)-100]
			} else {
				damaged[c.at] ^= 1
			}
			sink := newFakeSink(t)
			for d, content := range s {
				if len(content) > 100_000 {
					sink.has[d] = content
				}
			}
			f := &skippedFile{memoryFile: inPipes(damaged)[0].File.(*memoryFile)}
			_, err := Read(t.Context(), []bundle.Input{{Name: "x.tar", File: f}}, sink, bundle.ReadOptions{})
			if (err != nil) != c.want {
				t.Errorf("%s of a blob of %d bytes is changed: %v", what, b.Size, err)
			}
		}
	}
}
