package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/clustertest"
)

// Rot changes a blob's bytes and nothing that can be seen of its file. The first time that it is read after a start,
// and after 30 days, it is found before the last byte is given away.
func TestRotIsFoundByTheFirstRead(t *testing.T) {
	type want struct {
		size int
		read func(r io.ReadSeeker, size int) (int, error)
	}
	whole := func(r io.ReadSeeker, size int) (int, error) {
		n, err := io.Copy(io.Discard, r)
		return int(n), err
	}
	reads := map[string]want{
		"small": {1000, whole},
		"large": {600_000, whole},
		"as a server reads it": {600_000, func(r io.ReadSeeker, size int) (int, error) {
			_, err := r.Seek(0, io.SeekEnd)
			_, serr := r.Seek(0, io.SeekStart)
			n, cerr := io.CopyN(io.Discard, r, int64(size))
			return int(n), errors.Join(err, serr, cerr)
		}},
		"its end": {600_000, func(r io.ReadSeeker, size int) (int, error) {
			r.Seek(int64(size-10), io.SeekStart)
			n, err := io.Copy(io.Discard, r)
			return int(n), err
		}},
		"its middle": {600_000, func(r io.ReadSeeker, size int) (int, error) {
			r.Seek(1000, io.SeekStart)
			n, err := io.CopyN(io.Discard, r, 1000)
			return int(n), err
		}},
	}
	for name, w := range reads {
		for _, after := range []string{"a restart", "30 days"} {
			t.Run(name+" after "+after, func(t *testing.T) {
				clustertest.Run(t, func(t *testing.T) {
					cl := clustertest.New(t, 1, nil)
					n := cl.Nodes[0]
					data := noise(w.size, 7)
					var digest string
					cl.Wait(func() (err error) { digest, err = n.Push(data); return err })
					cl.Wait(func() error { return n.Link("blob", digest) })
					read := func() (int, error) {
						f, err := n.C.Tree().OpenBlob(t.Context(), digest)
						if err != nil {
							return 0, err
						}
						defer f.Close()
						return w.read(f, w.size)
					}
					later := func() {
						if after == "30 days" {
							n.SetForward(31 * 24 * time.Hour)
						} else {
							n.Stop()
							n.Start()
						}
					}
					wantN, err := read()
					if err != nil {
						t.Fatal(err)
					}
					later()
					if got, err := read(); err != nil || got != wantN {
						t.Fatalf("%d bytes of a whole blob, %v", got, err)
					}
					later()
					if err := n.FS.Flip(blobFile(digest), int64(w.size/2)); err != nil {
						t.Fatal(err)
					}
					got, err := read()
					if !errors.Is(err, syscall.EIO) || got >= wantN {
						t.Errorf("%d of %d bytes of a rotten blob, %v", got, wantN, err)
					}
					if list, all := n.C.Lost(1); all != 1 || !strings.Contains(list[0].Why, "damaged") {
						t.Errorf("it is not told: %v", list)
					}
				})
			})
		}
	}
}

// If another node has the blob, the next read gets it from there; a blob that was hashed once is served as a plain
// file.
func TestRotIsRepairedFromAnotherNode(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		blobs := held(t, cl.Nodes[0])
		for _, n := range cl.Nodes {
			cl.Wait(func() error {
				if n.C.Missing() != 0 {
					return errors.New("blobs are to come")
				}
				return nil
			})
		}
		n := cl.Nodes[2]
		n.Stop()
		n.Start()
		cl.WaitVoters(3)
		for digest, data := range blobs {
			if err := n.FS.Flip(blobFile(digest), int64(len(data)-1)); err != nil {
				t.Fatal(err)
			}
			cl.Wait(func() error {
				f, err := n.C.Tree().OpenBlob(t.Context(), digest)
				if err != nil {
					return err
				}
				defer f.Close()
				got, err := io.ReadAll(f)
				if err == nil && !bytes.Equal(got, data) {
					t.Fatal("rotten bytes were handed out as whole")
				}
				return err
			})
			cl.Wait(func() error {
				f, err := n.C.Tree().OpenBlob(t.Context(), digest)
				if err != nil {
					return err
				}
				defer f.Close()
				if _, file := f.(interface{ Truncate(int64) error }); !file {
					return fmt.Errorf("it is still read as a %T", f)
				}
				return nil
			})
		}
	})
}
