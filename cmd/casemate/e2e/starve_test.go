//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// asker asks one server for one name, up to 50 times a second, each question with a new ID, repeated after a second
// without an answer, as resolvers do: a datagram may get lost.
type asker struct {
	conn *net.UDPConn
	name string
	id   uint16
}

func (h *host) asker(t testing.TB, server, name string) *asker {
	t.Helper()
	a := &asker{name: dns.Fqdn(name)}
	h.inside(t, func() error {
		c, err := net.Dial("udp", net.JoinHostPort(server, "53"))
		if err == nil {
			a.conn = c.(*net.UDPConn)
		}
		return err
	})
	t.Cleanup(func() { a.conn.Close() })
	return a
}

// while asks at least n questions, and more until do has returned, and then waits until all of them are answered. A
// question can only fail by never being answered. It returns the durations, for the log only.
func (a *asker) while(t testing.TB, what string, n int, do func()) {
	t.Helper()
	type question struct {
		asked, sent time.Time
	}
	open := map[uint16]question{}
	var took []time.Duration
	var mu sync.Mutex
	var wrong error
	done := make(chan struct{})
	if do == nil {
		close(done)
	} else {
		go func() { defer close(done); do() }()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 4096)
		for ctx.Err() == nil {
			a.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			size, err := a.conn.Read(buf)
			if err != nil {
				continue // nothing yet, or no process listened on the port: it is asked again
			}
			var m dns.Msg
			if m.Unpack(buf[:size]) != nil {
				continue
			}
			mu.Lock()
			if q, ok := open[m.Id]; ok {
				if m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
					wrong = fmt.Errorf("a wrong answer:\n%s", m.String())
				}
				delete(open, m.Id)
				took = append(took, time.Since(q.asked))
			}
			mu.Unlock()
		}
	})
	send := func(id uint16) {
		m := new(dns.Msg).SetQuestion(a.name, dns.TypeA)
		m.Id = id
		if data, err := m.Pack(); err == nil {
			a.conn.Write(data)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for asked := 0; ; {
		over := false
		select {
		case <-done:
			over = asked >= n
		default:
		}
		mu.Lock()
		left := len(open)
		if wrong != nil {
			left = 0
			over = true
		}
		for id, q := range open {
			if time.Since(q.sent) > time.Second {
				q.sent = time.Now()
				open[id] = q
				send(id)
			}
		}
		mu.Unlock()
		if over && left == 0 {
			break
		}
		if time.Now().After(deadline) {
			cancel()
			reading.Wait()
			t.Fatalf("while %s: %d of %d questions are not answered", what, left, asked)
		}
		if !over {
			asked++
			a.id++
			mu.Lock()
			open[a.id] = question{time.Now(), time.Now()}
			mu.Unlock()
			send(a.id)
		}
		<-tick.C
	}
	cancel()
	reading.Wait()
	if wrong != nil {
		t.Fatalf("while %s: %v", what, wrong)
	}
	slices.Sort(took)
	t.Logf("while %s: %d questions answered, half of them in %s, 99 %% in %s, all in %s", what, len(took),
		took[len(took)/2].Round(10*time.Microsecond), took[len(took)*99/100].Round(10*time.Microsecond),
		took[len(took)-1].Round(10*time.Microsecond))
}

// child is the process that another one has started with this argument.
func child(t testing.TB, parent int, arg string) int {
	t.Helper()
	var pid int
	until(t, arg+" runs", func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
		if err != nil {
			return err
		}
		for _, file := range tasks {
			list, _ := os.ReadFile(file)
			for _, p := range strings.Fields(string(list)) {
				line, _ := os.ReadFile("/proc/" + p + "/cmdline")
				if slices.Contains(strings.Split(string(line), "\x00"), arg) {
					pid, err = strconv.Atoi(p)
					return err
				}
			}
		}
		return errors.New("there is none")
	})
	return pid
}

// stopped waits until a process has really stopped: all its threads.
func stopped(t testing.TB, pid int) {
	t.Helper()
	until(t, "the process has stopped", func() error {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("%d threads, %v", len(files), err)
		}
		for _, file := range files {
			stat, _ := os.ReadFile(file)
			if i := strings.LastIndex(string(stat), ") "); i < 0 || stat[i+2] != 'T' {
				return fmt.Errorf("%s: %s", file, stat)
			}
		}
		return nil
	})
}

// TestNothingStarvesDNS: a client asks 50 times a second while the daemon is saturated with pulls, while it is stopped,
// while both processes are killed. Every question that was asked while the daemon was stopped is answered before the
// daemon continues.
func TestNothingStarvesDNS(t *testing.T) {
	l := newLab(t)
	b := newBastion(t, l, "n1")
	daemon := b.serve(t)
	const file = "https://dl.k8s.io/large"
	if err := os.WriteFile(b.path("large"), make([]byte, 64<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	b.casemate(t, "file", "put", file, b.path("large"))
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	ask := n.asker(t, b.ip, "registry.k8s.io")
	pid := daemon.Process.Pid

	t.Log("pulls over https that take all the CPU there is")
	pulls, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	begun := 0
	defer wg.Wait()
	defer stop()
	pull := func() {
		for range 100 {
			wg.Go(func() {
				for pulls.Err() == nil {
					mu.Lock()
					begun++
					mu.Unlock()
					n.command(pulls, "curl", "-fsS", "-m", "120", "-o", "/dev/null", file).Run()
				}
			})
		}
	}
	pull()
	until(t, "the pulls are under way", func() error {
		mu.Lock()
		defer mu.Unlock()
		if begun < 100 {
			return fmt.Errorf("%d", begun)
		}
		return nil
	})
	ask.while(t, "100 pulls run", 250, nil)

	t.Log("and the daemon is stopped for ten seconds of questions")
	daemon.Process.Signal(syscall.SIGSTOP)
	stopped(t, pid)
	ask.while(t, "the daemon is stopped", 500, nil)
	stopped(t, pid) // still
	daemon.Process.Signal(syscall.SIGCONT)
	stop()
	wg.Wait()

	t.Log("the DNS process is killed: another one answers")
	first := child(t, pid, "dns")
	ask.while(t, "the DNS process is killed", 50, func() { syscall.Kill(first, syscall.SIGKILL) })
	if again := child(t, pid, "dns"); again == first {
		t.Error("it is the one that was killed")
	}
	b.casemate(t, "name", "set", "late.example", "A", "10.1.2.3")
	n.asker(t, b.ip, "late.example").while(t, "a name was set", 1, nil)

	t.Log("the DNS process hangs: it is replaced")
	second := child(t, pid, "dns")
	ask.while(t, "the DNS process hangs", 50, func() { syscall.Kill(second, syscall.SIGSTOP) })

	t.Log("the daemon is killed: its DNS process does not outlive it, and the next one binds the same port")
	last := child(t, pid, "dns")
	daemon.Process.Kill()
	until(t, "both are gone", func() error {
		for _, p := range []int{pid, last} {
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p)); err == nil &&
				!strings.Contains(string(stat), ") Z ") {
				return fmt.Errorf("%d is there", p)
			}
		}
		return nil
	})
	b.daemon(t, "again", b.bin(), "serve", "--config", b.config)
	b.ready(t)
	ask.while(t, "the next daemon runs", 50, nil)
}
