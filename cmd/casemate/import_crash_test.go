package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"casemate/appliance/content"
)

// TestKilledDuringImports kills the real binary with SIGKILL at every step of an import: after any number of bytes that
// it was given, at any moment of one that reads a file, between and within parts; and the command instead of the
// daemon. Whenever it is looked at, all names of the import are visible or none; and the same command again leads to
// what an undisturbed import leads to, with nothing left over.
func TestKilledDuringImports(t *testing.T) {
	t.Parallel()
	kills := 4
	if os.Getenv("CASEMATE_SOAK") != "" {
		kills = 500
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	d := newDaemon(t)
	whole, parts := collectForCrash(t, d)
	d.run("init", "--config", d.config)
	d.start()

	began := time.Now()
	d.run("import", whole, "--name", "crash")
	took := time.Since(began)
	want := d.state()
	if len(want.images) < 5 || len(want.files) < 20 || want.Blobs == 0 {
		t.Fatalf("an undisturbed import brings %d images, %d files, %d blobs", len(want.images), len(want.files),
			want.Blobs)
	}
	d.forgetImport()
	none := d.state()
	if len(none.images)+len(none.files)+len(none.Imports) > 0 || none.Blobs != 0 {
		t.Fatalf("after its removal there are %+v", none)
	}
	size, err := os.Stat(whole)
	if err != nil {
		t.Fatal(err)
	}
	interrupted := 0
	for kill := range kills {
		var run func() // the rest of the import, undisturbed
		how := ""
		switch kill % 4 {
		case 0: // after so many bytes
			n := rnd.Int64N(size.Size())
			switch {
			case kill == 0: // so many that the daemon reads them and cannot be done: this kill meets the import
				n = size.Size()/4 + n/2
			case rnd.IntN(4) == 0:
				n = size.Size() // all of them: only publishing is left
			}
			how = fmt.Sprintf("the daemon after %d of %d bytes", n, size.Size())
			interrupted += d.interrupt(d.feed(whole, n, rnd), d.kill, true)
			run = func() { d.run("import", whole, "--name", "crash") }
		case 1: // at any moment
			delay := time.Duration(rnd.Int64N(int64(took) * 5 / 4))
			how = fmt.Sprintf("the daemon after %v", delay)
			interrupted += d.interrupt(d.importing(delay, "import", whole, "--name", "crash"), d.kill, true)
			run = func() { d.run("import", whole, "--name", "crash") }
		case 2: // the command
			delay := time.Duration(rnd.Int64N(int64(took) * 5 / 4))
			how = fmt.Sprintf("the command after %v", delay)
			cmd := d.importing(delay, "import", whole, "--name", "crash")
			interrupted += d.interrupt(cmd, func() { cmd.cmd.Process.Kill() }, false)
			run = func() { d.importWhenFree("import", whole, "--name", "crash") }
		case 3: // in one of the parts
			order := rnd.Perm(len(parts))
			at := rnd.IntN(len(parts))
			delay := time.Duration(rnd.Int64N(int64(took)))
			how = fmt.Sprintf("the daemon in part %d, the %dth of %v, after %v", order[at]+1, at+1, order, delay)
			for _, p := range order[:at] {
				d.run("import", parts[p], "--name", "crash")
			}
			interrupted += d.interrupt(d.importing(delay, "import", parts[order[at]], "--name", "crash"), d.kill, true)
			run = func() {
				for _, p := range order[at:] {
					d.run("import", parts[p], "--name", "crash")
				}
			}
		}
		if now := d.visible(); !now.sameNames(none) && !now.sameNames(want) {
			t.Fatalf("kill %d of %s: a part of the import is visible: %d of %d images, %d of %d files", kill, how,
				len(now.images), len(want.images), len(now.files), len(want.files))
		}
		run()
		if got := d.state(); !got.equal(want) {
			t.Fatalf("kill %d of %s: the end state is\n%+v\nundisturbed it is\n%+v", kill, how, got, want)
		}
		d.readEverything(want)
		d.forgetImport()
		if got := d.state(); !got.equal(none) {
			t.Fatalf("kill %d of %s: after its removal there are %+v", kill, how, got)
		}
	}
	t.Logf("%d kills, %d of them before the import was done", kills, interrupted)
	if interrupted == 0 {
		t.Error("no kill met an import: the test says nothing")
	}
}

// TestKilledDuringRemoteImports: an import with --server goes on by itself when the bastion was killed, or stopped, and
// is started again.
func TestKilledDuringRemoteImports(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	whole, _ := collectForCrash(t, d)
	d.run("init", "--config", d.config)
	d.start()
	root := filepath.Join(d.dir, "root.pem")
	if err := os.WriteFile(root, []byte(d.run("ca")), 0o644); err != nil {
		t.Fatal(err)
	}
	var key struct{ Key string }
	d.list(&key, "apikey", "create", "crash", "--role", "importer", "-o", "json")
	size, err := os.Stat(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []os.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		// Between the command and the bastion is a wire that tells when half of the bundle has passed.
		wire, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		half := make(chan struct{})
		var passed atomic.Int64
		var wires sync.WaitGroup
		wires.Go(func() {
			for {
				c, err := wire.Accept()
				if err != nil {
					return
				}
				up, err := net.Dial("tcp", d.https)
				if err != nil {
					c.Close()
					continue
				}
				wires.Go(func() { io.Copy(c, up); c.Close() })
				wires.Go(func() {
					defer up.Close()
					buf := make([]byte, 64<<10)
					for {
						n, err := c.Read(buf)
						now := passed.Add(int64(n))
						if now >= size.Size()/2 && now-int64(n) < size.Size()/2 {
							close(half)
						}
						if _, e := up.Write(buf[:n]); err != nil || e != nil {
							return
						}
					}
				})
			}
		})
		cmd := exec.Command(d.binary, "import", whole, "--name", "crash", "--server", "https://"+wire.Addr().String(),
			"--ca", root)
		cmd.Env = append(os.Environ(), "CASEMATE_KEY="+key.Key, "XDG_CONFIG_HOME="+d.dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-half:
		case err := <-ended:
			t.Fatalf("%v before half was sent: %v\n%s", signal, err, out.String())
		}
		d.cmd.Process.Signal(signal)
		<-d.exited
		d.start()
		if err := <-ended; err != nil {
			t.Errorf("after %v: %v\n%s", signal, err, out.String())
		}
		t.Logf("after %v: %d bytes of a bundle of %d have passed", signal, passed.Load(), size.Size())
		if got := d.state(); len(got.images) < 5 || len(got.files) < 20 || len(got.Imports) == 0 ||
			!strings.HasPrefix(got.Imports[0], "crash imported") {
			t.Errorf("after %v there are %+v", signal, got)
		}
		d.forgetImport()
		wire.Close()
		wires.Wait()
	}
}

// collectForCrash makes a bundle with shared layers, several platforms, many small files and a blob so large that an
// import resumes within it; whole, and the same in parts.
func collectForCrash(t *testing.T, d *daemon) (whole string, parts []string) {
	t.Helper()
	u, stop, err := newUpstream(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var images, files strings.Builder
	base, err := layered(empty.Image, "linux/amd64", 1, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		img, err := layered(base, "linux/amd64", uint64(1000+i), 100_000, 5)
		if err != nil {
			t.Fatal(err)
		}
		ref := fmt.Sprintf("quay.io/crash/app%d:1", i)
		if err := u.put(ref, img); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&images, ref)
	}
	idx, err := platforms(5000, 200_000, "linux/amd64", "linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	if err := u.put("registry.k8s.io/crash/pause:3.10", idx); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&images, "registry.k8s.io/crash/pause:3.10")
	for i := range 40 {
		n := int64(1 + i*1000)
		if i == 0 {
			n = 70 << 20
		}
		address := fmt.Sprintf("https://dl.k8s.io/crash/%02d", i)
		if err := u.serve(address, noise(n, uint64(9000+i))); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&files, address)
	}
	imageList, fileList := filepath.Join(d.dir, "images.list"), filepath.Join(d.dir, "files.list")
	for name, text := range map[string]string{imageList: images.String(), fileList: files.String()} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	whole, split := filepath.Join(d.dir, "crash.tar"), filepath.Join(d.dir, "split.tar")
	for _, args := range [][]string{{whole}, {split, "--split", "20MiB"}} {
		cmd := exec.Command(d.binary, append([]string{"bundle", "create", "--quiet", "--images", imageList, "--files",
			fileList, "--cache", filepath.Join(d.dir, "cache")}, args...)...)
		cmd.Env = append(os.Environ(), "HTTPS_PROXY="+u.proxy, "SSL_CERT_FILE="+u.roots)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("bundle create: %v\n%s", err, out)
		}
	}
	parts, err = filepath.Glob(split + ".0*")
	if err != nil || len(parts) < 3 {
		t.Fatalf("parts: %v, %v", parts, err)
	}
	return whole, parts
}

// running is a command that imports, and when it is to be killed.
type running struct {
	cmd    *exec.Cmd
	out    bytes.Buffer
	moment <-chan struct{}
}

func (d *daemon) command(args ...string) *running {
	r := &running{cmd: exec.Command(d.binary, append([]string{"--socket", d.socket}, args...)...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	return r
}

// importing starts an import whose moment comes after a delay, or when it is done.
func (d *daemon) importing(delay time.Duration, args ...string) *running {
	d.t.Helper()
	r := d.command(args...)
	if err := r.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	moment := make(chan struct{})
	time.AfterFunc(delay, func() { close(moment) })
	r.moment = moment
	return r
}

// feed starts an import of a pipe whose moment comes when n bytes have been taken out of it, and perhaps a little after
// that.
func (d *daemon) feed(file string, n int64, rnd *rand.Rand) *running {
	d.t.Helper()
	r := d.command("import", "-", "--name", "crash")
	in, err := r.cmd.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		d.t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		d.t.Fatal(err)
	}
	after := time.Duration(rnd.IntN(20)) * time.Millisecond
	moment := make(chan struct{})
	r.moment = moment
	go func() {
		defer close(moment)
		defer f.Close()
		io.CopyN(in, f, n) // ends early when the daemon refuses it
		if n == st.Size() {
			in.Close()
			time.Sleep(after) // to land anywhere in publishing
		}
	}()
	return r
}

// interrupt kills a process at the given moment, waits for the command, and restarts the daemon if the daemon was
// killed. It returns 1 if the kill met the import, 0 if it came too late or, on a busy machine, before the command had
// reached the daemon.
func (d *daemon) interrupt(r *running, kill func(), isDaemon bool) int {
	d.t.Helper()
	<-r.moment
	kill()
	if isDaemon {
		<-d.exited
	}
	err := r.cmd.Wait()
	if isDaemon {
		d.start()
	}
	switch out := r.out.String(); {
	case err == nil:
		return 0
	case !isDaemon, strings.Contains(out, "run the same command again"):
		return 1
	case strings.Contains(out, "no casemate is running here") && strings.Contains(out, "start it with"):
		return 0
	default:
		d.t.Errorf("the command does not say how to resume: %v\n%s", err, out)
		return 1
	}
}

// importWhenFree imports once the daemon has noticed that the command before was killed.
func (d *daemon) importWhenFree(args ...string) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		r := d.command(args...)
		err := r.cmd.Run()
		if err == nil {
			return
		}
		if !strings.Contains(r.out.String(), "wait until it ends") || time.Now().After(deadline) {
			d.t.Fatalf("casemate %s: %v\n%s", strings.Join(args, " "), err, r.out.String())
		}
	}
}

// state is what there is, without times.
type state struct {
	images, files []string // "name digest"
	Imports       []string
	Blobs         int
	Bytes         int64
}

func (s state) sameNames(o state) bool {
	return slices.Equal(s.images, o.images) && slices.Equal(s.files, o.files)
}

func (s state) equal(o state) bool {
	return s.sameNames(o) && slices.Equal(s.Imports, o.Imports) && s.Blobs == o.Blobs && s.Bytes == o.Bytes
}

// visible is what clients can see.
func (d *daemon) visible() (s state) {
	d.t.Helper()
	var images []struct{ Reference, Digest string }
	var files []struct{ URL, Digest string }
	d.list(&images, "image", "list", "-o", "json")
	d.list(&files, "file", "list", "-o", "json")
	for _, i := range images {
		s.images = append(s.images, i.Reference+" "+i.Digest)
	}
	for _, f := range files {
		s.files = append(s.files, f.URL+" "+f.Digest)
	}
	return s
}

// state is all there is after what nothing names was collected.
func (d *daemon) state() state {
	d.t.Helper()
	d.run("gc", "--now")
	s := d.visible()
	var imports []content.Import
	d.list(&imports, "import", "list", "-o", "json")
	for _, i := range imports {
		s.Imports = append(s.Imports, fmt.Sprint(i.Name, " ", i.State, " ", i.Kind, " ", i.ID, " ", i.Images, " ",
			i.Files, " ", i.Blobs, " ", i.Bytes, " ", i.Claims, " ", i.Missing))
		var details content.Details
		d.list(&details, "import", "show", i.Name, "-o", "json")
		for _, n := range details.Names {
			s.Imports = append(s.Imports, fmt.Sprint(n.Name, n.Behind))
		}
	}
	var status struct {
		Blobs int
		Bytes int64
	}
	d.list(&status, "status", "-o", "json")
	s.Blobs, s.Bytes = status.Blobs, status.Bytes
	return s
}

func (d *daemon) list(into any, args ...string) {
	d.t.Helper()
	if err := json.Unmarshal([]byte(d.run(args...)), into); err != nil {
		d.t.Fatalf("casemate %s: %v", strings.Join(args, " "), err)
	}
}

func (d *daemon) forgetImport() {
	d.t.Helper()
	d.run("import", "remove", "--yes", "crash")
	d.run("gc", "--now")
}

// readEverything pulls and downloads everything listed, and compares it with its digest.
func (d *daemon) readEverything(s state) {
	d.t.Helper()
	if d.client == nil {
		d.login()
	}
	for _, line := range s.images {
		ref, digest, _ := strings.Cut(line, " ")
		r, err := name.ParseReference(ref)
		if err != nil {
			d.t.Fatal(err)
		}
		img, err := remote.Image(r, remote.WithTransport(d.client))
		if err == nil {
			err = readAll(img)
		}
		if err != nil {
			d.t.Errorf("%s (%s) is listed and not whole: %v", ref, digest, err)
		}
	}
	for _, line := range s.files {
		address, digest, _ := strings.Cut(line, " ")
		data, status, err := get(d.client, address)
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); err != nil || status != http.StatusOK ||
			got != digest {
			d.t.Errorf("%s: status %d, %s instead of %s, %v", address, status, got, digest, err)
		}
	}
}
