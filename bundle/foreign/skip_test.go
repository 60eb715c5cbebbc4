package foreign_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"casemate/bundle"
)

// skippedPipe is a pipe of which bytes can be left out, and that says how large it is.
type skippedPipe struct {
	pipe
	from          *bytes.Reader
	read, skipped int64
}

func (p *skippedPipe) Read(b []byte) (int, error) {
	n, err := p.from.Read(b)
	p.read += int64(n)
	return n, err
}

func (p *skippedPipe) Skip(n int64) error {
	p.skipped += n
	_, err := p.from.Seek(n, io.SeekCurrent)
	return err
}

// TestStoredLayersAreSkipped: layers of an OCI layout that are stored are not read from a tar that arrives over a
// network. The names are the same as if it were read as a whole.
func TestStoredLayersAreSkipped(t *testing.T) {
	l := newLayout()
	var layers []string
	for i := range 10 {
		content := strings.Repeat(fmt.Sprint(i), 1<<20)
		layers = append(layers, layer(content))
		name := fmt.Sprintf("registry.k8s.io/app%d:v1", i)
		l.top(l.image("amd64", content), "org.opencontainers.image.ref.name", name)
	}
	content := l.tree().tar()
	want := ""
	for _, stored := range []int{0, 5, 10} {
		sink := newMemorySink(t)
		for _, b := range layers[:stored] {
			sink.hold([]byte(b))
		}
		p := &skippedPipe{pipe: pipe{name: "pipe"}, from: bytes.NewReader(content)}
		c := read(t, sink, bundle.ReadOptions{}, bundle.Input{Name: "pipe", File: p})
		check(t, sink, c)
		if want == "" {
			want = shown(c)
		} else if got := shown(c); got != want {
			t.Errorf("with %d layers:\n%s\nwithout:\n%s", stored, got, want)
		}
		if p.read+p.skipped != int64(len(content)) || p.skipped < int64(stored)*700_000 {
			t.Errorf("%d layers are stored: %d bytes were read, %d skipped of %d", stored, p.read, p.skipped,
				len(content))
		}
	}
}
