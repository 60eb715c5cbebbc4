package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"
)

// story is the state that the commands of one script share: the internet of its connected side, and the clients of its
// daemon.
type story struct {
	up      *upstream
	stalled <-chan struct{}
	nodes   map[string]bastion // by name
}

// bastion is where one daemon of a script is reached.
type bastion struct{ socket, http, https, dns string }

// turn makes the commands that follow talk to a node.
func (s *story) turn(ts *testscript.TestScript, name string) {
	b, ok := s.nodes[name]
	if !ok {
		ts.Fatalf("the script must say node %s first", name)
	}
	ts.Setenv("CASEMATE_SOCKET", b.socket)
	ts.Setenv("HTTP", b.http)
	ts.Setenv("HTTPS", b.https)
	ts.Setenv("DNS", b.dns)
}

// freeAddr returns an address of 127.0.0.1 that no other test of this process is given and that nobody uses now. Its
// port is below those that the system uses for connections, so a daemon that starts late, or again, finds it free.
func freeAddr() (string, error) {
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		if _, taken := freeAddrs.LoadOrStore(addr, true); taken {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", addr) // it may be for DNS
		l.Close()
		if err == nil {
			return addr, u.Close()
		}
	}
	return "", errors.New("no port is free")
}

// freeAddrs are the addresses that freeAddr has returned.
var freeAddrs sync.Map

// scriptAddr is freeAddr for a script.
func scriptAddr(ts *testscript.TestScript) string {
	addr, err := freeAddr()
	ts.Check(err)
	return addr
}

func storyOf(ts *testscript.TestScript) *story { return ts.Value("story").(*story) }

func (s *story) upstream(ts *testscript.TestScript) *upstream {
	if s.up == nil {
		ts.Fatalf("the script must say upstream first")
	}
	return s.up
}

// storyCommands are those of the stories across the gap.
var storyCommands = map[string]func(*testscript.TestScript, bool, []string){
	// upstream starts the internet of the connected side: every host that the script's commands ask for by HTTPS.
	"upstream": func(ts *testscript.TestScript, _ bool, _ []string) {
		u, stop, err := newUpstream(ts.MkAbs("."))
		ts.Check(err)
		ts.Defer(stop)
		storyOf(ts).up = u
		ts.Setenv("HTTPS_PROXY", u.proxy)
		ts.Setenv("SSL_CERT_FILE", u.roots)
	},
	// image REF SIZE [PLATFORM…] puts an image of that many bytes there, with several platforms an index.
	"image": func(ts *testscript.TestScript, _ bool, args []string) {
		u := storyOf(ts).upstream(ts)
		n, seed := number(ts, args[1]), seedOf(args[0])
		if len(args) > 3 {
			idx, err := platforms(seed, n, args[2:]...)
			ts.Check(err)
			ts.Check(u.put(args[0], idx))
			return
		}
		platform := append(args[2:], "linux/amd64")[0]
		img, err := layered(empty.Image, platform, seed, n/2, n-n/2)
		ts.Check(err)
		ts.Check(u.put(args[0], img))
	},
	// layer REF BASE SIZE puts an image there that is another one with a layer on top.
	"layer": func(ts *testscript.TestScript, _ bool, args []string) {
		u := storyOf(ts).upstream(ts)
		base, err := u.get(args[1])
		ts.Check(err)
		img, err := layered(base, "linux/amd64", seedOf(args[0]), number(ts, args[2]))
		ts.Check(err)
		ts.Check(u.put(args[0], img))
	},
	// noise FILE SIZE writes a file that nothing compresses.
	"noise": func(ts *testscript.TestScript, _ bool, args []string) {
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), noise(number(ts, args[1]), seedOf(args[0])), 0o644))
	},
	// serve URL FILE puts a file there, redirect URL TARGET a redirect.
	"serve": func(ts *testscript.TestScript, _ bool, args []string) {
		ts.Check(storyOf(ts).upstream(ts).serve(args[0], []byte(ts.ReadFile(args[1]))))
	},
	"redirect": func(ts *testscript.TestScript, _ bool, args []string) {
		ts.Check(storyOf(ts).upstream(ts).redirect(args[0], args[1]))
	},
	// repository URL DIR puts all files of a directory there, below the URL.
	"repository": func(ts *testscript.TestScript, _ bool, args []string) {
		dir, u := ts.MkAbs(args[1]), storyOf(ts).upstream(ts)
		ts.Check(filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, name)
			if err != nil {
				return err
			}
			return u.serve(args[0]+"/"+filepath.ToSlash(rel), data)
		}))
	},
	// stall URL sends only one half of the file there; asking waits until a client has it.
	"stall": func(ts *testscript.TestScript, _ bool, args []string) {
		waiting, err := storyOf(ts).upstream(ts).stallAt(args[0])
		ts.Check(err)
		storyOf(ts).stalled = waiting
	},
	"asking": func(ts *testscript.TestScript, _ bool, _ []string) {
		select {
		case <-storyOf(ts).stalled:
		case <-time.After(patience):
			ts.Fatalf("nobody asks")
		}
	},
	// asked [!] PATTERN [N] says how often upstream was asked ("METHOD host/path"), then begins to count anew.
	"asked": func(ts *testscript.TestScript, neg bool, args []string) {
		u := storyOf(ts).upstream(ts)
		n := u.count(regexp.MustCompile(args[0]))
		switch {
		case neg && n > 0, !neg && n == 0, len(args) > 1 && strconv.Itoa(n) != args[1]:
			ts.Fatalf("upstream was asked %d times for %s:\n%s", n, args[0], strings.Join(u.asked, "\n"))
		}
		u.forget()
	},
	// node [NAME] writes NAME.yaml (casemate.yaml and n1 without one) with ports that are free and stay so while the
	// node is down, and turns to it as "at" does.
	"node": func(ts *testscript.TestScript, _ bool, args []string) {
		s, name, file, data := storyOf(ts), "n1", "casemate.yaml", "data"
		b := bastion{socket: ts.Getenv("CASEMATE_SOCKET")}
		if len(args) > 0 {
			name, file, data = args[0], args[0]+".yaml", args[0]
			b.socket = filepath.Join(filepath.Dir(b.socket), name+".sock")
		}
		peer := scriptAddr(ts)
		b.http, b.https, b.dns = scriptAddr(ts), scriptAddr(ts), scriptAddr(ts)
		text := fmt.Sprintf("node: %s\ndata: %s\nadvertise: [127.0.0.%d]\nlisten:\n  http: [%q]\n  https: [%q]\n  "+
			"dns: [%q]\n  peer: %q\n  admin: %s\n",
			name, ts.MkAbs(data), len(s.nodes)+1, b.http, b.https, b.dns, peer, b.socket)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o644))
		if s.nodes == nil {
			s.nodes = map[string]bastion{}
		}
		s.nodes[name] = b
		ts.Setenv("PEER_"+name, peer)
		s.turn(ts, name)
	},
	// rehearsal NAME makes the directory $NAME for a rehearsal whose ports are free, and turns to it.
	"rehearsal": func(ts *testscript.TestScript, _ bool, args []string) {
		s := storyOf(ts)
		dir, err := os.MkdirTemp("", "cm"+args[0]) // short, for the path of its socket
		ts.Check(err)
		ts.Defer(func() { os.RemoveAll(dir) })
		b := bastion{socket: filepath.Join(dir, "admin.sock"), http: scriptAddr(ts), https: scriptAddr(ts),
			dns: scriptAddr(ts)}
		text := fmt.Sprintf("advertise: [127.0.0.1]\nlisten:\n  http: [%q]\n  https: [%q]\n  dns: [%q]\n  peer: %q\n  "+
			"admin: %s\n", b.http, b.https, b.dns, scriptAddr(ts), b.socket)
		ts.Check(os.WriteFile(filepath.Join(dir, "casemate.yaml"), []byte(text), 0o600))
		if s.nodes == nil {
			s.nodes = map[string]bastion{}
		}
		s.nodes[args[0]] = b
		ts.Setenv(args[0], dir)
		s.turn(ts, args[0])
	},
	// moves NAME gives a node that is down another address for the other nodes.
	"moves": func(ts *testscript.TestScript, _ bool, args []string) {
		old, peer := ts.Getenv("PEER_"+args[0]), scriptAddr(ts)
		file := ts.MkAbs(args[0] + ".yaml")
		data, err := os.ReadFile(file)
		ts.Check(err)
		if !strings.Contains(string(data), strconv.Quote(old)) {
			ts.Fatalf("%s does not have %s", file, old)
		}
		ts.Check(os.WriteFile(file, []byte(strings.Replace(string(data), strconv.Quote(old), strconv.Quote(peer), 1)),
			0o644))
		ts.Setenv("PEER_"+args[0], peer)
	},
	// doctor CODE ARGS… runs casemate doctor where the directory root is the node and the daemon's ports are the
	// well-known ones; it must end with this exit code.
	"doctor": func(ts *testscript.TestScript, _ bool, args []string) {
		all := []string{"doctor", "--root", ts.MkAbs("root"), "--outside", ""}
		for flag, addr := range map[string]string{"--port-http": "HTTP", "--port-https": "HTTPS", "--port-dns": "DNS"} {
			_, port, _ := strings.Cut(ts.Getenv(addr), ":")
			all = append(all, flag, port)
		}
		exitWith(ts, args[0], "casemate", append(all, args[1:]...)...)
	},
	// at NAME: from here on the commands, and the clients, talk to this node.
	"at": func(ts *testscript.TestScript, _ bool, args []string) { storyOf(ts).turn(ts, args[0]) },
	// until PATTERN casemate ARGS… repeats a command until it ends well and prints this; ! until: until it ends well
	// and does not.
	"until": func(ts *testscript.TestScript, neg bool, args []string) {
		want, deadline := regexp.MustCompile("(?m)"+args[0]), time.Now().Add(patience)
		for {
			err := ts.Exec(args[1], args[2:]...)
			if err == nil && want.MatchString(ts.ReadFile("stdout")) != neg {
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("%s: err %v, and it still prints:\n%s", strings.Join(args[1:], " "), err,
					ts.ReadFile("stdout"))
			}
			time.Sleep(20 * time.Millisecond) // between two looks at the condition
		}
	},
	// resolves NAME asks the daemon's DNS for the addresses of a name as a node does; ! resolves gets none.
	"resolves": func(ts *testscript.TestScript, neg bool, args []string) {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, ts.Getenv("DNS"))
		}}
		addrs, err := r.LookupHost(context.Background(), args[0]+".")
		if neg != (err != nil) {
			ts.Fatalf("%s: %v, %v", args[0], addrs, err)
		}
	},
	// pull REF [PLATFORM] pulls from the daemon as a node does, by upstream name, and compares with upstream; ! pull is
	// refused as unknown.
	"pull": func(ts *testscript.TestScript, neg bool, args []string) {
		err := storyOf(ts).pull(ts, args)
		switch {
		case !neg && err != nil:
			ts.Fatalf("pull %s: %v", args[0], err)
		case neg && err == nil:
			ts.Fatalf("pull %s succeeded", args[0])
		case neg && !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") &&
			!strings.Contains(err.Error(), "NAME_UNKNOWN"):
			ts.Fatalf("pull %s is not simply missing: %v", args[0], err)
		}
	},
	// fetch URL downloads from the daemon as a node does, and compares with upstream; ! fetch is a 404.
	"fetch": func(ts *testscript.TestScript, neg bool, args []string) {
		got, status, err := get(storyOf(ts).node(ts), args[0])
		ts.Check(err)
		if neg {
			if status != http.StatusNotFound {
				ts.Fatalf("fetch %s: status %d", args[0], status)
			}
			return
		}
		want, wantStatus, err := get(storyOf(ts).upstream(ts).transport(), args[0])
		ts.Check(err)
		if status != http.StatusOK || wantStatus != http.StatusOK || !bytes.Equal(got, want) {
			ts.Fatalf("fetch %s: status %d, %d bytes; upstream status %d, %d bytes", args[0], status, len(got),
				wantStatus, len(want))
		}
	},
	// fetches FILE URL downloads from the daemon as a node does, and it is this file.
	"fetches": func(ts *testscript.TestScript, _ bool, args []string) {
		got, status, err := get(storyOf(ts).node(ts), args[1])
		ts.Check(err)
		if status != http.StatusOK || string(got) != ts.ReadFile(args[0]) {
			ts.Fatalf("fetches %s: status %d, %d bytes", args[1], status, len(got))
		}
	},
	// flip FILE OFFSET changes one byte; an offset below 0 counts from the end.
	"flip": func(ts *testscript.TestScript, _ bool, args []string) {
		data := []byte(ts.ReadFile(args[0]))
		at, err := strconv.Atoi(args[1])
		ts.Check(err)
		if at < 0 {
			at += len(data)
		}
		data[at] ^= 0x10
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
	},
	// smaller A B says that file A has less than half the size of B.
	"smaller": func(ts *testscript.TestScript, _ bool, args []string) {
		a, err := os.Stat(ts.MkAbs(args[0]))
		ts.Check(err)
		b, err := os.Stat(ts.MkAbs(args[1]))
		ts.Check(err)
		if a.Size() >= b.Size()/2 {
			ts.Fatalf("%s has %d bytes, %s has %d", args[0], a.Size(), args[1], b.Size())
		}
	},
	// kill9 kills the background process of the script, and waits until it is gone.
	"kill9": func(ts *testscript.TestScript, _ bool, _ []string) {
		for _, c := range ts.BackgroundCmds() {
			ts.Check(c.Process.Kill())
			for deadline := time.Now().Add(patience); c.Process.Signal(syscall.Signal(0)) == nil; time.Sleep(
				5 * time.Millisecond) {
				if time.Now().After(deadline) {
					ts.Fatalf("the process is not gone")
				}
			}
		}
	},
}

func number(ts *testscript.TestScript, s string) int64 {
	n, err := parseSize(s)
	ts.Check(err)
	return n
}

// seedOf makes content differ by name.
func seedOf(name string) (seed uint64) {
	for _, c := range name {
		seed = seed*31 + uint64(c)
	}
	return seed % (1 << 24)
}

// node is a transport to the daemon that trusts its CA and believes that every name leads there, as the daemon's DNS
// says.
func (s *story) node(ts *testscript.TestScript) http.RoundTripper {
	resp, err := (&options{socket: ts.Getenv("CASEMATE_SOCKET")}).client().do(context.Background(), "GET", "ca",
		nil, nil)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		ts.Fatalf("the daemon's CA is no certificate")
	}
	address := ts.Getenv("HTTPS")
	return &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}}
}

func (s *story) pull(ts *testscript.TestScript, args []string) error {
	ref, err := name.ParseReference(args[0])
	if err != nil {
		return err
	}
	opts := []remote.Option{remote.WithTransport(s.node(ts)), remote.WithRetryBackoff(remote.Backoff{Steps: 1})}
	if len(args) > 1 {
		p, err := v1.ParsePlatform(args[1])
		if err != nil {
			return err
		}
		opts = append(opts, remote.WithPlatform(*p))
	}
	got, err := remote.Get(ref, opts...)
	if err != nil {
		return err
	}
	want, err := remote.Get(ref, remote.WithTransport(s.upstream(ts).transport()))
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if got.Digest != want.Digest || !bytes.Equal(got.Manifest, want.Manifest) {
		return fmt.Errorf("it is %s, upstream's is %s", got.Digest, want.Digest)
	}
	img, err := remote.Image(ref, opts...)
	if err != nil {
		return err
	}
	return readAll(img)
}

func get(rt http.RoundTripper, address string) ([]byte, int, error) {
	resp, err := (&http.Client{Transport: rt}).Get(address)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return data, resp.StatusCode, err
}

func TestSeedsDiffer(t *testing.T) {
	if bytes.Equal(noise(100, seedOf("a:1")), noise(100, seedOf("a:2"))) ||
		!bytes.Equal(noise(100, seedOf("a:1")), noise(100, seedOf("a:1"))) {
		t.Error("the content of two names is the same, or of one is not")
	}
}
