package clientconn

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"casemate/cluster/share"
)

// pair is a Conn and its client.
func pair(t *testing.T) (c *Conn, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	places := NewPlaces(4, func(string) bool { return false })
	served, err := (&Listener{
		Listener: l, Places: places, Turns: share.NewTurns(1), Stall: time.Minute, Log: slog.New(slog.DiscardHandler),
	}).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { served.Close() })
	return served.(*Conn), client
}

// chunks writes as crypto/tls does: a record at a time.
type chunks struct{ net.Conn }

func (w chunks) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = w.Conn.Write(p[n:min(len(p), n+16<<10)])
		n += m
	}
	return n, err
}

// told is a file with so many bytes that tell where they stand.
func told(t *testing.T, size int) (*os.File, []byte) {
	t.Helper()
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i*7 + i>>8 + i>>16)
	}
	name := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(name, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, want
}

// What is copied in turns arrives whole and in order, whatever its length, and what is written meanwhile by who reads
// the connection stands between two records and not within one.
func TestCopyInTurnsKeepsTheOrder(t *testing.T) {
	t.Parallel()
	for _, size := range []int{LargeWrite, turnChunk - 1, turnChunk, turnChunk + 1, turnPiece, 3*turnPiece + 17} {
		c, client := pair(t)
		f, want := told(t, size)
		const notes = 50
		note := bytes.Repeat([]byte{0xee}, 5)
		var out sync.Mutex // crypto/tls has one around each write
		between := writerFunc(func(p []byte) (int, error) {
			n := 0
			for n < len(p) {
				out.Lock()
				m, err := c.Write(append([]byte{0xdd}, p[n:min(len(p), n+16<<10)]...))
				out.Unlock()
				if err != nil {
					return n, err
				}
				n += m - 1
			}
			return n, nil
		})
		done := make(chan error, 2)
		go func() {
			n, err := c.CopyInTurns(between, &io.LimitedReader{R: f, N: int64(size)}, f, int64(size))
			if err == nil && n != int64(size) {
				err = fmt.Errorf("%d bytes were copied, want %d", n, size)
			}
			done <- err
		}()
		go func() {
			for range notes {
				out.Lock()
				_, err := c.Write(note)
				out.Unlock()
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		got := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(client)
			got <- all
		}()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(size, err)
			}
		}
		c.Close()
		all, seen := <-got, 0
		var body []byte
		for len(all) > 0 {
			switch all[0] {
			case 0xee:
				if !bytes.HasPrefix(all, note) {
					t.Fatalf("%d: a note was torn", size)
				}
				seen, all = seen+1, all[len(note):]
			case 0xdd:
				n := min(16<<10, size-len(body), turnChunk-len(body)%turnChunk)
				if len(all) < 1+n {
					t.Fatalf("%d: the last record has %d bytes, want %d", size, len(all)-1, n)
				}
				body, all = append(body, all[1:1+n]...), all[1+n:]
			default:
				t.Fatalf("%d: no record begins at byte %d", size, len(body))
			}
		}
		if seen != notes || !bytes.Equal(body, want) {
			t.Errorf("%d bytes: %d arrived, equal: %v; %d notes, want %d", size, len(body), bytes.Equal(body, want),
				seen, notes)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A client that does not read is not encrypted for: nothing is read from the file before there is room, and no turn is
// held. Who closes the connection meanwhile does not wait.
func TestACopyWaitsWithoutBuffers(t *testing.T) {
	t.Parallel()
	c, _ := pair(t)
	f, want := told(t, 24<<20)
	var read atomic.Int64
	counted := &io.LimitedReader{R: readerFunc(func(p []byte) (int, error) {
		n, err := f.Read(p)
		read.Add(int64(n))
		return n, err
	}), N: int64(len(want))}
	done := make(chan error)
	go func() {
		_, err := c.CopyInTurns(chunks{c}, counted, f, int64(len(want)))
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Minute); !func() bool {
		before := read.Load()
		n, err := unix.Poll([]unix.PollFd{{Fd: fdOf(t, c), Events: unix.POLLOUT}}, 0)
		if n != 0 || err != nil || before == 0 || before != read.Load() {
			return false
		}
		c.turns.Take("another")
		c.turns.Free()
		return true
	}(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the client still has room, or the copy still has a turn")
		}
	}
	if n := read.Load(); n == int64(len(want)) {
		t.Error("all of the file was read")
	}
	// As crypto/tls does it: the alert first. There is no room for it, and the copy waits for a minute yet.
	if _, err := c.Write([]byte("goodbye")); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := <-done; err == nil {
		t.Error("no error from a closed connection")
	}
	if c.gathered != nil || c.turn {
		t.Error("the copy has left something behind")
	}
}

// A client that has stopped reading is cut off, and nothing follows the record that it has a part of.
func TestACopyThatStallsEndsTheConnection(t *testing.T) {
	t.Parallel()
	c, client := pair(t)
	c.budget.Wait = 10 * time.Millisecond
	f, want := told(t, 24<<20)
	if n, err := c.CopyInTurns(chunks{c}, f, f, int64(len(want))); err == nil {
		t.Errorf("%d bytes were copied to who does not read", n)
	}
	if _, err := c.Write([]byte("more")); err == nil {
		t.Error("more is written after a part of a record")
	}
	if all, _ := io.ReadAll(client); !bytes.HasPrefix(want, all) {
		t.Error("the client got something else than the beginning")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func fdOf(t *testing.T, c *Conn) (fd int32) {
	t.Helper()
	raw, err := c.TCPConn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(n uintptr) { fd = int32(n) }); err != nil {
		t.Fatal(err)
	}
	return fd
}
