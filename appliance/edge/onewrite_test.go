package edge

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// countingListener counts the writes to its connections, those of ReadFrom included.
type countingListener struct {
	net.Listener
	writes atomic.Int64
}

type countingConn struct {
	net.Conn
	l *countingListener
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countingConn{c, l}, err
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.l.writes.Add(1)
	return c.Conn.Write(p)
}

func (c *countingConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(writerOnly{c}, r) }

// A small answer leaves with its header.
func TestSmallAnswerIsOneWrite(t *testing.T) {
	for size, want := range map[int]int64{0: 1, 1: 1, 511: 1, 512: 1, 513: 1, 1500: 1, oneWrite: 1, 1 << 20: 0} {
		l := &countingListener{}
		var err error
		if l.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		body := bytes.Repeat([]byte("x"), size)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			http.ServeContent(&recorder{ResponseWriter: w}, r, "", time.Time{}, bytes.NewReader(body))
		})}
		done := make(chan struct{})
		go func() { defer close(done); server.Serve(l) }()
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, body) || resp.Header.Get("Content-Length") != strconv.Itoa(size) {
			t.Errorf("%d bytes: got %d, %s, %v", size, len(got), resp.Header.Get("Content-Length"), err)
		}
		if n := l.writes.Load(); want != 0 && n != want {
			t.Errorf("an answer of %d bytes took %d writes, want %d", size, n, want)
		}
		server.Close()
		<-done
	}
}
