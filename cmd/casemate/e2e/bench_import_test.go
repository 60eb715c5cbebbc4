//go:build bench

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"casemate/bundle"
	"casemate/bundle/format"
)

// ociLayout is a directory of blobs that is written as it goes, so that ten GiB need no memory.
type ociLayout struct {
	dir   string
	index bundle.Index
	refs  []v1.Descriptor
}

func (l *ociLayout) blob(t testing.TB, r io.Reader) v1.Descriptor {
	t.Helper()
	tmp := filepath.Join(l.dir, "tmp")
	f, err := os.Create(tmp)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), r)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	sum := fmt.Sprintf("%x", h.Sum(nil))
	if err := os.Rename(tmp, filepath.Join(l.dir, "blobs/sha256", sum)); err != nil {
		t.Fatal(err)
	}
	l.index.Blobs = append(l.index.Blobs, bundle.Blob{Digest: "sha256:" + sum, Size: n})
	return v1.Descriptor{MediaType: types.OCILayer, Digest: v1.Hash{Algorithm: "sha256", Hex: sum}, Size: n}
}

func (l *ociLayout) open(digest string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(l.dir, "blobs", strings.Replace(digest, ":", "/", 1)))
}

// newLayout writes images of random layers and the index.json that names them.
func newLayout(t testing.TB, dir string, images, layers int, size int64) *ociLayout {
	t.Helper()
	l := &ociLayout{dir: dir, index: bundle.Index{Version: bundle.IndexVersion}}
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(v any) v1.Descriptor {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return l.blob(t, strings.NewReader(string(data)))
	}
	for i := range images {
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
		cfg := v1.ConfigFile{OS: "linux", Architecture: goarch(), Config: v1.Config{User: strconv.Itoa(i)},
			RootFS: v1.RootFS{Type: "layers"}}
		for range layers {
			d := l.blob(t, io.LimitReader(rand.Reader, size))
			m.Layers = append(m.Layers, d)
			cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, d.Digest)
		}
		m.Config = put(cfg)
		m.Config.MediaType = types.OCIConfigJSON
		d := put(m)
		d.MediaType = m.MediaType
		name := fmt.Sprintf("quay.io/bench/i%d", i)
		d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name + ":1"}
		l.refs = append(l.refs, d)
		total := d.Size + m.Config.Size + int64(layers)*size
		l.index.Images = append(l.index.Images, bundle.Image{Repository: name, Tag: "1", Digest: d.Digest.String(),
			MediaType: string(d.MediaType), Size: total,
			Platforms: []string{"linux/" + goarch()}})
	}
	index, _ := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: l.refs})
	os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644)
	os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
	return l
}

// TestBenchImport compares an import of 10 GiB with what must be done in any case, hashing the bytes and copying them
// to disk, and with pushing the same images by skopeo into distribution. The page cache is emptied before each.
func TestBenchImport(t *testing.T) {
	gib := scaled(10, 1)
	if s := os.Getenv("CASEMATE_BENCH_GIB"); s != "" {
		gib, _ = strconv.Atoi(s)
	}
	dir := t.TempDir()
	l := newLayout(t, filepath.Join(dir, "layout"), gib, 4, 256<<20)
	file := filepath.Join(dir, "bundle.tar")
	if _, err := format.Write(context.Background(), file, &l.index, l.open, format.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.start(t)
	d := distribution(t)
	timed := func(what string, args ...string) float64 {
		must(t, "sync")
		os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
		t0 := time.Now()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		s := time.Since(t0).Seconds()
		fmt.Printf("BENCH import %d GiB  %-28s %7.1f s  %6.0f MiB/s\n", gib, what, s, float64(gib)*1024/s)
		return s
	}
	sh := func(script string, args ...string) []string {
		return append([]string{"sh", "-c", script, "sh"}, args...)
	}
	casemate := filepath.Join(repo(t), "bin/casemate")
	var hashing, copying, importing []float64
	for range scaled(3, 1) {
		hashing = append(hashing, timed("sha256sum", "sha256sum", file))
		timed("openssl sha256", "openssl", "dgst", "-sha256", file) // which uses the processor's instructions for it
		copying = append(copying, timed("cp and sync", sh(`cp --reflink=never "$1" "$1.copy" && sync "$1.copy"`,
			file)...))
		os.Remove(file + ".copy")
		importing = append(importing, timed("casemate import", casemate, "--socket", b.socket, "import", "--name",
			"bench", file))
		must(t, casemate, "--socket", b.socket, "import", "remove", "--yes", "bench")
		must(t, casemate, "--socket", b.socket, "gc", "--now")
	}
	peak := b.peak()
	must(t, casemate, "--socket", b.socket, "import", "--name", "bench", file)
	again := timed("casemate import, all is held", casemate, "--socket", b.socket, "import", file)
	script :=
		`cd "$1"; i=0; while [ $i -lt "$3" ]; do skopeo copy -q --dest-tls-verify=false --insecure-policy "oci:$1:quay.io/bench/i$i:1" "docker://${2#http://}/bench/i$i:1"; i=$((i+1)); done`
	skopeo := timed("skopeo into distribution", sh("set -e; "+script, l.dir, d.http, strconv.Itoa(gib))...)
	slower := max(median(hashing), median(copying))
	fmt.Printf("BENCH import %d GiB  ratio to the slower of hashing and copying: %.2f (1 is as fast; expected at "+
		"least 0.80); to skopeo: %.1fx; again %.1f s; peak memory of the daemon %.0f MiB\n",
		gib, slower/median(importing), skopeo/median(importing), again, peak)
}

// TestBenchSmallFiles compares an import of 20 000 files of 10 KiB with what must be
// done in any case: copying them, syncing, and hashing them. Nothing is removed between the rounds, because ext4 looks
// for a new inode among those that were freed in the last seconds.
func TestBenchSmallFiles(t *testing.T) {
	const files, size = 20_000, 10 << 10
	dir := t.TempDir()
	tree := func(round int) string {
		root := filepath.Join(dir, fmt.Sprint("tree", round))
		data := make([]byte, size)
		for i := range files {
			name := filepath.Join(root, "files.example.com", fmt.Sprint(i/500), fmt.Sprint(i))
			rand.Read(data)
			if i%500 == 0 {
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	b := newBench(t)
	b.start(t)
	casemate := filepath.Join(repo(t), "bin/casemate")
	timed := func(what string, warm bool, args ...string) (seconds, cpu float64) {
		must(t, "sync")
		if !warm {
			os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
		}
		before, t0 := b.cpu(t), time.Now()
		cmd := exec.Command(args[0], args[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		seconds = time.Since(t0).Seconds()
		cpu = (b.cpu(t) - before + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		fmt.Printf("BENCH %d files of %d KiB  %-28s warm %-5v %6.1f s  %5.1f CPU s\n",
			files, size>>10, what, warm, seconds, cpu)
		return seconds, cpu
	}
	const copied = `cp -r "$1" "$1.copy" && sync &&
		cd "$1.copy" && find . -type f -print0 | xargs -0 sha256sum > /dev/null`
	for _, warm := range []bool{false, true} {
		var theirs, ours, theirCPU, ourCPU []float64
		for round := range scaled(3, 1) {
			root := tree(2*round + map[bool]int{true: 1}[warm])
			s, c := timed("cp, sync and sha256sum", warm, "sh", "-c", copied, "sh", root)
			theirs, theirCPU = append(theirs, s), append(theirCPU, c)
			name := fmt.Sprintf("warm-%v-%d", warm, round)
			s, c = timed("casemate import", warm, casemate, "--socket", b.socket, "import", "--name", name, root)
			ours, ourCPU = append(ours, s), append(ourCPU, c)
		}
		fmt.Printf("BENCH %d files of %d KiB  warm %v  ratio of seconds %.2f (at most 1.00 wanted), "+
			"of CPU seconds %.2f, peak memory of the daemon %.0f MiB\n", files, size>>10, warm,
			median(ours)/median(theirs), median(ourCPU)/median(theirCPU), b.peak())
		report(row{what: fmt.Sprintf("import of 20 000 files of 10 KiB, page cache warm: %v", warm), unit: "s",
			ours: median(ours),
			peer: "cp, sync, sha256sum", best: median(theirs), factor: 1})
	}
}
