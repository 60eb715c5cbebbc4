package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// daemon serves imports with handle and is stopped at the end of the test; then no descriptor may be left.
type daemon struct {
	t      *testing.T
	socket string
	stop   context.CancelFunc // as a daemon that stops does
	errs   chan error         // of Accept
}

func newDaemon(t *testing.T, handle func(*Session)) *daemon {
	t.Helper()
	noDescriptorsLeft(t)
	dir, err := os.MkdirTemp("", "ho") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &daemon{t: t, socket: filepath.Join(dir, "s"), errs: make(chan error, 10)}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	var handlers sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		s, err := Accept(w, r)
		if err != nil {
			d.errs <- err
			return
		}
		handle(s)
	})
	server := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(l) }()
	t.Cleanup(func() {
		cancel()
		server.Close()
		<-served
		handlers.Wait()
	})
	return d
}

// noDescriptorsLeft compares the process's open descriptors at the end of the test with those of now.
func noDescriptorsLeft(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return
	}
	// The runtime's own poller descriptors come with the first pipe or socket.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	before := openDescriptors(t)
	t.Cleanup(func() {
		var after []string
		for range 30_000 { // five minutes: goroutines that have returned may still be closing
			if after = openDescriptors(t); len(after) <= len(before) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("descriptors before: %q, after: %q", before, after)
	})
}

func openDescriptors(t *testing.T) []string {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasSuffix(to, "/fd") {
			names = append(names, to)
		}
	}
	return names
}

func (d *daemon) dial() *net.UnixConn {
	d.t.Helper()
	c, err := net.Dial("unix", d.socket)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

// run is the command's side; it returns the result as a string.
func (d *daemon) run(ctx context.Context, req Request, paths ...string) (string, error) {
	d.t.Helper()
	result, err := Run(ctx, d.dial(), req, paths, nil)
	return string(result), err
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// stdin makes f the process's standard input until the test ends.
func stdin(t *testing.T, f *os.File) {
	t.Helper()
	old := os.Stdin
	os.Stdin = f
	t.Cleanup(func() { os.Stdin = old; f.Close() })
}

func readAll(t *testing.T, f fs.File) string {
	t.Helper()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Errorf("read: %v", err)
	}
	return string(text)
}

func TestFilesAndPipesGoOver(t *testing.T) {
	d := newDaemon(t, func(s *Session) {
		var got []string
		for _, i := range s.Inputs() {
			if _, ok := i.File.(io.ReaderAt); ok != (i.Name != "-") {
				t.Errorf("%s: an io.ReaderAt: %v", i.Name, ok)
			}
			got = append(got, filepath.Base(i.Name)+"="+readAll(t, i.File))
		}
		s.Finish(map[string]any{"got": got, "request": s.Request()}, nil, 0)
	})
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin(t, r)
	go func() {
		io.WriteString(w, "through ")
		io.WriteString(w, "the pipe")
		w.Close()
	}()
	result, err := d.run(t.Context(), Request{Name: "n", Keys: []string{"k"}, Repository: "r", DryRun: true},
		write(t, dir+"/a", "first"), "-", write(t, dir+"/b", strings.Repeat("x", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		Got     []string
		Request Request
	}
	if err := json.Unmarshal([]byte(result), &out); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a=first", "-=through the pipe", "b=" + strings.Repeat("x", 1<<20)}; fmt.Sprint(
		out.Got) != fmt.Sprint(want) {
		t.Errorf("got %.200q", out.Got)
	}
	if q := out.Request; q.Name != "n" || q.Repository != "r" || !q.DryRun || len(q.Keys) != 1 || len(q.Inputs) != 3 {
		t.Errorf("request %+v", q)
	}
}

// A file that is opened for writing or not at its start, and an input that is not a file, is relayed through the
// command's own pipe.
func TestOtherInputsAreRelayed(t *testing.T) {
	d := newDaemon(t, func(s *Session) {
		if !s.Request().Inputs[0].Relayed {
			t.Error("not relayed")
		}
		text, err := io.ReadAll(s.Inputs()[0].File)
		s.Finish(string(text), err, http.StatusBadRequest)
	})
	t.Run("socket", func(t *testing.T) { // as ssh gives it
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Write(pair[1], []byte("over ssh"))
		unix.Close(pair[1])
		stdin(t, os.NewFile(uintptr(pair[0]), "stdin"))
		if got, err := d.run(t.Context(), Request{}, "-"); got != `"over ssh"` || err != nil {
			t.Errorf("%s, %v", got, err)
		}
	})
	t.Run("position", func(t *testing.T) {
		f, err := os.Open(write(t, t.TempDir()+"/f", "line\nrest"))
		if err != nil {
			t.Fatal(err)
		}
		f.Seek(5, io.SeekStart)
		stdin(t, f)
		if got, err := d.run(t.Context(), Request{}, "-"); got != `"rest"` || err != nil {
			t.Errorf("%s, %v", got, err)
		}
	})
	t.Run("device", func(t *testing.T) {
		if got, err := d.run(t.Context(), Request{}, "/dev/null"); got != `""` || err != nil {
			t.Errorf("%s, %v", got, err)
		}
	})
	t.Run("error", func(t *testing.T) { // what was read before it must not pass for the whole
		f, err := os.OpenFile(t.TempDir()+"/w", os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		stdin(t, f)
		var refused *Error
		if _, err := d.run(t.Context(), Request{}, "-"); !errors.As(err, &refused) ||
			!strings.Contains(err.Error(), "bad file descriptor") {
			t.Errorf("got %v", err)
		}
	})
}

func TestProgress(t *testing.T) {
	const n = 100_000
	seen := make(chan struct{})
	d := newDaemon(t, func(s *Session) {
		for i := range int64(n) {
			s.Progress(i+1, n, "reading")
		}
		<-seen // the newest is delivered, however many were skipped
		s.Finish(nil, nil, 0)
	})
	var list []Progress
	_, err := Run(t.Context(), d.dial(), Request{}, []string{write(t, t.TempDir()+"/f", "x")}, func(p Progress) {
		list = append(list, p)
		if p.Done == n {
			close(seen)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) > n/100 {
		t.Errorf("%d of %d were sent", len(list), n)
	}
	for i, p := range list {
		if p.Total != n || p.Phase != "reading" || i > 0 && p.Done < list[i-1].Done {
			t.Errorf("%d: %+v", i, p)
		}
	}
}

func TestErrorsKeepTheirIdentity(t *testing.T) {
	for _, want := range sentinels {
		text, err := json.Marshal(wire(fmt.Errorf("open x: %w", want)))
		if err != nil {
			t.Fatal(err)
		}
		var w wireError
		if err := json.Unmarshal(text, &w); err != nil {
			t.Fatal(err)
		}
		for _, s := range sentinels {
			if errors.Is(&w, s) != (s == want) {
				t.Errorf("%v came as %v", want, &w)
			}
		}
	}
	if w := wire(errors.New("other")); w.Unwrap() != nil || w.Error() != "other" {
		t.Errorf("got %+v", w)
	}
}
