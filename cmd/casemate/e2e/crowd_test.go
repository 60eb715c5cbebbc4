//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// repeating is content of a size that needs no memory.
type repeating struct{ size int64 }

func (r repeating) writeTo(w io.Writer, from, to int64) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for from < to {
		at := from % int64(len(block))
		n, err := w.Write(block[at:min(int64(len(block)), at+to-from)])
		if err != nil {
			return
		}
		from += int64(n)
	}
}

func (r repeating) digest() string {
	h := sha256.New()
	r.writeTo(h, 0, r.size)
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}

// memory returns a field of /proc/PID/status, in bytes.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	m := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("%s of %d: %v", field, pid, err)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestFetchForMany: 200 clients ask at once for a large layer that is not here. It is fetched once, all get the whole,
// and the memory of the daemon does not grow with its size: 64 MiB, 1 GiB with CASEMATE_SOAK=1.
func TestFetchForMany(t *testing.T) {
	t.Parallel()
	const clients = 200
	layer := repeating{64 << 20}
	if os.Getenv("CASEMATE_SOAK") != "" {
		layer.size = 1 << 30
	}
	digest := layer.digest()
	l := newLab(t)
	up := newInternetWithout(t, l)
	var fetches atomic.Int64
	all := make(chan struct{})
	up.registries["quay.io"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		if r.Method != http.MethodGet || r.URL.Path != "/v2/team/big/blobs/"+digest {
			http.NotFound(w, r)
			return
		}
		fetches.Add(1)
		w.Header().Set("Content-Length", strconv.FormatInt(layer.size, 10))
		layer.writeTo(w, 0, layer.size/2)
		<-all // every client waits for the second half
		layer.writeTo(w, layer.size/2, layer.size)
	})
	b := newBastion(t, l, "n1", "--set", "upstream.resolvers="+up.resolver(t), "--set", "upstream=on")
	proc := b.serve(t)
	b.casemate(t, "config", "set", "upstream.ca", "--from", b.write("internet.pem", up.pem))
	node := l.host("node", b.ip)
	node.trust(b.casemate(t, "ca"))
	url := "https://quay.io/v2/team/big/blobs/" + digest

	// 5 resets the peak (proc_pid_clear_refs(5)).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", proc.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	before := memory(t, proc.Process.Pid, "VmRSS")
	var wg sync.WaitGroup
	wg.Go(func() {
		got := node.must(t, "sh", "-c", "curl -sSf "+url+" | sha256sum")
		if "sha256:"+strings.Fields(got)[0] != digest {
			t.Errorf("a client got %s", got)
		}
	})
	var got string
	wg.Go(func() {
		got = node.must(t, "curl", "-Z", "--parallel-immediate", "--parallel-max", fmt.Sprint(clients), "--http1.1",
			"-sSf", "-o", "/dev/null", "-w", "%{http_code} %{size_download}\n", fmt.Sprintf("%s#[1-%d]", url, clients))
	})
	until(t, "all clients are connected", func() error {
		text := node.must(t, "ss", "-Htn", "state", "established", "dst", b.ip)
		if n := strings.Count(text, "\n"); n < clients {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	close(all)
	wg.Wait()
	if n := strings.Count(got, fmt.Sprintf("200 %d\n", layer.size)); n != clients {
		t.Errorf("%d of %d clients got the whole: %.300s", n, clients, got)
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	grown := memory(t, proc.Process.Pid, "VmHWM") - before
	t.Logf("%d clients, %d MiB: the memory has grown by %d MiB at most", clients, layer.size>>20, grown>>20)
	if grown > 100<<20 {
		t.Errorf("the memory has grown by %d MiB", grown>>20)
	}
}

// TestFetchWithoutLeader: the leader dies by kill -9 while it and a follower fetch. The follower's client gets its file
// without a break, the leader's client gets it from another node, and both files are stored by those that are left.
func TestFetchWithoutLeader(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	up := newInternetWithout(t, l)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var fetches sync.Map // *atomic.Int64 by path
	half, release := make(chan string, 8), make(chan struct{})
	up.sites["dl.k8s.io"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := fetches.LoadOrStore(r.URL.Path, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content[:len(content)/2])
		w.(http.Flusher).Flush()
		half <- r.URL.Path
		select {
		case <-release:
			w.Write(content[len(content)/2:])
		case <-r.Context().Done():
		}
	})
	tr := newTrio(t, l, "--set", "upstream.resolvers="+up.resolver(t), "--set", "upstream=on")
	tr.nodes[0].casemate(t, "config", "set", "upstream.ca", "--from", up.write("internet.pem", up.pem))
	leader, followers := tr.roles()
	node := l.host("node", followers[0].ip)
	node.trust(leader.casemate(t, "ca"))
	var wg sync.WaitGroup
	for file, at := range map[string]string{"follower": followers[0].ip, "leader": leader.ip + "," + followers[1].ip} {
		wg.Go(func() {
			node.must(t, "curl", "-sSf", "--retry", "5", "--retry-all-errors", "--retry-delay", "1", "--resolve",
				"dl.k8s.io:443:"+at, "-o", node.path(file), "https://dl.k8s.io/"+file)
			if got, err := os.ReadFile(node.path(file)); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s: %v, %d bytes", file, err, len(got))
			}
		})
	}
	for range 2 {
		<-half
	}
	tr.kill(leader)
	close(release)
	wg.Wait()
	for path, most := range map[string]int64{"/follower": 1, "/leader": 2} {
		if n, ok := fetches.Load(path); !ok || n.(*atomic.Int64).Load() > most {
			t.Errorf("%s was fetched %d times", path, n.(*atomic.Int64).Load())
		}
	}
	for _, b := range followers {
		until(t, b.name+" has both files", func() error {
			list, err := b.try(b.bin(), "--socket", b.socket, "file", "list")
			if err != nil || !strings.Contains(list, "dl.k8s.io/follower") ||
				!strings.Contains(list, "dl.k8s.io/leader") {
				return fmt.Errorf("%v: %s", err, list)
			}
			return nil
		})
	}
	must(t, "ip", "-n", up.ns, "link", "set", "eth0", "down")
	for _, b := range followers {
		for _, file := range []string{"follower", "leader"} {
			got := node.must(t, "curl", "-sSf", "--resolve", "dl.k8s.io:443:"+b.ip, "https://dl.k8s.io/"+file)
			if got != string(content) {
				t.Errorf("%s has another %s", b.name, file)
			}
		}
	}
}
