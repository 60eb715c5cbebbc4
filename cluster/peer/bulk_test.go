package peer

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// writes counts what reaches the wire.
type writes struct {
	net.Conn
	n int
}

func (w *writes) Write(p []byte) (int, error) { w.n++; return w.Conn.Write(p) }

// TestBulk: whatever the sizes of reads and writes are, the bytes are those that were sent, and what is corked is sent
// at once.
func TestBulk(t *testing.T) {
	a, b := net.Pipe()
	wire := &writes{Conn: a}
	from, to := &bulk{Conn: wire}, &bulk{Conn: b}
	to.member.Store(true)
	r := rand.New(rand.NewPCG(1, 2))
	sent := make([]byte, 3<<20)
	for i := range sent {
		sent[i] = byte(r.Uint32())
	}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		defer a.Close()
		r := rand.New(rand.NewPCG(3, 4))
		for rest := sent; len(rest) > 0; {
			before, pieces := wire.n, 1+r.IntN(12)
			from.cork()
			for range pieces {
				n := min(len(rest), r.IntN(20<<10))
				if _, err := from.Write(rest[:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
			}
			if err := from.uncork(); err != nil {
				t.Error(err)
			}
			if wire.n > before+1 {
				t.Errorf("%d writes for what was corked", wire.n-before)
			}
		}
	})
	var got []byte
	for {
		p := make([]byte, 1+r.IntN(20<<10))
		n, err := to.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes have come")
	}
	if to.ours != nil || from.held != nil {
		t.Error("buffers are kept")
	}
}
