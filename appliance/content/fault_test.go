package content

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"
	"testing"
	"time"

	"casemate/bundle"
)

var errFault = errors.New("a fault of the test")

// TestResumesAtEveryStep lets each write of an import fail once, in turn: nothing is visible, and the next time the end
// is that of an undisturbed import.
func TestResumesAtEveryStep(t *testing.T) {
	every := 3 // steps; each way begins at another one
	if soak {
		every = 1
	}
	for _, kind := range []string{bundle.KindBundle, bundle.KindTree} {
		for first, how := range []string{"it failed", "it failed but happened", "killed", "cut off for days"} {
			// the sink does not know of kinds, only digests that are not known make a difference
			if kind == bundle.KindTree && how != "killed" {
				continue
			}
			t.Run(kind+", "+how, func(t *testing.T) {
				t.Parallel()
				few := func(c *Config) { c.flushAt, c.groupAt = 3, 2 }
				s := newSite(t, few)
				p := sample("b.tar")
				p.kind = kind
				s.must("", p)
				want := s.world()
				steps := s.tree.steps
				if steps < 20 {
					t.Fatal(steps)
				}
				for at := 1 + first%every; at <= steps; at += every {
					if _, err := s.Remove(t.Context(), "b"); err != nil {
						t.Fatal(err)
					}
					s.gc()
					s.tree.steps = 0
					s.tree.fail = func(step int, what string) (error, bool) {
						if step == at || step > at && how == "killed" {
							return fmt.Errorf("step %d, %s: %w", step, what, errFault), how == "it failed but happened"
						}
						return nil, false
					}
					_, err := s.do("", p)
					if got := s.sees(p); err != nil && !maps.Equal(got, none(p)) {
						t.Errorf("step %d: %v: visible: %v", at, err, got)
					}
					if err != nil && !errors.Is(err, errFault) {
						t.Errorf("step %d: %v", at, err)
					}
					s.tree.fail = nil
					switch how {
					case "killed":
						if at%7 == 0 {
							s.restart(few)
						}
						s.pass(30 * time.Minute)
					case "cut off for days":
						s.pass(72 * time.Hour)
						s.gc()
					}
					if r := s.must("", p); r.Name != "b" || err == nil && r.State != Unchanged ||
						r.Bytes != r.BytesNew {
						t.Errorf("step %d, %v: %+v", at, err, r)
					}
					s.gc()
					differ(t, s.world(), want)
					if t.Failed() {
						t.Fatalf("step %d of %d: %v", at, steps, err)
					}
				}
			})
		}
	}
}

// written counts the bytes that writers get.
func (s *site) written() *int64 {
	var n int64
	s.tree.wrote = func(b int) { n += int64(b) }
	return &n
}

// once is a reader that cannot seek.
type once struct{ io.Reader }

func TestALargeBlobGoesOn(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	d := "sha256:" + hexOf(data)
	const left = 2 << 20
	for _, c := range []struct {
		name   string
		before []byte // what the scratch file has
		seeks  bool
		writes int64 // bytes that are still written
		err    error
	}{
		{"nothing", nil, true, 3 << 20, nil},
		{"the beginning", data[:left], true, 1 << 20, nil},
		{"the beginning, of a pipe", data[:left], false, 1 << 20, nil},
		{"all", data, true, 0, nil},
		{"all, of a pipe", data, false, 0, nil},
		{"more than all", append(bytes.Clone(data), 'x'), true, 3 << 20, nil},
		{"other bytes", bytes.Repeat([]byte("x"), left), true, 4 << 20, nil},
		{"other bytes, of a pipe", bytes.Repeat([]byte("x"), left), false, 1 << 20, errStale},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			if c.before != nil {
				w, err := s.node.Tree().CreateBlob(scratchID(d))
				if err == nil {
					_, err = w.Write(c.before)
				}
				if err = errors.Join(err, w.Close()); err != nil {
					t.Fatal(err)
				}
			}
			var r io.Reader = bytes.NewReader(data)
			if !c.seeks {
				r = once{r}
			}
			n := s.written()
			k := newSink(s.Engine)
			got, size, err := k.Put(t.Context(), d, int64(len(data)), r)
			if !errors.Is(err, c.err) || *n != c.writes || err == nil &&
				(got != d || size != int64(len(data)) || len(k.unfinished()) != 0) {
				t.Fatalf("%s %d %v, %d written, %v", got, size, err, *n, k.unfinished())
			}
			if err != nil { // once more helps
				if _, _, err = k.Put(t.Context(), d, int64(len(data)), once{bytes.NewReader(data)}); err != nil {
					t.Error(err)
				}
			}
			f, err := k.Open(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if all, err := io.ReadAll(f); err != nil || !bytes.Equal(all, data) {
				t.Error(len(all), err)
			}
			if _, err := s.node.Tree().ResumeBlob(scratchID(d)); err == nil {
				t.Error("a scratch file is left")
			}
		})
	}
}

func TestPutHoldsItsContract(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	small, large := []byte("small"), bytes.Repeat([]byte("l"), 2<<20)
	for _, known := range []bool{false, true} {
		for _, data := range [][]byte{small, large} {
			for _, c := range []struct {
				name string
				data []byte
				size int64
				err  error
			}{
				{"right", data, int64(len(data)), nil},
				{"of unknown size", data, -1, nil},
				{"too short", data[:len(data)-1], int64(len(data)), io.ErrUnexpectedEOF},
				{"too long", append(bytes.Clone(data), 'x'), int64(len(data)), io.ErrUnexpectedEOF},
				{"other bytes", append([]byte("x"), data[1:]...), int64(len(data)), syscall.EBADMSG},
				{"other bytes of unknown size", append([]byte("x"), data[1:]...), -1, syscall.EBADMSG},
			} {
				d := "sha256:" + hexOf(data)
				for _, digest := range []string{d, ""} {
					k := newSink(s.Engine)
					if _, _, err := k.Put(t.Context(), d, int64(len(data)), bytes.NewReader(data)); known &&
						err != nil {
						t.Fatal(err)
					} else if !known {
						s.gc()
						k = newSink(s.Engine)
					}
					want := c.err
					if digest == "" && want == syscall.EBADMSG {
						want = nil
					}
					got, n, err := k.Put(t.Context(), digest, c.size, once{bytes.NewReader(c.data)})
					if !errors.Is(err, want) || err == nil &&
						(n != int64(len(c.data)) || got != "sha256:"+hexOf(c.data)) {
						t.Errorf("%s, known %v, digest %.9q, %d bytes: %s %d %v", c.name, known, digest, len(data),
							got, n, err)
					}
				}
			}
		}
	}
	sum := "sha512:" + fmt.Sprintf("%x", sha512.Sum512(small))
	for range 2 {
		if got, _, err := newSink(s.Engine).Put(t.Context(), sum, -1, bytes.NewReader(small)); err != nil ||
			got != sum {
			t.Error(got, err)
		}
	}
	if id := scratchID(sum); len(id) != 128 {
		t.Error(len(id))
	}
}

func TestTheSameBlobTwiceAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data := bytes.Repeat([]byte("l"), 2<<20)
	d := "sha256:" + hexOf(data)
	k := newSink(s.Engine)
	n := s.written()
	failed := make(chan error)
	for range 8 {
		go func() {
			_, _, err := k.Put(t.Context(), d, int64(len(data)), bytes.NewReader(data))
			failed <- err
		}()
	}
	for range 8 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if *n != int64(len(data)) {
		t.Errorf("%d bytes were written", *n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, err := k.turn(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _, err := k.Put(ctx, d, -1, bytes.NewReader(data))
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	done()
}

// TestACollectionInBetween: what only a pin kept goes, and the import finds that out in time.
func TestACollectionInBetween(t *testing.T) {
	t.Parallel()
	// Otherwise there is nothing to collect yet, or not any more.
	s := newSite(t, func(c *Config) { c.groupAt, c.flushEvery = 1, time.Hour })
	p := sample("b.tar")
	n := 0
	p.beforePut = func(string) {
		if n++; n == 6 {
			if _, err := s.node.GCNow(t.Context(), false); err != nil {
				t.Error(err)
			}
		}
	}
	r, err := s.do("", p)
	if err == nil {
		t.Fatalf("%+v", r)
	}
	if got := s.sees(p); !maps.Equal(got, none(p)) {
		t.Errorf("%v: %v", err, got)
	}
	p.beforePut = nil
	s.must("", p)
	differ(t, s.sees(p), wanted(p))
}

// TestWhatOnlyPinsKeptIsKept: blobs that an earlier attempt left behind without links are linked before anything is
// read.
func TestWhatOnlyPinsKeptIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("b.tar")
	k := newSink(s.Engine)
	for _, d := range p.order[1:] {
		if _, _, err := k.Put(t.Context(), d, -1, bytes.NewReader(p.blobs[d])); err != nil {
			t.Fatal(err)
		}
	}
	p.beforePut = func(d string) {
		if d == p.order[0] {
			if _, err := s.node.GCNow(t.Context(), false); err != nil {
				t.Error(err)
			}
		}
	}
	n := s.written()
	if r := s.must("", p); r.Bytes != r.BytesNew {
		t.Errorf("%+v", r)
	}
	if doc, err := p.index.Encode(); err != nil || *n != int64(len(p.blobs[p.order[0]])+len(doc)) {
		t.Errorf("%d bytes were written", *n)
	}
}

// TestFlushesByItself: a long import links what it has stored without another Put.
func TestFlushesByItself(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.flushEvery = time.Millisecond })
	p := sample("b.tar")
	n := 0
	p.beforePut = func(string) {
		if n++; n != 6 {
			return
		}
		wait(t, func() string { // for the engine's own flush
			kept := 0
			for name := range s.tree.Walk("imports/pending", "") {
				if slices.Contains(p.order[:5], digestOf(path.Base(name))) {
					kept++
				}
			}
			if kept < 5 {
				return fmt.Sprintf("%d of 5 blobs are kept", kept)
			}
			return ""
		})
		s.gc()
	}
	s.must("", p)
	differ(t, s.sees(p), wanted(p))
}

// TestRemovedWithItsScratch: removing an interrupted import, also after a kill, removes its partial large blob.
func TestRemovedWithItsScratch(t *testing.T) {
	for _, how := range []string{"killed", "failed"} {
		t.Run(how, func(t *testing.T) {
			fast := func(c *Config) { c.flushEvery = time.Millisecond }
			s := newSite(t, fast)
			p := newPack("b.tar")
			d := p.addFile("https://a.io/large", bytes.Repeat([]byte("large"), 1<<16))
			killed, told := false, func() bool {
				all, err := s.pendings()
				if err != nil {
					t.Error(err)
				}
				for _, p := range all {
					return slices.Contains(p.Scratch, d)
				}
				return false
			}
			s.tree.fail = func(step int, what string) (error, bool) {
				if what == "write" {
					if how == "killed" && !killed {
						s.tree.mu.Unlock() // the flush of the engine is a step, too
						wait(t, func() string {
							if !told() {
								return "the engine does not say by itself that it has begun"
							}
							return ""
						})
						s.tree.mu.Lock()
					}
					killed = how == "killed"
					return errFault, false
				}
				if killed {
					return errFault, false
				}
				return nil, false
			}
			if _, err := s.do("", p); !errors.Is(err, errFault) {
				t.Fatal(err)
			}
			s.tree.fail = nil
			s.restart()
			if !told() {
				t.Error("the record does not tell")
			}
			if r, err := s.Remove(t.Context(), "b"); err != nil || len(r.Vanished) != 0 {
				t.Error(r, err)
			}
			if _, err := s.node.Tree().ResumeBlob(scratchID(d)); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			s.gc()
			differ(t, s.world(), map[string]string{})
		})
	}
}
