package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestKilledDuringPushes kills the real binary with SIGKILL while images are pushed, again and again. Whatever was
// acknowledged is there afterwards, byte for byte, and whatever can be seen is whole. (What a power cut does besides is
// tested in the cluster's own tests: a killed process leaves the page cache behind.)
func TestKilledDuringPushes(t *testing.T) {
	t.Parallel()
	kills := 3
	if os.Getenv("CASEMATE_SOAK") != "" {
		kills = 500
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	d := newDaemon(t)
	d.run("init", "--config", d.config)
	d.start()
	d.login()

	var mu sync.Mutex
	acked := map[string]v1.Hash{} // reference → digest
	for kill := range kills {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		pushed := make(chan struct{}, 1)
		for worker := range 3 {
			size := 1 + rnd.Int64N(200_000)
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					img, err := random.Image(size, 2)
					if err != nil {
						t.Error(err)
						return
					}
					ref := fmt.Sprintf("registry.casemate.internal/registry.k8s.io/crash/w%d:k%d-%d", worker, kill, i)
					if err := d.push(ctx, ref, img); err != nil {
						return // the daemon is gone, or we stop
					}
					digest, _ := img.Digest()
					mu.Lock()
					acked[ref] = digest
					mu.Unlock()
					select {
					case pushed <- struct{}{}:
					default:
					}
				}
			})
		}
		// Let at least one push through so that every round has something to lose; then kill at any moment.
		select {
		case <-pushed:
		case <-time.After(patience):
			t.Error("no push was acknowledged")
		}
		time.AfterFunc(time.Duration(rnd.IntN(300))*time.Millisecond, d.kill)
		<-d.exited
		cancel()
		wg.Wait()
		d.start()
		d.verify(acked)
		if t.Failed() {
			t.Fatalf("after kill %d, %d pushes acknowledged", kill, len(acked))
		}
	}
	t.Logf("%d kills, %d pushes acknowledged, all present and whole", kills, len(acked))
}

// daemon is the real binary on free ports of 127.0.0.1.
type daemon struct {
	t                    *testing.T
	binary, dir, config  string
	socket, https, plain string
	cmd                  *exec.Cmd
	exited               chan struct{}
	client               http.RoundTripper
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{t: t, dir: dir, binary: built(t), config: filepath.Join(dir, "casemate.yaml"),
		socket: filepath.Join(dir, "a.sock")}
	d.https, d.plain = freePort(t), freePort(t)
	text := fmt.Sprintf("node: n1\ndata: %s\nadvertise: [127.0.0.1]\nlisten:\n  http: [%q]\n  https: [%q]\n  dns: "+
		"[%q]\n  peer: \"127.0.0.1:0\"\n  admin: %s\n",
		filepath.Join(dir, "data"), d.plain, d.https, freePort(t), d.socket)
	if err := os.WriteFile(d.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.cmd != nil {
			d.kill()
			<-d.exited
		}
	})
	return d
}

func freePort(t *testing.T) string {
	t.Helper()
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func (d *daemon) run(args ...string) string {
	d.t.Helper()
	out, err := exec.Command(d.binary, append([]string{"--socket", d.socket}, args...)...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("casemate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (d *daemon) kill() { d.cmd.Process.Signal(syscall.SIGKILL) }

func (d *daemon) start() {
	d.t.Helper()
	var log bytes.Buffer
	d.cmd = exec.Command(d.binary, "serve", "--config", d.config)
	d.cmd.Stdout, d.cmd.Stderr = &log, &log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	exited, cmd := make(chan struct{}), d.cmd
	d.exited = exited
	go func() { cmd.Wait(); close(exited) }()
	for deadline := time.Now().Add(patience); ; {
		resp, err := http.Get("http://" + d.plain + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("readyz: %s", resp.Status)
		}
		select {
		case <-exited:
			d.t.Fatalf("casemate serve ended\n%s", log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			d.kill()
			<-exited
			d.t.Fatalf("casemate is not ready: %v\n%s", err, log.String())
		}
	}
}

func (d *daemon) login() {
	d.t.Helper()
	cmd := exec.Command(d.binary, "--socket", d.socket, "user", "add", "ops", "--password-stdin")
	cmd.Stdin = strings.NewReader("correct horse\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("user add: %v\n%s", err, out)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(d.run("ca"))) {
		d.t.Fatal("casemate ca printed no certificate")
	}
	d.client = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dial net.Dialer
			return dial.DialContext(ctx, network, d.https)
		}}
}

func (d *daemon) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(d.client),
		remote.WithAuth(&authn.Basic{Username: "ops", Password: "correct horse"}),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1})}
}

func (d *daemon) push(ctx context.Context, ref string, img v1.Image) error {
	r, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	return remote.Write(r, img, d.options(ctx)...)
}

// verify checks that every acknowledged reference has its digest and that everything that is listed can be read whole.
func (d *daemon) verify(acked map[string]v1.Hash) {
	d.t.Helper()
	ctx := context.Background()
	for worker := range 3 {
		repo, err := name.NewRepository(fmt.Sprintf("registry.k8s.io/crash/w%d", worker))
		if err != nil {
			d.t.Fatal(err)
		}
		opts := []remote.Option{remote.WithContext(ctx), remote.WithTransport(d.client)}
		tags, err := remote.List(repo, opts...)
		if err != nil && !strings.Contains(err.Error(), "NAME_UNKNOWN") {
			d.t.Errorf("list %s: %v", repo, err)
		}
		listed := map[string]bool{}
		for _, tag := range tags {
			listed[tag] = true
			img, err := remote.Image(repo.Tag(tag), opts...)
			if err != nil {
				d.t.Errorf("%s is listed and cannot be pulled: %v", repo.Tag(tag), err)
				continue
			}
			if err := readAll(img); err != nil {
				d.t.Errorf("%s is listed and not whole: %v", repo.Tag(tag), err)
			}
			digest, _ := img.Digest()
			if want, ok := acked["registry.casemate.internal/"+repo.Tag(tag).String()]; ok && want != digest {
				d.t.Errorf("%s is %s, acknowledged was %s", repo.Tag(tag), digest, want)
			}
		}
		for ref := range acked {
			if tag, ok := strings.CutPrefix(ref, "registry.casemate.internal/"+repo.String()+":"); ok && !listed[tag] {
				d.t.Errorf("%s was acknowledged and is gone", ref)
			}
		}
	}
}

// readAll reads config and layers; the client compares each with its digest.
func readAll(img v1.Image) error {
	if _, err := img.RawConfigFile(); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
