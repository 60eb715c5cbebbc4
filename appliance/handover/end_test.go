package handover

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A relayed pipe also ends when the command is killed: that is not the end of the input.
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
	if _, err := d.run(t.Context(), Request{}, file); !errors.As(err, &refused) || refused.Status != 409 ||
		err.Error() != "import x: it is there already" {
		t.Errorf("got %v", err)
	}
	if _, err := d.run(t.Context(), Request{Name: "unprintable"}, file); !errors.As(err, &refused) ||
		refused.Status != 500 {
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
		if got := string(text[:n]); !strings.HasPrefix(got, "HTTP/1.1 426") ||
			!strings.Contains(got, "casemate import") {
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
		if _, err := Run(t.Context(), c, Request{}, []string{file}, nil); !errors.As(err, &refused) ||
			refused.Status != 503 || refused.Message != "no majority now" {
			t.Errorf("got %v", err)
		}
		server.Close()
		<-done
	})
}

// When the command goes away, everything that waits for it ends.
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

// An input whose opening blocks does not block a command that is interrupted.
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

// A daemon that stops or is killed ends its sessions.
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
		if want := map[bool]string{true: "casemate stops", false: "run the same command again"}[finish]; err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
