package rpm

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// A repository of 60 000 packages takes less than 300 MiB: here a third of them, with some 15 dependencies and
// capabilities each.
func TestLarge(t *testing.T) {
	if os.Getenv("CASEMATE_SOAK") == "" {
		t.Skip("a long run measures the memory")
	}
	const n = 20_000
	s, r := newSite(), newRepo()
	// The files are not fetched, so one content serves for all.
	content := []byte("rpm")
	for i := range n {
		p := testPackage{name: fmt.Sprintf("package-%d-with-a-name", i), arch: "x86_64", evr: parseEVR("1.2.3-4.fc40"),
			content: fmt.Append(nil, string(content), i)}
		p.href = fmt.Sprintf("Packages/p/%s-1.2.3-4.fc40.x86_64.rpm", p.name)
		for d := range 6 {
			p.fields = append(p.fields, fmt.Sprintf("Requires: lib%d.so.%d()(64bit)", (i*7+d*d)%7_000, d),
				fmt.Sprintf("Provides: lib%d.so.%d()(64bit)", i%7_000, d))
		}
		p.fields = append(p.fields, "Requires: rtld(GNU_HASH)", "Provides: "+p.name+"(x86-64) = 1.2.3-4.fc40",
			"Recommends: (other or package-1-with-a-name)")
		for f := range 4 {
			p.fields = append(p.fields, fmt.Sprintf("File: /usr/bin/program-%d-%d", i, f))
		}
		r.packages = append(r.packages, p)
	}
	r.packages = append(r.packages, testPackage{name: "glibc", arch: "x86_64", evr: parseEVR("2-1"),
		fields: []string{"Provides: rtld(GNU_HASH)"}, href: "glibc.rpm", content: content})
	r.publish(s)
	for url := range s.files {
		if strings.HasSuffix(url, ".rpm") {
			delete(s.files, url)
		}
	}
	opt := options(t, aRepo(), "package-1-with-a-name")
	before := heap()
	peak := uint64(0)
	opt.Near = nil
	c := &Collector{fetch: s, opt: opt, pool: newPool()}
	c.opt.Architectures = []string{"x86_64"}
	r.packages = nil
	repo, err := c.readRepo(context.Background(), &opt.Repos[0])
	if err != nil {
		t.Fatal(err)
	}
	peak = max(peak, heap()-before)
	c.pool = nil
	u, err := c.universe(context.Background(), []*repository{repo})
	if err != nil {
		t.Fatal(err)
	}
	peak = max(peak, heap()-before)
	if len(u.packages) != n+1 {
		t.Errorf("%d packages are candidates", len(u.packages))
	}
	runtime.KeepAlive(c)
	// The garbage collector lets the heap grow to twice what is in use.
	t.Logf("%d MiB", peak>>20)
	if limit := uint64(50 << 20); peak > limit {
		t.Errorf("%d MiB are in use, at most %d should be", peak>>20, limit>>20)
	}
}

// heap is what is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
