package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(cleaning{m}, map[string]func(){"casemate": main})
}

// cleaning removes the real binary when all tests are over.
type cleaning struct{ m *testing.M }

func (c cleaning) Run() int {
	code := c.m.Run()
	if made != "" {
		os.RemoveAll(made)
	}
	return code
}

var (
	made  string // where the real binary was built, once it was
	build = sync.OnceValue(func() (err error) {
		if made, err = os.MkdirTemp("", "casemate"); err != nil {
			return err
		}
		args, cgo := []string{"build", "-trimpath", "-o", filepath.Join(made, "casemate"), "."}, "CGO_ENABLED=0"
		if os.Getenv("CASEMATE_SOAK") != "" {
			args, cgo = slices.Insert(args, 1, "-race"), "CGO_ENABLED=1"
		}
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		return nil
	})
)

// built returns the real binary as it is released: the race detector, which the rooms' own tests have, would make the
// stories take three times as long. Long runs have it here too.
func built(t *testing.T) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(made, "casemate")
}

// patience ends what hangs; no verdict depends on it, on however busy a machine.
const patience = 10 * time.Minute

// TestScripts runs the stories in testdata/script against the real command line.
func TestScripts(t *testing.T) {
	path := filepath.Dir(built(t))
	params := testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", path+string(os.PathListSeparator)+env.Getenv("PATH"))
			// A socket path has at most 107 bytes (unix(7)), so it is outside of the work directory with its long name.
			dir, err := os.MkdirTemp("", "cm")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("CASEMATE_SOCKET", dir+"/a.sock") // of the daemon that the script starts
			env.Values["story"] = &story{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exit CODE casemate ARGS… runs a command that must end with this exit code.
			"exit": func(ts *testscript.TestScript, _ bool, args []string) {
				exitWith(ts, args[0], args[1], args[2:]...)
			},
			// ready waits until the daemon that the script started serves, or has ended.
			"ready": func(ts *testscript.TestScript, _ bool, _ []string) {
				var err error
				for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
					var c net.Conn
					if c, err = net.Dial("unix", ts.Getenv("CASEMATE_SOCKET")); err == nil {
						c.Close()
						if err = ts.Exec("casemate", "status"); err == nil {
							return
						}
					}
					if daemonEnded(ts) {
						ts.Fatalf("the daemon has ended: %v", err)
					}
					time.Sleep(20 * time.Millisecond) // between two looks at the condition
				}
				ts.Fatalf("the daemon does not serve: %v", err)
			},
			// envsubst FILE puts the script's variables into a file.
			"envsubst": func(ts *testscript.TestScript, _ bool, args []string) {
				name := ts.MkAbs(args[0])
				text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
				ts.Check(os.WriteFile(name, []byte(text), 0o644))
			},
			// substitute FILE OLD NEW replaces a text everywhere in a file.
			"substitute": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0])
				if !strings.Contains(text, args[1]) {
					ts.Fatalf("%s has no %s", args[0], args[1])
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o644))
			},
			// found VAR PATTERN puts what the pattern's group matches in the last standard output into the variable.
			"found": func(ts *testscript.TestScript, _ bool, args []string) {
				m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
				if len(m) != 2 {
					ts.Fatalf("%s is not in the output", args[1])
				}
				ts.Setenv(args[0], m[1])
			},
			// free VAR puts an unused address into the variable, for a daemon that clients of the script must find.
			"free": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], scriptAddr(ts))
			},
			// asks STATUS URL is a client that asks the daemon at $HTTP for the URL and gets this status.
			"asks": func(ts *testscript.TestScript, _ bool, args []string) {
				c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
					DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
						var d net.Dialer
						return d.DialContext(ctx, network, ts.Getenv("HTTP"))
					}}}
				resp, err := c.Get(args[1])
				if err != nil {
					ts.Fatalf("%v", err)
				}
				resp.Body.Close()
				if got := strconv.Itoa(resp.StatusCode); got != args[0] {
					ts.Fatalf("%s: status %s, want %s", args[1], got, args[0])
				}
			},
			// trusts ROOTS HOST is a client that trusts the roots in this file and asks the daemon at $HTTPS for the
			// host; "! trusts" must meet a certificate that it does not trust.
			"trusts": func(ts *testscript.TestScript, neg bool, args []string) {
				roots := x509.NewCertPool()
				if !roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[0]))) {
					ts.Fatalf("%s holds no certificate", args[0])
				}
				conn, err := tls.Dial("tcp", ts.Getenv("HTTPS"), &tls.Config{RootCAs: roots, ServerName: args[1]})
				if err == nil {
					conn.Close()
				}
				if distrust := new(tls.CertificateVerificationError); err != nil &&
					!(neg && errors.As(err, &distrust)) || err == nil && neg {
					ts.Fatalf("%s, trusting %s: %v", args[1], args[0], err)
				}
			},
			// hold VAR listens on a port until the script ends and puts its address into the variable.
			"hold": func(ts *testscript.TestScript, _ bool, args []string) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					ts.Fatalf("%v", err)
				}
				ts.Defer(func() { l.Close() })
				ts.Setenv(args[0], l.Addr().String())
			},
		},
	}
	maps.Copy(params.Cmds, storyCommands)
	testscript.Run(t, params)
}

// daemonEnded reports whether the daemon that the script started last has ended.
func daemonEnded(ts *testscript.TestScript) bool {
	for _, cmd := range slices.Backward(ts.BackgroundCmds()) {
		if slices.Contains(cmd.Args, "serve") || slices.Contains(cmd.Args, "rehearse") {
			return errors.Is(cmd.Process.Signal(syscall.Signal(0)), os.ErrProcessDone)
		}
	}
	return false
}

// exitWith runs a command that must end with this exit code.
func exitWith(ts *testscript.TestScript, want, command string, args ...string) {
	err := ts.Exec(command, args...)
	got := "0"
	if err != nil {
		if _, code, ok := strings.Cut(err.Error(), "exit status "); ok {
			got = code
		} else {
			got = err.Error()
		}
	}
	if got != want {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}
