package handover

import (
	"bytes"
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
	"testing/fstest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		for range 500 { // goroutines that have returned may still be closing
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
	if want := []string{"a=first", "-=through the pipe", "b=" + strings.Repeat("x", 1<<20)}; fmt.Sprint(out.Got) != fmt.Sprint(want) {
		t.Errorf("got %.200q", out.Got)
	}
	if q := out.Request; q.Name != "n" || q.Repository != "r" || !q.DryRun || len(q.Keys) != 1 || len(q.Inputs) != 3 {
		t.Errorf("request %+v", q)
	}
}

// A file that is appended to, or that stands at a position, and what is no file at all goes through a pipe of the command's own.
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
		if _, err := d.run(t.Context(), Request{}, "-"); !errors.As(err, &refused) || !strings.Contains(err.Error(), "bad file descriptor") {
			t.Errorf("got %v", err)
		}
	})
}

// A relayed pipe ends also when the command is killed: that is no end of the input.
func TestRelayedInputOfKilledCommand(t *testing.T) {
	got := make(chan error, 1)
	d := newDaemon(t, func(s *Session) {
		_, err := io.ReadAll(s.Inputs()[0].File)
		got <- err
		s.Finish(nil, err, 500)
	})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c := d.dial()
	raw := rawCommand(t, c)
	raw.send(&message{Hello: &Request{Inputs: []Named{{Name: "-", Relayed: true}}}}, nil)
	raw.send(&message{Input: new(int)}, r)
	r.Close()
	io.WriteString(w, "half")
	w.Close()
	if _, err := readFrame(raw.from, maxAnswer); err != nil { // it asks for the end
		t.Fatal(err)
	}
	c.Close()
	if err := <-got; !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"dl.k8s.io/release/v1/kubeadm", "dl.k8s.io/release/v1/kubectl", "github.com/a b/c#d", "top"} {
		write(t, filepath.Join(dir, name), "content of "+name)
	}
	d := newDaemon(t, func(s *Session) {
		in := s.Inputs()[0]
		err := fstest.TestFS(in.FS, "dl.k8s.io/release/v1/kubeadm", "dl.k8s.io/release/v1/kubectl", "github.com/a b/c#d", "top")
		if err == nil {
			// fstest wants to see links as such (fs.ReadLinkFS); here they are followed, so this one comes after it.
			if err := os.Symlink("release", dir+"/dl.k8s.io/stable"); err != nil {
				t.Error(err)
			}
			f, openErr := in.FS.Open("dl.k8s.io/stable/v1/kubectl")
			if openErr != nil {
				t.Error(openErr)
			} else {
				if _, ok := f.(*os.File); !ok {
					t.Errorf("a regular file is %T", f)
				}
				if got := readAll(t, f); got != "content of dl.k8s.io/release/v1/kubectl" {
					t.Errorf("got %q", got)
				}
				f.Close()
			}
		}
		s.Finish("done", err, 400)
	})
	if got, err := d.run(t.Context(), Request{}, dir); got != `"done"` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// Nothing outside of the directory is opened, and nothing that is no file; a name that is not there says so in a way that errors.Is knows.
func TestDirectoryKeepsInside(t *testing.T) {
	outside := write(t, t.TempDir()+"/secret", "secret")
	dir := t.TempDir()
	write(t, dir+"/sub/file", "x")
	os.Symlink(outside, dir+"/absolute")
	os.Symlink("../../../../../../etc/passwd", dir+"/sub/up")
	os.Symlink("loop", dir+"/loop")
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, func(s *Session) {
		tree := s.Inputs()[0].FS
		for _, c := range []struct {
			name string
			is   error
			says string
		}{
			{"absolute", nil, "path escapes"},
			{"sub/up", nil, "path escapes"},
			{"loop", nil, "too many"},
			{"fifo", nil, "neither a regular file nor a directory"},
			{"../x", fs.ErrInvalid, ""},
			{"/etc/passwd", fs.ErrInvalid, ""},
			{"sub//file", fs.ErrInvalid, ""},
			{"none", fs.ErrNotExist, "no such file"},
			{"sub/file/x", nil, "not a directory"},
		} {
			f, err := tree.Open(c.name)
			if err == nil {
				f.Close()
			}
			var p *fs.PathError
			if !errors.As(err, &p) || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || p.Path != filepath.Join(dir, c.name) {
				t.Errorf("open %s: %v", c.name, err)
			}
		}
		// Even a daemon that does not keep to fs.ValidPath gets nothing.
		for _, path := range []string{"../" + filepath.Base(filepath.Dir(outside)) + "/secret", outside, ""} {
			if a, err := s.ask(ask{Op: opOpen, Path: path}); err == nil {
				t.Errorf("the command opened %q: %+v", path, a)
			}
		}
		for _, bad := range []ask{{Op: opOpen, Input: 7, Path: "sub"}, {Op: opOpen, Input: -1, Path: "sub"}, {Op: "rm", Path: "sub"}, {Op: opEnd}, {Op: opReadDir, Dir: 99}, {Op: opCloseDir, Dir: 99}} {
			if _, err := s.ask(bad); err == nil {
				t.Errorf("%+v is answered", bad)
			}
		}
		list, err := fs.ReadDir(tree, ".")
		if got := fmt.Sprint(list); err != nil || got != "[L absolute p fifo L loop d sub/]" {
			t.Errorf("%s, %v", got, err)
		}
		s.Finish(nil, nil, 0)
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}

// A directory of any size is read page by page, and a name that is no UTF-8 is shown as it is.
func TestHugeDirectory(t *testing.T) {
	dir := t.TempDir()
	const n = 3*pageSize + 7
	for i := range n - 1 {
		write(t, fmt.Sprintf("%s/f%05d", dir, i), "")
	}
	write(t, dir+"/\xff", "")
	d := newDaemon(t, func(s *Session) {
		defer s.Finish(nil, nil, 0)
		f, err := s.Inputs()[0].FS.Open(".")
		if err != nil {
			t.Error(err)
			return
		}
		seen := map[string]bool{}
		for {
			list, err := f.(fs.ReadDirFile).ReadDir(100)
			for _, e := range list {
				seen[e.Name()] = true
			}
			if page := f.(*dirFile).page; len(page) > pageSize {
				t.Errorf("%d entries are held", len(page))
			}
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		if len(seen) != n || !seen["\xff"] {
			t.Errorf("%d names of %d, %v", len(seen), n, seen["\xff"])
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.(fs.ReadDirFile).ReadDir(1); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}

func TestManyOpensAtOnce(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		write(t, fmt.Sprintf("%s/%d", dir, i), fmt.Sprint("content ", i))
	}
	d := newDaemon(t, func(s *Session) {
		var wg sync.WaitGroup
		for w := range 40 {
			wg.Go(func() {
				for i := range 50 {
					i := (i + w) % 50
					text, err := fs.ReadFile(s.Inputs()[0].FS, fmt.Sprint(i))
					if err != nil || string(text) != fmt.Sprint("content ", i) {
						t.Errorf("%d: %q, %v", i, text, err)
						return
					}
				}
			})
		}
		wg.Wait()
		s.Finish(nil, nil, 0)
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}

// raw is a command that may misbehave.
type raw struct {
	sender
	from io.Reader
}

func rawCommand(t *testing.T, c *net.UnixConn) *raw {
	t.Helper()
	from, err := upgrade(c)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{sender{conn: c}, from}
}

func TestForeignDescriptorsAreRefused(t *testing.T) {
	d := newDaemon(t, func(s *Session) {
		t.Error("accepted")
		s.Finish(nil, nil, 0)
	})
	dir := t.TempDir()
	file := write(t, dir+"/file", "x")
	open := func(flag int) func() (*os.File, error) {
		return func() (*os.File, error) { return os.OpenFile(file, flag, 0) }
	}
	zero := 0
	first := &message{Input: &zero}
	for _, c := range []struct {
		what string
		open func() (*os.File, error)
		m    *message
		want string
	}{
		{"writable", open(os.O_RDWR), first, "open for writing"},
		{"write only", open(os.O_WRONLY), first, "open for writing"},
		{"directory", func() (*os.File, error) { return os.Open(dir) }, first, "neither a regular file nor a pipe"},
		{"device", func() (*os.File, error) { return os.Open("/dev/zero") }, first, "neither a regular file nor a pipe"},
		{"pipe's other end", func() (*os.File, error) {
			r, w, err := os.Pipe()
			r.Close()
			return w, err
		}, first, "open for writing"},
		{"socket", func() (*os.File, error) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			unix.Close(pair[1])
			return os.NewFile(uintptr(pair[0]), "socket"), err
		}, first, "neither a regular file nor a pipe"},
		{"none", func() (*os.File, error) { return nil, nil }, first, "must come with a descriptor"},
		{"said, not sent", func() (*os.File, error) { return nil, nil }, &message{Input: &zero, Descriptors: 1}, "says 1 descriptors, 0 have come"},
		{"another input", open(os.O_RDONLY), &message{Input: func() *int { i := 1; return &i }()}, "input 0 must come"},
		{"early reply", open(os.O_RDONLY), &message{Reply: &reply{}}, "input 0 must come"},
		{"second hello", open(os.O_RDONLY), &message{Hello: &Request{}}, "input 0 must come"},
	} {
		t.Run(c.what, func(t *testing.T) {
			conn := d.dial()
			raw := rawCommand(t, conn)
			f, err := c.open()
			if err != nil {
				t.Fatal(err)
			}
			raw.send(&message{Hello: &Request{Inputs: []Named{{Name: "x"}}}}, nil)
			raw.send(c.m, f)
			if f != nil {
				f.Close()
			}
			m, err := readFrame(raw.from, maxAnswer)
			if err != nil || m.Final == nil || m.Final.Status != 400 || !strings.Contains(m.Final.Error, c.want) {
				t.Errorf("got %+v, %v", m, err)
			}
			if err := <-d.errs; !strings.Contains(err.Error(), c.want) {
				t.Errorf("Accept: %v", err)
			}
			conn.Close()
		})
	}
}

func TestWrongBeginnings(t *testing.T) {
	d := newDaemon(t, func(s *Session) {
		t.Error("accepted")
		s.Finish(nil, nil, 0)
	})
	many := make([]Named, maxInputs+1)
	for _, c := range []struct{ what, frame, want string }{
		{"no JSON", "\x00\x00\x00\x01{", "not JSON"},
		{"too long", "\xff\xff\xff\xff", "at most"},
		{"no inputs", framed(t, &message{Hello: &Request{}}), "takes 1 to"},
		{"too many inputs", framed(t, &message{Hello: &Request{Inputs: many}}), "takes 1 to"},
		{"no request", framed(t, &message{}), "must begin with its request"},
	} {
		t.Run(c.what, func(t *testing.T) {
			conn := d.dial()
			raw := rawCommand(t, conn)
			io.WriteString(conn, c.frame)
			m, err := readFrame(raw.from, maxAnswer)
			if err != nil || m.Final == nil || m.Final.Status != 400 || !strings.Contains(m.Final.Error, c.want) {
				t.Errorf("got %+v, %v", m, err)
			}
			<-d.errs
			conn.Close()
		})
	}
	t.Run("many descriptors", func(t *testing.T) {
		conn := d.dial()
		raw := rawCommand(t, conn)
		fds := make([]int, 5*maxUnclaimed)
		conn.WriteMsgUnix([]byte(framed(t, &message{Hello: &Request{Inputs: []Named{{}}}})), unix.UnixRights(fds...), nil)
		if m, err := readFrame(raw.from, maxAnswer); err != nil || m.Final == nil || !strings.Contains(m.Final.Error, "more descriptors") {
			t.Errorf("got %+v, %v", m, err)
		}
		<-d.errs
		conn.Close()
	})
}

func framed(t *testing.T, m *message) string {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	n := len(text)
	return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + string(text)
}

// What the server read before the connection was taken over is not lost.
func TestBytesAheadAreKept(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "x")
	d := newDaemon(t, func(s *Session) { s.Finish(s.Request().Name, nil, 0) })
	c := d.dial()
	io.WriteString(c, "POST "+Path+" HTTP/1.1\r\nHost: casemate\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n"+
		framed(t, &message{Hello: &Request{Name: "early", Inputs: []Named{{Name: dir, Dir: true}}}}))
	all, err := io.ReadAll(io.LimitReader(c, 200))
	if !bytes.Contains(all, []byte(`"result":"early"`)) {
		t.Errorf("got %q, %v", all, err)
	}
}

func TestAnswers(t *testing.T) {
	d := newDaemon(t, func(s *Session) {
		if s.Request().Name == "unprintable" {
			s.Finish(make(chan int), nil, 0)
			return
		}
		s.Finish(nil, errors.New("import x: it is there already"), http.StatusConflict)
	})
	file := write(t, t.TempDir()+"/f", "x")
	var refused *Error
	if _, err := d.run(t.Context(), Request{}, file); !errors.As(err, &refused) || refused.Status != 409 || err.Error() != "import x: it is there already" {
		t.Errorf("got %v", err)
	}
	if _, err := d.run(t.Context(), Request{Name: "unprintable"}, file); !errors.As(err, &refused) || refused.Status != 500 {
		t.Errorf("got %v", err)
	}
	for _, c := range []struct {
		paths []string
		want  string
	}{{[]string{file, "/none"}, "/none"}, {[]string{"-", "-"}, "only once"}} {
		if _, err := d.run(t.Context(), Request{}, c.paths...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.paths, err)
		}
	}
	t.Run("no upgrade", func(t *testing.T) {
		c := d.dial()
		io.WriteString(c, "POST "+Path+" HTTP/1.1\r\nHost: casemate\r\nContent-Length: 0\r\n\r\n")
		text := make([]byte, 1000)
		n, _ := c.Read(text)
		if got := string(text[:n]); !strings.HasPrefix(got, "HTTP/1.1 426") || !strings.Contains(got, "casemate import") {
			t.Errorf("got %q", got)
		}
		c.Close()
		<-d.errs
	})
	t.Run("an error before the upgrade", func(t *testing.T) {
		l, err := net.Listen("unix", d.socket+"2")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"error": "no majority now"}`)
		})}
		done := make(chan struct{})
		go func() { defer close(done); server.Serve(l) }()
		c, err := net.Dial("unix", d.socket+"2")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), c, Request{}, []string{file}, nil); !errors.As(err, &refused) || refused.Status != 503 || refused.Message != "no majority now" {
			t.Errorf("got %v", err)
		}
		server.Close()
		<-done
	})
}

// When the command goes away everything that waits on it ends, whatever it waits for.
func TestCommandGoesAway(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	stdin(t, r)
	dir := t.TempDir()
	write(t, dir+"/f", "x")
	reading, errs := make(chan struct{}), make(chan error, 3)
	d := newDaemon(t, func(s *Session) {
		var wg sync.WaitGroup
		wg.Go(func() { // a pipe that brings nothing
			close(reading)
			_, err := io.ReadAll(s.Inputs()[0].File)
			errs <- err
		})
		wg.Go(func() { // opens without end; each that came is closed
			for {
				f, err := s.Inputs()[1].FS.Open("f")
				if err != nil {
					errs <- err
					return
				}
				f.Close()
			}
		})
		<-s.Context().Done()
		errs <- context.Cause(s.Context())
		wg.Wait()
		s.Progress(1, 2, "nobody looks")
		if err := s.Finish(nil, errors.New("gone"), 500); err == nil {
			t.Error("Finish told somebody")
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	go func() { <-reading; cancel(interrupted) }()
	if _, err := d.run(ctx, Request{}, "-", dir); !errors.Is(err, interrupted) {
		t.Errorf("Run: %v", err)
	}
	for range 3 {
		if err := <-errs; !errors.Is(err, ErrGone) {
			t.Errorf("daemon: %v", err)
		}
	}
}

// What cannot be opened now does not keep a command that is interrupted.
func TestInterruptedWhileOpening(t *testing.T) {
	d := newDaemon(t, func(s *Session) {
		t.Error("accepted")
		s.Finish(nil, nil, 0)
	})
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.run(ctx, Request{}, fifo); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // now the opening ends
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}

// A daemon that stops ends its sessions, told or not.
func TestDaemonStops(t *testing.T) {
	dir := t.TempDir()
	for _, finish := range []bool{true, false} {
		ready := make(chan struct{})
		d := newDaemon(t, func(s *Session) {
			close(ready)
			<-s.Context().Done()
			if !finish {
				s.conn.Close() // as if killed
			}
			s.Finish(nil, errors.New("casemate stops"), http.StatusServiceUnavailable)
		})
		go func() { <-ready; d.stop() }()
		_, err := d.run(t.Context(), Request{}, dir)
		if want := map[bool]string{true: "casemate stops", false: "run the same command again"}[finish]; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestProgress(t *testing.T) {
	const n = 100_000
	seen := make(chan struct{})
	d := newDaemon(t, func(s *Session) {
		for i := range int64(n) {
			s.Progress(i+1, n, "reading")
		}
		<-seen // the newest comes through, however many were left out
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

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x1c{\"reply\":{\"id\":1,\"dir\":2}}  "))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readFrame(bytes.NewReader(b), maxAsk)
		if (m == nil) == (err == nil) {
			t.Errorf("%+v, %v", m, err)
		}
	})
}

// FuzzSession lets a command say anything, with a descriptor in the middle of it.
func FuzzSession(f *testing.F) {
	hello := `{"hello":{"inputs":[{"name":"x","dir":true}]}}`
	f.Add([]byte("\x00\x00\x00\x2f"+hello+" "), []byte("\x00\x00\x00\x26{\"reply\":{\"id\":1,\"entry\":{\"mode\":0}}} "), true)
	f.Add([]byte("\x00\x00\x00\x2f"+hello+" "), []byte("\x00\x00\x00\x24{\"reply\":{\"id\":1},\"descriptors\":1}  "), true)
	f.Add([]byte("\x00\x00\x00\x2f"+hello+" "), []byte("\x00\x00\x06\x24{\"reply\":{\"id\":1},\"descriptors\":1}  "), true)
	f.Fuzz(func(t *testing.T, first, second []byte, withFile bool) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Skip()
		}
		conns := [2]*net.UnixConn{}
		for i, fd := range pair {
			file := os.NewFile(uintptr(fd), "pair")
			c, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			conns[i] = c.(*net.UnixConn)
		}
		go func() {
			defer conns[1].Close()
			conns[1].Write(first)
			if withFile {
				null, _ := os.Open(os.Args[0])
				conns[1].WriteMsgUnix(second, unix.UnixRights(int(null.Fd())), nil)
				null.Close()
			} else {
				conns[1].Write(second)
			}
		}()
		s, err := newSession(context.Background(), conns[0], nil)
		if err != nil {
			return
		}
		for _, in := range s.Inputs() {
			if in.FS != nil {
				if file, err := in.FS.Open("."); err == nil {
					if d, ok := file.(fs.ReadDirFile); ok {
						d.ReadDir(10)
					}
					file.Close()
				}
			}
		}
		s.Finish(nil, nil, 0)
	})
}
