package fileserver

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"casemate/cluster/treetest"
)

func TestChecksumFiles(t *testing.T) {
	f := start(t)
	sum256 := strings.TrimPrefix(treetest.DigestOf([]byte("kubectl"), ""), "sha256:")
	sum512 := strings.TrimPrefix(treetest.DigestOf([]byte("kubectl"), "sha512:"), "sha512:")
	for _, url := range []string{
		"https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubectl", "https://get.helm.sh/helm.tar.gz",
		"https://files.test/a%20b", "https://files.test/q?x=1",
		"https://storage.googleapis.com/gvisor/runsc", "https://storage.googleapis.com/kubernetes-release/x",
	} {
		f.put(t, url, "kubectl")
	}
	f.put(t, "https://files.test/staged", "kubectl")
	f.put(t, "https://files.test/staged.sha256", "as it was staged")
	for _, c := range []struct{ host, path, body string }{
		// dl.k8s.io and Helm: the bare digest, as their own files have it
		{"dl.k8s.io", "/release/v1.32.0/bin/linux/amd64/kubectl.sha256", sum256},
		{"dl.k8s.io", "/release/v1.32.0/bin/linux/amd64/kubectl.sha512", sum512},
		{"get.helm.sh", "/helm.tar.gz.sha256", sum256},
		{"get.helm.sh", "/helm.tar.gz.sha256sum", sum256 + "  helm.tar.gz\n"},
		{"storage.googleapis.com", "/kubernetes-release/x.sha256", sum256},
		{"storage.googleapis.com", "/gvisor/runsc.sha512", sum512 + "  runsc\n"},
		{"files.test", "/a%20b.sha256", sum256 + "  a b\n"},
		{"files.test", "/a%20b.sha512sum", sum512 + "  a b\n"},
		{"files.test", "/q.sha256?x=1", sum256 + "  q\n"},
		{"files.test", "/staged.sha256", "as it was staged"},
		{"files.test", "/staged.sha512", sum512 + "  staged\n"},
	} {
		r := f.origin(c.host, c.path)
		want(t, r, 200, c.body)
		if r.Header.Get("Content-Type") != "text/plain; charset=utf-8" ||
			r.Header.Get("Content-Length") != fmt.Sprint(len(c.body)) {
			t.Errorf("%s: %v", c.path, r.Header)
		}
		tag := r.Header.Get("ETag")
		want(t, f.own("/"+c.host+c.path, "If-None-Match: "+tag), 304, "")
		want(t, f.do(View{Origin: c.host}, "HEAD", c.path, nil), 200, "")
	}
	want(t, f.own("/kubernetes/v1.32.0/kubectl.sha256"), 200, sum256)
	want(t, f.own("/kubernetes/v1.32.0/amd64/kubectl.sha512"), 200, sum512)
	if m := f.missed(); m != nil {
		t.Errorf("missed %q", m)
	}
	for _, path := range []string{"/none.sha256", "/.sha256", "/a%20b.md5", "/a%20b.sha256.sha512", "/a%20b.sha256/"} {
		want(t, f.origin("files.test", path), 404, "*")
	}
}

// counting counts how often blobs are opened.
type counting struct {
	Tree
	opened  atomic.Int32
	release chan struct{} // every opening waits for one from here
	full    atomic.Bool   // every opening fails
	opening chan struct{} // if not nil, receives a value at every opening
}

func (c *counting) OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	c.opened.Add(1)
	if c.full.Load() {
		return nil, errors.New("one file too many is opened")
	}
	if c.opening != nil {
		c.opening <- struct{}{}
	}
	<-c.release
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.Tree.OpenBlob(ctx, digest)
}

// TestChecksumsAreComputedOnce: many that ask at once cause one reading.
func TestChecksumsAreComputedOnce(t *testing.T) {
	f := start(t)
	c := f.config(t)
	tree := &counting{Tree: f.tree, release: make(chan struct{})}
	c.Tree = tree
	f.Server = New(c)
	const files, askers = 6, 4
	for i := range files {
		f.put(t, fmt.Sprintf("https://files.test/%d", i), fmt.Sprint(i))
	}
	var all sync.WaitGroup
	for i := range files {
		for range askers {
			all.Go(func() {
				want(t, f.origin("files.test", fmt.Sprintf("/%d.sha512", i)), 200,
					fmt.Sprintf("%x  %d\n", sha512.Sum512([]byte(fmt.Sprint(i))), i))
			})
		}
	}
	answered := make(chan struct{})
	go func() {
		all.Wait()
		close(answered)
	}()
	for open := true; open; {
		select {
		case tree.release <- struct{}{}:
		case <-answered:
			open = false
		}
	}
	if opened := tree.opened.Load(); opened != files {
		t.Errorf("%d readings", opened)
	}
}

// TestChecksumWaiterLeaves: a client that waits for another's hashing can leave, and the hashing continues when its own
// client leaves.
func TestChecksumWaiterLeaves(t *testing.T) {
	f := start(t)
	info := f.put(t, "https://files.test/f", "f")
	c := f.config(t)
	tree := &counting{Tree: f.tree, release: make(chan struct{}), opening: make(chan struct{})}
	c.Tree = tree
	f.Server = New(c)
	first, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := f.sum(first, info.Digest, "sha512")
		done <- err
	}()
	<-tree.opening
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := f.sum(gone, info.Digest, "sha512"); err != context.Canceled {
		t.Error(err)
	}
	cancel()
	tree.release <- struct{}{}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if sum, err := f.sum(gone, info.Digest, "sha512"); err != nil || len(sum) != 128 {
		t.Error(sum, err) // remembered: nothing to wait for
	}
}

// TestFewFilesAreHashedAtOnce: a request for one more checksum while maxHashing are computed waits, and can be
// cancelled.
func TestFewFilesAreHashedAtOnce(t *testing.T) {
	f := start(t)
	c := f.config(t)
	tree := &counting{Tree: f.tree, release: make(chan struct{}), opening: make(chan struct{})}
	c.Tree = tree
	f.Server = New(c)
	var all sync.WaitGroup
	for i := range maxHashing {
		info := f.put(t, fmt.Sprintf("https://files.test/%d", i), fmt.Sprint(i))
		all.Go(func() {
			if _, err := f.sum(t.Context(), info.Digest, "sha512"); err != nil {
				t.Error(err)
			}
		})
		<-tree.opening
	}
	info := f.put(t, "https://files.test/more", "more")
	gone, leave := context.WithCancel(t.Context())
	leave()
	tree.full.Store(true)
	if _, err := f.sum(gone, info.Digest, "sha512"); err != context.Canceled {
		t.Error(err)
	}
	tree.full.Store(false)
	close(tree.release)
	all.Wait()
	tree.opening = nil
	if _, err := f.sum(t.Context(), info.Digest, "sha512"); err != nil {
		t.Error(err)
	}
}

// TestChecksumMemoryIsBounded: remembered checksums do not grow without end, and one that failed is not remembered.
func TestChecksumMemoryIsBounded(t *testing.T) {
	f := start(t)
	info := f.put(t, "https://files.test/f", "f")
	for i := range maxSums {
		f.sums.known[fmt.Sprint(i)] = ""
	}
	if _, err := f.sum(t.Context(), info.Digest, "sha512"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.sum(t.Context(), "sha256:unknown", "sha512"); err == nil {
		t.Error("the checksum of an unknown blob")
	}
	if len(f.sums.known) != maxSums || len(f.sums.running) != 0 {
		t.Errorf("%d known, %d busy", len(f.sums.known), len(f.sums.running))
	}
}
