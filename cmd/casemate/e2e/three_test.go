//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// trio is three bastions that are one appliance.
type trio struct {
	t     *testing.T
	lab   *lab
	nodes []*bastion
	procs map[*bastion]*exec.Cmd
}

func newTrio(t *testing.T, l *lab, initArgs ...string) *trio {
	t.Helper()
	tr := &trio{t: t, lab: l, procs: map[*bastion]*exec.Cmd{}}
	first := newBastion(t, l, "n1", initArgs...)
	tr.nodes = append(tr.nodes, first)
	tr.start(first)
	for _, name := range []string{"n2", "n3"} {
		tr.start(tr.join(first, name))
	}
	tr.whole(3)
	return tr
}

// join makes a new host a member.
func (tr *trio) join(by *bastion, name string) *bastion {
	tr.t.Helper()
	b := &bastion{host: tr.lab.host(name, "")}
	b.config, b.socket = b.path("casemate.yaml"), b.path("admin.sock")
	// A small separate disk, so that it can be filled.
	if err := os.Mkdir(b.path("disk"), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	must(tr.t, "mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", b.path("disk"))
	tr.t.Cleanup(func() { run("umount", b.path("disk")) })
	b.configure(b.path("disk/data"))
	token := strings.Fields(by.casemate(tr.t, "token", "create"))[0]
	b.must(tr.t, b.bin(), "join", "--config", b.config, "--token", token, by.ip)
	tr.nodes = append(tr.nodes, b)
	return b
}

func (tr *trio) start(b *bastion) { tr.procs[b] = b.serve(tr.t) }

func (tr *trio) kill(all ...*bastion) {
	tr.t.Helper()
	for _, b := range all {
		if err := tr.procs[b].Process.Kill(); err != nil {
			tr.t.Fatal(err)
		}
	}
	for _, b := range all {
		tr.ended(b)
	}
}

// stop ends a node the clean way and waits for it.
func (tr *trio) stop(b *bastion) {
	tr.t.Helper()
	tr.procs[b].Process.Signal(syscall.SIGTERM)
	tr.ended(b)
}

// ended waits for a node's end: until then its ports are taken.
func (tr *trio) ended(b *bastion) {
	tr.t.Helper()
	p := tr.procs[b].Process
	until(tr.t, b.name+" ends", func() error {
		if p.Signal(syscall.Signal(0)) == nil {
			return fmt.Errorf("it runs")
		}
		return nil
	})
	delete(tr.procs, b)
}

type memberInfo struct {
	Node, Role  string
	Up, Self    bool
	BlobsToCome int `json:"blobs_to_come"`
}

func (b *bastion) members() (list []memberInfo, err error) {
	out, err := b.try(b.bin(), "--socket", b.socket, "member", "list", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	return list, err
}

// whole waits until n nodes vote, are up as all that run see it, and have every blob.
func (tr *trio) whole(n int) {
	tr.t.Helper()
	until(tr.t, "the cluster is whole", func() error {
		for b := range tr.procs {
			list, err := b.members()
			if err != nil {
				return err
			}
			voters, leader := 0, 0
			for _, m := range list {
				if !m.Up || m.BlobsToCome != 0 {
					return fmt.Errorf("%s reports of %s: up %v, %d blobs missing", b.name, m.Node, m.Up, m.BlobsToCome)
				}
				if m.Role != "learner" {
					voters++
				}
				if m.Role == "leader" {
					leader++
				}
			}
			if voters != n || leader != 1 {
				return fmt.Errorf("%s sees %d voters, %d leaders", b.name, voters, leader)
			}
		}
		return nil
	})
}

// roles returns the leader and the others that run.
func (tr *trio) roles() (leader *bastion, followers []*bastion) {
	tr.t.Helper()
	until(tr.t, "there is a leader", func() error {
		leader, followers = nil, nil
		for _, b := range tr.nodes {
			if tr.procs[b] == nil {
				continue
			}
			list, err := b.members()
			if err != nil {
				return err
			}
			if slices.ContainsFunc(list, func(m memberInfo) bool { return m.Self && m.Role == "leader" }) {
				leader = b
			} else {
				followers = append(followers, b)
			}
		}
		if leader == nil {
			return fmt.Errorf("none of %d nodes leads", len(tr.procs))
		}
		return nil
	})
	return leader, followers
}

// writes puts files one after another at a node until it is stopped; it remembers which were acknowledged and the
// longest time between two.
type writes struct {
	mu     sync.Mutex
	acked  []string
	last   time.Time
	gap    time.Duration
	failed int
}

func (tr *trio) write(ctx context.Context, wg *sync.WaitGroup, w *writes, tag string, at *bastion) {
	w.last = time.Now()
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			url := fmt.Sprintf("https://dl.k8s.io/%s/%d", tag, i)
			_, err := at.tryIn(url, at.bin(), "--socket", at.socket, "file", "put", url, "/dev/stdin")
			w.mu.Lock()
			if err == nil {
				w.acked = append(w.acked, url)
				w.gap, w.last = max(w.gap, time.Since(w.last)), time.Now()
			} else {
				w.failed++
			}
			w.mu.Unlock()
		}
	})
}

// pulls pulls with containerd in a loop, as kubelets do: one that fails is tried again after longer and longer pauses.
// How long the nodes need for another leader depends on the machine; that a pull succeeds in the end does not.
type pulls struct {
	mu            sync.Mutex
	done, retried int
	tries         int // the most that one pull took
	failed        []string
	last          time.Time
	gap           time.Duration
}

func (n *host) pullLoop(ctx context.Context, wg *sync.WaitGroup, p *pulls, sock, ref string) {
	p.last = time.Now()
	wg.Go(func() {
		for ctx.Err() == nil {
			var out string
			var err error
			try := 1
			for pause := 5 * time.Second; ; pause *= 2 { // kubelet's first pause is 10 s
				n.try("ctr", "-a", sock, "images", "rm", "--sync", ref)
				out, err = n.try("ctr", "-a", sock, "images", "pull", "--snapshotter", "native", ref)
				if err == nil || try == 6 {
					break
				}
				time.Sleep(pause)
				try++
			}
			p.mu.Lock()
			if p.tries = max(p.tries, try); try > 1 {
				p.retried++
			}
			if err == nil {
				p.done++
				p.gap, p.last = max(p.gap, time.Since(p.last)), time.Now()
			} else {
				p.failed = append(p.failed, out)
			}
			p.mu.Unlock()
		}
	})
}

// TestThreeBastions lets each kind of loss happen while containerd pulls and files are written, and prints how long it
// was noticed.
func TestThreeBastions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tr := newTrio(t, l)
	n1 := tr.nodes[0]
	if out, err := n1.tryIn("correct horse\n", n1.bin(), "--socket", n1.socket, "user", "add", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	ca := n1.casemate(t, "ca")
	resolv := ""
	for _, b := range tr.nodes {
		resolv += "nameserver " + b.ip + "\n"
	}
	resolv += "options timeout:1 attempts:2\n"
	client1, node := l.host("admin", ""), l.host("node", "")
	for _, h := range []*host{client1, node} {
		h.write("etc/resolv.conf", resolv)
		h.trust(ca)
	}
	own := "registry.casemate.internal"
	oci := writeLayout(t, client1.path("pause"), platforms(t, pauseImage(t)))
	if out, err := client1.tryIn("correct horse", client(t, "crane"), "auth", "login", own, "-u", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("crane auth login: %v\n%s", err, out)
	}
	client1.must(t, client(t, "crane"), "push", "--index", oci, own+"/registry.k8s.io/pause:3.10")
	ref := "registry.k8s.io/pause:3.10"
	sock := node.containerd(t)
	node.must(t, "ctr", "-a", sock, "images", "pull", "--snapshotter", "native", ref)

	t.Run("an upload that moves from node to node", func(t *testing.T) {
		// Started at n1, gone on with at n2, finished at n3: each passes it to the node that has its bytes.
		data := bytes.Repeat([]byte("casemate"), 100_000)
		curl := func(b *bastion, args ...string) string {
			return client1.must(t, append([]string{"curl", "-sS", "--resolve", own + ":443:" + b.ip, "-u",
				"ops:correct horse", "-D", "-", "-o", "/dev/null"}, args...)...)
		}
		location := func(head string) string {
			for line := range strings.Lines(head) {
				if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, "location") {
					return "https://" + own + strings.TrimSpace(v)
				}
			}
			t.Fatalf("no Location in\n%s", head)
			return ""
		}
		at := location(curl(tr.nodes[0], "-X", "POST", "https://"+own+"/v2/team/moved/blobs/uploads/"))
		at = location(curl(tr.nodes[1], "-X", "PATCH", "-H", "Content-Type: application/octet-stream", "--data-binary",
			"@"+client1.write("tmp/blob", string(data)), at))
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		if head := curl(tr.nodes[2], "-X", "PUT", at+"&digest="+digest); !strings.Contains(head, " 201 ") {
			t.Fatalf("the upload was not finished:\n%s", head)
		}
		for _, b := range tr.nodes {
			if head := curl(b, "https://"+own+"/v2/team/moved/blobs/"+digest); !strings.Contains(head, " 200 ") {
				t.Errorf("%s does not have it:\n%s", b.name, head)
			}
		}
	})

	var acked []string
	event := func(name string, do func(leader *bastion, followers []*bastion) (writeAt *bastion, begin func(),
		end func())) {
		t.Run(name, func(t *testing.T) {
			tr.whole(3)
			leader, followers := tr.roles()
			at, begin, end := do(leader, followers)
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			var wg sync.WaitGroup
			w, p := &writes{}, &pulls{}
			node.pullLoop(ctx, &wg, p, sock, ref)
			if at != nil {
				tr.write(ctx, &wg, w, strings.ReplaceAll(name, " ", "-"), at)
			}
			some := func(what string) {
				w.mu.Lock()
				writes := len(w.acked)
				w.mu.Unlock()
				p.mu.Lock()
				pulls := p.done
				p.mu.Unlock()
				until(t, what, func() error {
					w.mu.Lock()
					defer w.mu.Unlock()
					p.mu.Lock()
					defer p.mu.Unlock()
					if at != nil && len(w.acked) < writes+3 || p.done+len(p.failed) < pulls+3 {
						return fmt.Errorf("%d writes (%d failed), %d pulls", len(w.acked)-writes, w.failed,
							p.done-pulls)
					}
					return nil
				})
			}
			some("before it")
			begin()
			some("during it")
			end()
			some("after it")
			stop()
			wg.Wait()
			t.Logf("pulls: %d, of which %d needed more than one try and none more than %d; longest time between two "+
				"%.2f s", p.done, p.retried, p.tries, p.gap.Seconds())
			if at != nil {
				t.Logf("writes: %d acknowledged, %d refused; longest time between two %.2f s", len(w.acked), w.failed,
					w.gap.Seconds())
			}
			for _, out := range p.failed {
				t.Errorf("a pull failed six times:\n%s", out)
			}
			acked = append(acked, w.acked...)
			tr.whole(3)
			for _, b := range tr.nodes {
				have := b.casemate(t, "file", "list")
				for _, url := range acked {
					if !strings.Contains(have, url+" ") {
						t.Fatalf("%s was acknowledged and is not at %s", url, b.name)
					}
				}
			}
		})
	}
	// named waits until DNS of a node does, or does not, name another.
	named := func(by, what *bastion, want bool) time.Duration {
		began := time.Now()
		until(t, fmt.Sprintf("DNS at %s: %s named %v", by.name, what.name, want), func() error {
			out, _ := node.try("dig", "+short", "+tries=1", "+time=1", "@"+by.ip, "registry.k8s.io", "A")
			if strings.Contains(out, what.ip) != want || out == "" {
				return fmt.Errorf("%q", out)
			}
			return nil
		})
		return time.Since(began)
	}
	event("the leader is killed", func(leader *bastion, followers []*bastion) (*bastion, func(), func()) {
		return followers[0], func() {
			tr.kill(leader)
			t.Logf("DNS stopped naming the dead leader after %.2f s", named(followers[0], leader, false).Seconds())
		}, func() { tr.start(leader); named(followers[0], leader, true) }
	})
	event("a follower is killed", func(leader *bastion, followers []*bastion) (*bastion, func(), func()) {
		return leader, func() {
			tr.kill(followers[0])
			t.Logf("DNS stopped naming the dead follower after %.2f s", named(leader, followers[0], false).Seconds())
		}, func() { tr.start(followers[0]) }
	})
	event("the leader is cut off without a word", func(leader *bastion, followers []*bastion) (*bastion, func(),
		func()) {
		port := fmt.Sprintf("p%d", slices.Index(tr.nodes, leader)+1)
		return followers[0], func() {
			must(t, "ip", "-n", l.name+"sw", "link", "set", port, "nomaster") // the wire stays up and leads nowhere
			t.Logf("DNS stopped naming the lost leader after %.2f s", named(followers[0], leader, false).Seconds())
			// A client on the leader's side of the cut can read, and gets an error for writes.
			leader.trust(ca)
			leader.must(t, "curl", "-fsS", "-o", "/dev/null", "--resolve", "registry.k8s.io:443:"+leader.ip, "-H",
				"Accept: */*", "https://registry.k8s.io/v2/pause/manifests/3.10")
			leader.fails(t, "no majority", leader.bin(), "--socket", leader.socket, "name", "set",
				"cut.casemate.internal", "TXT", "off")
			if out := leader.must(t, "curl", "-sS", "--resolve", own+":443:"+leader.ip, "-u", "ops:correct horse", "-X",
				"PUT", "-H", "Content-Type: application/vnd.oci.image.index.v1+json",
				"--data-binary",
				`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`, "-w",
				"%{http_code}", "https://"+own+"/v2/team/cut/manifests/1"); !strings.HasSuffix(out, "503") ||
				!strings.Contains(out, "UNAVAILABLE") {
				t.Errorf("a push without a majority: %s", out)
			}
		}, func() { must(t, "ip", "-n", l.name+"sw", "link", "set", port, "master", "br0") }
	})
	var heavy string // an image that the full disk has no room for: 24 MiB
	event("a disk is full", func(leader *bastion, followers []*bastion) (*bastion, func(), func()) {
		full := tr.nodes[1]
		if full == leader {
			full = tr.nodes[2]
		}
		at := leader
		return at, func() {
				fillDisk(t, full.path("disk"), 12<<20)
				heavy = own + "/docker.io/library/heavy:1"
				client1.must(t, client(t, "crane"), "push",
					writeImage(t, client1.path("heavy"), randomImage(t, 24<<20, 1)), heavy)
				// Asked at the full one, which passes it on.
				out := client1.must(t, "curl", "-sS", "--resolve", "docker.io:443:"+full.ip, "-H", "Accept: */*",
					"https://docker.io/v2/library/heavy/manifests/1")
				var m struct{ Layers []struct{ Digest string } }
				if err := json.Unmarshal([]byte(out), &m); err != nil || len(m.Layers) != 1 {
					t.Fatalf("%v: %s", err, out)
				}
				client1.must(t, "curl", "-fsS", "--resolve", "docker.io:443:"+full.ip, "-o", client1.path("tmp/layer"),
					"https://docker.io/v2/library/heavy/blobs/"+m.Layers[0].Digest)
				if sum := client1.must(t, "sha256sum", client1.path("tmp/layer")); !strings.HasPrefix(sum,
					strings.TrimPrefix(m.Layers[0].Digest, "sha256:")) {
					t.Errorf("through the full node: %s instead of %s", sum, m.Layers[0].Digest)
				}
			}, func() {
				if err := os.Remove(full.path("disk/filler")); err != nil {
					t.Fatal(err)
				}
			}
	})
	event("rolling upgrade to another build", func(leader *bastion, followers []*bastion) (*bastion, func(), func()) {
		next := filepath.Join(l.dir, "casemate-next")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version=next", "-o", next,
			"./cmd/casemate")
		build.Dir, build.Env = repo(t), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return followers[0], func() {
				for _, b := range []*bastion{followers[1], leader, followers[0]} {
					tr.stop(b)
					b.binary = next
					tr.start(b)
					tr.whole(3)
				}
			}, func() {
				until(t, "every node has the new version", func() error {
					if out := leader.casemate(t, "member", "list"); strings.Count(out, " next ") != 3 {
						return errors.New(out)
					}
					return nil
				})
				leader.casemate(t, "cluster", "format", "--raise")
			}
	})
	event("all three are killed at once", func(leader *bastion, followers []*bastion) (*bastion, func(), func()) {
		return nil, func() {
			tr.kill(tr.nodes...)
			for _, b := range tr.nodes {
				tr.procs[b] = b.launch(t) // as after a power failure: none of them waits for another
			}
			for _, b := range tr.nodes {
				b.ready(t)
			}
		}, func() {}
	})
	event("a node is replaced with an empty disk", func(leader *bastion, followers []*bastion) (*bastion, func(),
		func()) {
		gone := followers[1]
		return leader, func() {
				tr.kill(gone)
				if err := os.RemoveAll(gone.path("disk/data")); err != nil {
					t.Fatal(err)
				}
				leader.casemate(t, "member", "remove", "--yes", gone.name)
				tr.nodes = slices.DeleteFunc(tr.nodes, func(b *bastion) bool { return b == gone })
			}, func() {
				tr.start(tr.join(leader, "n4"))
			}
	})
}

// fillDisk writes a file "filler" into dir, a separate file system, that leaves so many bytes of it available.
func fillDisk(t *testing.T, dir string, left int64) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	fill := int64(fs.Bavail)*fs.Bsize - left
	if fill <= 0 {
		t.Fatalf("%s: %d bytes are available, fewer than the %d that should be left", dir, int64(fs.Bavail)*fs.Bsize,
			left)
	}
	must(t, "fallocate", "-l", fmt.Sprint(fill), filepath.Join(dir, "filler"))
}
