// Command demo is what `make run` runs: it starts a casemate on unprivileged ports of 127.0.0.1, stores a small image
// and a file under their upstream names, and fetches them by those names as a node would, with only its resolver and
// its CA.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	sampleImage = "registry.k8s.io/casemate/sample:1"
	sampleFile  = "https://dl.k8s.io/release/v0.0.0/sample.txt"
	ownRegistry = "registry.casemate.internal"
)

func main() {
	binary := flag.String("casemate", "bin/casemate", "the casemate binary")
	dir := flag.String("dir", "run", "directory for config and data")
	once := flag.Bool("once", false, "stop after the tour instead of staying up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, *binary, *dir, *once); {
	case ctx.Err() != nil:
		fmt.Println("\nstopped") // also in the middle of the tour: the user asked for it
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// node is the casemate that the demo started.
type node struct {
	binary, socket   string
	http, https, dns string // host:port
	roots            *x509.CertPool
}

func run(ctx context.Context, binary, dir string, once bool) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	n := &node{binary: binary, socket: filepath.Join(dir, "admin.sock")}
	switch unlock, err := lock(dir); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return n.runsAlready(ctx, dir, once)
	case err != nil:
		return err
	default:
		defer unlock()
	}
	config := filepath.Join(dir, "casemate.yaml")
	if n.http, n.https, n.dns, err = ports(); err != nil {
		return err
	}
	text := fmt.Sprintf(`# made by make run
node: n1
data: %s
advertise: [127.0.0.1]
listen:
  http: [%q]
  https: [%q]
  dns: [%q]
  peer: "127.0.0.1:0"
  admin: %s
`, filepath.Join(dir, "data"), n.http, n.https, n.dns, n.socket)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); errors.Is(err, os.ErrNotExist) {
		step("casemate init --config %s", config)
		if err := n.command(ctx, "init", "--config", config).Run(); err != nil {
			return fmt.Errorf("casemate init: %w", err)
		}
	}

	step("casemate serve --config %s", config)
	log, err := os.Create(filepath.Join(dir, "casemate.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.Command(n.binary, "serve", "--config", config)
	daemon.Stdout, daemon.Stderr = log, log
	// We stop the daemon, not the terminal's Ctrl-C, so that the demo waits for it.
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := daemon.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- daemon.Wait() }()
	defer func() {
		daemon.Process.Signal(syscall.SIGTERM)
		<-exited
	}()
	if err := n.ready(ctx, exited, log.Name()); err != nil {
		return err
	}
	if err := n.tour(ctx); err != nil {
		return fmt.Errorf("%w (the daemon's log is %s)", err, log.Name())
	}
	if once {
		return nil
	}
	n.examples(dir)
	select {
	case <-ctx.Done():
		return nil
	case err := <-exited:
		exited <- err
		return fmt.Errorf("casemate ended by itself: %v (its log is %s)", err, log.Name())
	}
}

// lock prevents a second demo in the same directory. The kernel releases the lock when the process that holds it ends
// for any reason.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// runsAlready reports that another demo runs in the directory, and what to do with it. For a user who wants a node this
// is no error; for a tour of a fresh one it is.
func (n *node) runsAlready(ctx context.Context, dir string, once bool) error {
	if once {
		return fmt.Errorf("casemate is already running in %s: stop it, or give another -dir", dir)
	}
	fmt.Printf("casemate is already running in %s; Ctrl-C where it was started stops it.\nTry:\n  %s --socket %s "+
		"status\n",
		dir, n.binary, n.socket)
	return ctx.Err()
}

func step(format string, args ...any) { fmt.Printf("• "+format+"\n", args...) }

// ports finds three free ports, preferably the usual ones.
func ports() (http, https, dns string, err error) {
	free := func(want string) (string, error) {
		for _, addr := range []string{want, "127.0.0.1:0"} {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				continue
			}
			got := l.Addr().String()
			p, err := net.ListenPacket("udp", got)
			l.Close()
			if err == nil {
				p.Close()
				return got, nil
			}
		}
		return "", fmt.Errorf("no free port on 127.0.0.1 (wanted %s)", want)
	}
	if http, err = free("127.0.0.1:8080"); err != nil {
		return
	}
	if https, err = free("127.0.0.1:8443"); err != nil {
		return
	}
	dns, err = free("127.0.0.1:1053")
	return
}

func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.binary, append([]string{"--socket", n.socket}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// ready waits until `casemate status` succeeds.
func (n *node) ready(ctx context.Context, exited chan error, log string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		cmd := n.command(ctx, "status")
		var out bytes.Buffer
		cmd.Stderr = &out
		err := cmd.Run()
		if err == nil {
			return nil
		}
		select {
		case err := <-exited:
			exited <- err
			text, _ := os.ReadFile(log)
			return fmt.Errorf("casemate serve ended: %v\n%s", err, text)
		case <-ctx.Done():
			return fmt.Errorf("casemate is not ready: %w: %s", err, out.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (n *node) tour(ctx context.Context) error {
	pem, err := n.command(ctx, "ca").Output()
	if err != nil {
		return fmt.Errorf("casemate ca: %w", err)
	}
	n.roots = x509.NewCertPool()
	if !n.roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("casemate ca printed no certificate")
	}
	password := rand.Text()
	if err := n.user(ctx, "demo", password); err != nil {
		return err
	}

	img, err := sample()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	ref, err := name.ParseReference(ownRegistry + "/" + sampleImage)
	if err != nil {
		return err
	}
	step("push   %s   (%s)", ref, digest)
	auth := remote.WithAuth(&authn.Basic{Username: "demo", Password: password})
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithTransport(n.transport()), auth); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	content := []byte("a file at its upstream URL\n")
	step("file put %s", sampleFile)
	put := n.command(ctx, "file", "put", sampleFile, "-")
	put.Stdin = bytes.NewReader(content)
	if out, err := put.Output(); err != nil {
		return fmt.Errorf("file put: %w: %s", err, out)
	}

	fmt.Println("and now as a node, with only the resolver and the CA:")
	for _, host := range []string{"registry.k8s.io", "dl.k8s.io"} {
		addrs, err := n.resolver().LookupHost(ctx, host)
		if err != nil {
			return fmt.Errorf("DNS: %w", err)
		}
		step("DNS    %s is %s", host, strings.Join(addrs, ", "))
	}
	chain, err := n.handshake(ctx, "registry.k8s.io")
	if err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	until := chain.NotAfter.Local().Format(time.RFC3339)
	step("TLS    registry.k8s.io, issued by %q, valid until %s", chain.Issuer.CommonName, until)
	upstream, err := name.ParseReference(sampleImage)
	if err != nil {
		return err
	}
	pulled, err := remote.Image(upstream, remote.WithContext(ctx), remote.WithTransport(n.transport()))
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	got, err := pulled.Digest()
	if err != nil {
		return err
	}
	layers, err := pulled.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		r.Close()
	}
	if got != digest {
		return fmt.Errorf("pulled %s, pushed %s", got, digest)
	}
	step("pull   %s   (%s)", sampleImage, got)
	resp, err := (&http.Client{Transport: n.transport()}).Get(sampleFile)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
		return fmt.Errorf("download: %s, %d bytes: %v", resp.Status, len(body), err)
	}
	step("GET    %s   (sha256:%x)", sampleFile, sha256.Sum256(body))
	return nil
}

// user makes the user, or sets the password if the user exists.
func (n *node) user(ctx context.Context, user, password string) error {
	var out []byte
	for _, verb := range []string{"add", "passwd"} {
		cmd := n.command(ctx, "user", verb, user, "--password-stdin")
		cmd.Stdin, cmd.Stderr = strings.NewReader(password+"\n"), nil
		var err error
		if out, err = cmd.CombinedOutput(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("casemate user: %s", out)
}

// resolver returns a resolver that asks only the demo's DNS server.
func (n *node) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, n.dns)
	}}
}

// dial resolves the address by our DNS; the demo's ports replace 443 and 80.
func (n *node) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := n.resolver().LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	_, real, _ := net.SplitHostPort(n.https)
	if port == "80" {
		_, real, _ = net.SplitHostPort(n.http)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, net.JoinHostPort(ips[0], real))
}

func (n *node) transport() http.RoundTripper {
	return &http.Transport{DialContext: n.dial, TLSClientConfig: &tls.Config{RootCAs: n.roots}}
}

func (n *node) handshake(ctx context.Context, host string) (*x509.Certificate, error) {
	conn, err := n.dial(ctx, "tcp", net.JoinHostPort(host, "443"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: n.roots})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

// sample is an image with one small layer; the same bytes each time.
func sample() (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	text, _ := json.Marshal("hello from casemate")
	w.WriteHeader(&tar.Header{Name: "hello.json", Mode: 0o644, Size: int64(len(text))})
	w.Write(text)
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(empty.Image, layer)
}

func (n *node) examples(dir string) {
	_, port, _ := net.SplitHostPort(n.https)
	dnsHost, dnsPort, _ := net.SplitHostPort(n.dns)
	ca := filepath.Join(dir, "ca.crt")
	pem, err := n.command(context.Background(), "ca").Output()
	if err == nil {
		err = os.WriteFile(ca, pem, 0o644)
	}
	if err != nil {
		fmt.Println("casemate ca:", err)
	}
	fmt.Printf(`
It runs until Ctrl-C.
  DNS    %s (UDP and TCP)
  https  %s
  http   %s
  admin  %s
Try, in another terminal:
  dig @%s -p %s registry.k8s.io
  curl --cacert %s --connect-to ::127.0.0.1:%s %s
  curl --cacert %s --connect-to ::127.0.0.1:%s https://registry.k8s.io/v2/casemate/sample/tags/list
  %s --socket %s status
  %s --socket %s missing
`, n.dns, n.https, n.http, n.socket,
		dnsHost, dnsPort, ca, port, sampleFile, ca, port, n.binary, n.socket, n.binary, n.socket)
}
