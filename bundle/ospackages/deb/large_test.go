package deb

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
)

// large puts an index of n packages on a site, each of which needs the one before it and recommends another.
func large(s *site, n int) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	plain := sha256.New()
	size := 0
	w := io.MultiWriter(z, plain)
	for i := range n {
		written, err := io.WriteString(w, pkg(fmt.Sprintf("package-%d", i), fmt.Sprintf("1:2.3.%d-4+deb12u1", i),
			fmt.Sprintf("Depends: package-%d (>= 1:2.0), libc6 (>= 2.34) | package-%d", max(0, i-1), i/2),
			fmt.Sprintf("Recommends: package-%d", i/3), fmt.Sprintf("Provides: virtual-%d (= 1)", i%1000),
			"Installed-Size: 12345", "Homepage: https://example.org/of/this/package", "Description-md5: "+
				"d943033bedada21853d2ae54a2578a7b", "Tag: game::strategy, interface::graphical, interface::x11, "+
				"role::program,\n uitoolkit::sdl, uitoolkit::wxwidgets, use::gameplaying", "Section: games",
			"Priority: optional", "MD5sum: 4d471183a39a3a11d00cd35bf9f6803d")+"\n")
		if err != nil {
			panic(err)
		}
		size += written
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	d := newDist("stable")
	d.indices = map[string]string{}
	base := host + "/dists/stable/"
	release := fmt.Sprintf("%s %x %d main/binary-amd64/Packages\n %x %d main/binary-amd64/Packages.gz\n",
		d.release(s, base), plain.Sum(nil), size, sha256.Sum256(packed.Bytes()), packed.Len())
	s.files[base+"main/binary-amd64/Packages.gz"] = packed.Bytes()
	s.files[base+"InRelease"] = d.key.clearsign([]byte(release))
}

// A long chain of dependencies comes whole. In a long run the index is as large as that of Debian's main component, and
// fits in less than 300 MiB.
func TestLargeIndex(t *testing.T) {
	soak, n := os.Getenv("CASEMATE_SOAK") != "", 2_000
	if soak {
		n = 60_000
	}
	s := newSite()
	large(s, n)
	res, err := Collect(context.Background(), s, options(t, stableSource, fmt.Sprintf("package-%d", n-1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(res.Packages); got != n {
		t.Errorf("collected %d packages, want %d", got, n)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("the heap had %d MiB", m.HeapSys>>20)
	if soak && m.HeapSys > 300<<20 {
		t.Errorf("the heap had %d MiB", m.HeapSys>>20)
	}
}

func BenchmarkCollect(b *testing.B) {
	s := newSite()
	large(s, 60_000)
	opt := options(b, stableSource, "package-100")
	for b.Loop() {
		if _, err := Collect(context.Background(), s, opt); err != nil {
			b.Fatal(err)
		}
	}
}
