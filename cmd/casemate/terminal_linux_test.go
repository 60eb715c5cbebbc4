package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a command that runs on a separate terminal.
type terminal struct {
	t       *testing.T
	cmd     *exec.Cmd
	control *os.File // the side of who types and looks
	slave   *os.File

	mu   sync.Mutex
	seen strings.Builder
	more chan struct{} // after each piece of output
}

// onTerminal starts the real binary on a terminal of so many columns.
func onTerminal(t *testing.T, columns uint16, env []string, args ...string) *terminal {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	t.Cleanup(func() { control.Close() })
	if err := unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	t.Cleanup(func() { slave.Close() })
	size := &unix.Winsize{Row: 24, Col: columns}
	if err := unix.IoctlSetWinsize(int(control.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
	m := &terminal{t: t, control: control, slave: slave, more: make(chan struct{}, 1)}
	m.cmd = exec.Command(built(t), args...)
	m.cmd.Stdin, m.cmd.Stdout, m.cmd.Stderr = slave, slave, slave
	m.cmd.Env = append(append(os.Environ(), "TERM=xterm"), env...)
	m.cmd.Dir = t.TempDir()
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := control.Read(buf)
			m.mu.Lock()
			m.seen.Write(buf[:n])
			m.mu.Unlock()
			select {
			case m.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		m.cmd.Process.Kill()
		slave.Close()
		<-read // with the last slave closed, reading ends
	})
	return m
}

func (m *terminal) output() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.String()
}

// shows waits until the terminal has shown a text.
func (m *terminal) shows(text string) {
	m.t.Helper()
	for !strings.Contains(m.output(), text) {
		select {
		case <-m.more:
		case <-time.After(patience):
			m.t.Fatalf("%q is not shown, but %q", text, m.output())
		}
	}
}

// interrupt presses Ctrl-C and returns the exit code.
func (m *terminal) interrupt() int {
	m.t.Helper()
	if _, err := m.control.WriteString("\x03"); err != nil {
		m.t.Fatal(err)
	}
	m.cmd.Wait()
	return m.cmd.ProcessState.ExitCode()
}

// Ctrl-C at a password prompt ends the command at once, with one sentence, and the terminal echoes input again.
func TestCtrlCAtAPassword(t *testing.T) {
	m := onTerminal(t, 80, nil, "user", "add", "deploy", "--socket", "/nowhere")
	m.shows("Password: ")
	hides := func() bool {
		state, err := unix.IoctlGetTermios(int(m.slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return state.Lflag&unix.ECHO == 0
	}
	for end := time.Now().Add(patience); !hides(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the terminal shows the password")
		}
	}
	if code := m.interrupt(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	m.shows("casemate: interrupted: nothing was changed\r\n")
	if hides() {
		t.Error("the terminal still hides input")
	}
}

// Ctrl-C during a transfer takes the bars away: the message begins at the start of an empty line. The lines before it
// fit the terminal.
func TestCtrlCLeavesACleanLine(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	list := filepath.Join(t.TempDir(), "files.list")
	if err := os.WriteFile(list, []byte("https://dl.example.com/a-file-with-a-long-name.tar.gz\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const columns = 40
	env := []string{"HTTPS_PROXY=http://" + silent.Addr().String()}
	m := onTerminal(t, columns, env, "bundle", "create", "x.tar", "--files", list, "--cache", "cache")
	m.shows("fetching")
	if code := m.interrupt(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	m.shows("casemate: interrupted: ")
	out := m.output()
	bars, message, _ := strings.Cut(out, "casemate: interrupted: ")
	if !strings.HasSuffix(bars, "\r\x1b[K") {
		t.Errorf("the message does not begin on an empty line: %q", out)
	}
	if strings.ContainsAny(message, "\x1b[") || strings.Count(message, "\n") > 1 {
		t.Errorf("something comes after the message: %q", message)
	}
	for _, line := range strings.FieldsFunc(bars, func(r rune) bool { return strings.ContainsRune("\r\n\x1b", r) }) {
		if text, ok := strings.CutPrefix(line, "[J"); ok && len([]rune(text)) > columns {
			t.Errorf("a line of %d columns: %q", len([]rune(text)), text)
		}
	}
}
