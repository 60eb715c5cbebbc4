package handover

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

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
		{"device", func() (*os.File, error) { return os.Open("/dev/zero") }, first,
			"neither a regular file nor a pipe"},
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
		{"said, not sent", func() (*os.File, error) { return nil, nil }, &message{Input: &zero, Descriptors: 1},
			"announces 1 descriptors, but 0 arrived"},
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
		{"no JSON", "\x00\x00\x00\x01{", "not valid JSON"},
		{"too long", "\xff\xff\xff\xff", "more than"},
		{"no inputs", framed(t, &message{Hello: &Request{}}), "must have 1 to"},
		{"too many inputs", framed(t, &message{Hello: &Request{Inputs: many}}), "must have 1 to"},
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
		conn.WriteMsgUnix([]byte(framed(t, &message{Hello: &Request{Inputs: []Named{{}}}})), unix.UnixRights(fds...),
			nil)
		if m, err := readFrame(raw.from, maxAnswer); err != nil || m.Final == nil ||
			!strings.Contains(m.Final.Error, "more descriptors") {
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
	io.WriteString(c, "POST "+Path+" HTTP/1.1\r\nHost: casemate\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+
		"\r\n\r\n"+
		framed(t, &message{Hello: &Request{Name: "early", Inputs: []Named{{Name: dir, Dir: true}}}}))
	all, err := io.ReadAll(io.LimitReader(c, 200))
	if !bytes.Contains(all, []byte(`"result":"early"`)) {
		t.Errorf("got %q, %v", all, err)
	}
}
