package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"casemate/appliance/clientconn"
	"casemate/cluster/share"
	"casemate/cluster/waittest"
	"casemate/registry"
)

// from connects from an address of 127.0.0.0/8.
func from(t *testing.T, local, addr string) net.Conn {
	t.Helper()
	c, err := try(t, local, addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// try is from for a connection that may be refused.
func try(t *testing.T, local, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	c, err := d.Dial("tcp", addr)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// get asks on a connection and returns the answer's status, 0 if there is none.
func get(c net.Conn) int {
	fmt.Fprintf(c, "GET /v2/a/blobs/x HTTP/1.1\r\nHost: gap.example\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// However connections are held open, and from however many addresses: a client without a connection gets one, members
// have reserved places, and there are never more than the limit.
func TestHonestAddressesGetIn(t *testing.T) {
	const max, kept = 64, 8
	begun := make(chan struct{}, 2*max)
	drips := func(c net.Conn) {
		io.WriteString(c, "PUT /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: gap.example\r\nContent-Length: 100\r\n\r\nx")
		<-begun
	}
	for _, hostile := range []struct {
		name      string
		addresses int
		hold      func(net.Conn) // what is done with a connection before it is held
	}{
		{"silent", 4, func(net.Conn) {}},
		{"a header without an end", 4, func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n") }},
		{"asked once", 4, func(c net.Conn) { get(c) }},
		{"a body without an end", 4, drips},
		{"a body without an end, from many addresses", max / 2, drips},
		{"silent, each from an address of its own", 10 * max, func(net.Conn) {}},
	} {
		t.Run(hostile.name, func(t *testing.T) {
			e, _ := testEdge(t)
			ctx, stop := context.WithCancel(context.Background())
			e.Registry = func(w http.ResponseWriter, r *http.Request, _ registry.View) {
				if r.Method == http.MethodPut {
					begun <- struct{}{}
					<-ctx.Done()
					return
				}
				io.WriteString(w, "ok")
			}
			addr, p := rawServer(t, time.Minute, max, e.handler(false))
			t.Cleanup(stop) // before the server
			for i := range max {
				c, err := try(t, fmt.Sprintf("127.1.%d.%d", i%hostile.addresses/250, i%hostile.addresses%250+1), addr)
				if err != nil {
					continue
				}
				if open, _, _ := p.Counts(); open < max-kept { // beyond it some are closed
					hostile.hold(c)
				}
			}
			waittest.Until(t, "all places are taken", func() bool { open, _, _ := p.Counts(); return open == max-kept })
			for i := range 2 * kept {
				c := from(t, fmt.Sprintf("127.2.0.%d", i+1), addr)
				if code := get(c); code != http.StatusOK {
					t.Errorf("honest address %d is refused: %d", i+1, code)
				}
				if open, _, _ := p.Counts(); open > max {
					t.Errorf("%d connections are open, the most is %d", open, max)
				}
			}
		})
	}
}

// If many addresses have at most their share each, the reserved places are for nodes and for clients that behaved
// well.
func TestPlacesAreKeptForNodes(t *testing.T) {
	const max, kept = 32, 4
	begun := make(chan struct{}, max)
	e, _ := testEdge(t)
	ctx, stop := context.WithCancel(context.Background())
	e.Registry = func(w http.ResponseWriter, r *http.Request, _ registry.View) {
		if r.Method == http.MethodPut {
			begun <- struct{}{}
			<-ctx.Done()
			return
		}
		io.WriteString(w, "ok")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	node := share.Of(netip.MustParseAddr("127.3.0.1"))
	p := clientconn.NewPlaces(max, func(client string) bool { return client == node })
	srv := &http.Server{Handler: e.handler(false), ConnContext: clientconn.WithConn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(&clientconn.Listener{Listener: l, Places: p, Stall: time.Minute, Log: testLog(t)})
	}()
	t.Cleanup(func() { stop(); srv.Close(); <-done })
	addr := l.Addr().String()
	good := from(t, "127.2.0.1", addr)
	if code := get(good); code != http.StatusOK {
		t.Fatal(code)
	}
	good.Close()
	waittest.Until(t, "it is closed", func() bool { open, _, _ := p.Counts(); return open == 0 })
	for i := range max - kept {
		c := from(t, fmt.Sprintf("127.1.0.%d", i+1), addr)
		io.WriteString(c, "PUT /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: gap.example\r\nContent-Length: 100\r\n\r\nx")
		<-begun
	}
	for _, c := range []struct {
		from string
		want int
	}{{"127.4.0.1", 0}, {"127.2.0.1", 200}, {"127.2.0.1", 200}, {"127.3.0.1", 200}, {"127.3.0.1", 200}} {
		code := 0
		if conn, err := try(t, c.from, addr); err == nil {
			code = get(conn)
		}
		if code != c.want {
			t.Errorf("%s: %d, want %d", c.from, code, c.want)
		}
	}
	if _, refused, _ := p.Counts(); refused == 0 {
		t.Error("no stranger was refused")
	}
}

// pipes is a listener of connections in memory, for a bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble serves an edge over connections in memory, where time advances when all goroutines are blocked.
func inBubble(t *testing.T, tune func(*Edge), client func(dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := testEdge(t)
		e.Stall = clientconn.StallTimeout
		tune(e)
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		s := e.Server(false, slog.NewLogLogger(e.Log.Handler(), slog.LevelDebug))
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Serve(l)
		}()
		client(func() net.Conn {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			return ours
		})
		s.Close()
		<-done
		time.Sleep(time.Minute) // what net/http does behind a connection that it closes
	})
}

// A request sent in drips ends after a time that does not depend on the interval of the drips, whatever the request
// is and whether or not the handler reads its body.
func TestADrippingRequestEnds(t *testing.T) {
	const drip = 50 * time.Second
	read := func(w http.ResponseWriter, r *http.Request, _ registry.View) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
	ignore := func(w http.ResponseWriter, r *http.Request, _ registry.View) {
		http.Error(w, "no", http.StatusUnauthorized)
	}
	atOnce := func(w http.ResponseWriter, r *http.Request, _ registry.View) {
		http.Error(w, "no", http.StatusUnauthorized)
		http.NewResponseController(w).Flush()
	}
	begin := func(w http.ResponseWriter, r *http.Request, _ registry.View) {
		r.Body.Read(make([]byte, 1))
		http.Error(w, "no", http.StatusUnauthorized)
	}
	refused := func(w http.ResponseWriter, r *http.Request, _ registry.View) {
		r.Body.Read(make([]byte, 1))
		r.Body.Close()
		http.Error(w, "no", http.StatusUnauthorized)
	}
	silent := func(w http.ResponseWriter, r *http.Request, _ registry.View) {}
	head := func(first string, fields ...string) string {
		return first + " HTTP/1.1\r\nHost: gap.example\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"
	}
	form := head("POST /token", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 60000")
	upload := head("PATCH /v2/a/blobs/uploads/1", "Content-Length: 600000000")
	chunked := head("PATCH /v2/a/blobs/uploads/1", "Transfer-Encoding: chunked")
	for _, c := range []struct {
		name, head, byte string
		room             func(http.ResponseWriter, *http.Request, registry.View)
		most             time.Duration
	}{
		{"a form", form, "x", read, clientconn.StallTimeout},
		{"a form that nobody reads", form, "x", ignore, clientconn.DrainTime},
		{"a form that nobody reads or answers", form, "x", silent, clientconn.DrainTime},
		{"a form that is answered at once", form, "x", atOnce, clientconn.DrainTime},
		{"a form of which one byte is read", form, "x", begin, drip + clientconn.DrainTime},
		{"a form that is closed", form, "x", refused, drip + clientconn.DrainTime},
		{"an upload", upload, "x", read, clientconn.StallTimeout},
		{"an upload that nobody reads", upload, "x", ignore, clientconn.DrainTime},
		{"chunks", chunked, "1\r\nx\r\n", read, clientconn.StallTimeout},
		{"a chunk's header", chunked, "0", read, clientconn.StallTimeout},
		{"chunks that nobody reads", chunked, "1\r\nx\r\n", ignore, clientconn.DrainTime},
		{"a body for GET", head("GET /v2/a/manifests/1", "Content-Length: 1000"), "x", ignore, clientconn.DrainTime},
		{"a body for a host that is unknown", "POST / HTTP/1.1\r\nHost: bank.example\r\nContent-Length: 1000\r\n\r\n",
			"x", read, clientconn.DrainTime},
		{"a header", "POST /token HTTP/1.1\r\nHost: gap.example\r\nX: ", "x", read, 10 * time.Second},
		{"nothing", "", "", read, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(e *Edge) { e.Registry = c.room }, func(dial func() net.Conn) {
				conn := dial()
				defer conn.Close()
				start := time.Now()
				go io.Copy(io.Discard, conn) // it takes what is answered
				io.WriteString(conn, c.head)
				for {
					if _, err := io.WriteString(conn, c.byte); err != nil {
						break
					}
					for range 50 { // one byte in 50 s, and a look each second whether it has ended
						time.Sleep(drip / 50)
						if _, err := conn.Write(nil); err != nil {
							break
						}
					}
					if time.Since(start) > time.Hour {
						break
					}
				}
				if took := time.Since(start); took > c.most+2*drip {
					t.Errorf("it is held for %s, the most is %s", took, c.most+2*drip)
				}
			})
		})
	}
}

// A slow upload that makes progress is not aborted, nor is a client that waits for the server.
func TestASlowUploadIsTaken(t *testing.T) {
	for _, c := range []struct {
		name  string
		chunk int
		every time.Duration // of the client
		pause time.Duration // of the server, between two reads
	}{
		{"20 KB/s", 100 << 10, 5 * time.Second, 0},
		{"the server is slow", 100 << 10, 0, 3 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			const size = 4 << 20
			var got chan error
			inBubble(t, func(e *Edge) {
				got = make(chan error, 1) // in the bubble
				e.Registry = func(w http.ResponseWriter, r *http.Request, _ registry.View) {
					buf := make([]byte, 256<<10)
					n := 0
					for {
						m, err := io.ReadFull(r.Body, buf)
						n += m
						if err != nil {
							if n != size {
								got <- fmt.Errorf("%d bytes, %w", n, err)
							}
							break
						}
						time.Sleep(c.pause)
					}
					// A long answer after it: the deadline of the body is over.
					for range 10 {
						if _, err := io.WriteString(w, "so far\n"); err != nil {
							got <- err
						}
						http.NewResponseController(w).Flush()
						time.Sleep(time.Minute)
						if err := r.Context().Err(); err != nil {
							got <- err
						}
					}
					close(got)
				}
			}, func(dial func() net.Conn) {
				conn := dial()
				defer conn.Close()
				go io.Copy(io.Discard, conn)
				fmt.Fprintf(conn, "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: gap.example\r\nContent-Length: "+
					"%d\r\n\r\n", size)
				chunk := bytes.Repeat([]byte{1}, c.chunk)
				for sent := 0; sent < size; {
					n, err := conn.Write(chunk[:min(len(chunk), size-sent)])
					if sent += n; err != nil {
						t.Errorf("after %d bytes: %v", sent, err)
						break
					}
					time.Sleep(c.every)
				}
				for err := range got {
					t.Error(err)
				}
			})
		})
	}
}

// A request whose body is not read leaves its connection usable: the next request is answered, and a long response is
// not aborted.
func TestAnUnwantedBodyIsPassedOver(t *testing.T) {
	inBubble(t, func(e *Edge) {
		e.Registry = func(w http.ResponseWriter, r *http.Request, _ registry.View) {
			for i := range 5 {
				fmt.Fprintf(w, "%d", i)
				http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Second)
				if err := r.Context().Err(); err != nil {
					t.Error("cut off: ", err)
				}
			}
		}
	}, func(dial func() net.Conn) {
		conn := dial()
		defer conn.Close()
		in := bufio.NewReader(conn)
		for range 2 {
			fmt.Fprintf(conn, "GET /v2/a HTTP/1.1\r\nHost: gap.example\r\nContent-Length: 5\r\n\r\nhello")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(resp.Body); string(text) != "01234" || err != nil {
				t.Errorf("got %q, %v", text, err)
			}
		}
		// A client that waits for 100 Continue is not told to send a body that is not read.
		fmt.Fprintf(conn, "PUT /v2/a HTTP/1.1\r\nHost: bank.example\r\nContent-Length: 5\r\nExpect: "+
			"100-continue\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusMisdirectedRequest || !resp.Close {
			t.Errorf("got %v, %v", resp, err)
		}
	})
}

// A client that accepts a record now and then makes no progress, also if the server writes in small pieces, as TLS
// does.
func TestADrippingReaderIsCutOff(t *testing.T) {
	t.Parallel() // it waits
	ended := make(chan error, 1)
	addr, _ := rawServer(t, time.Second, 10, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := w.(http.Hijacker)
		conn, _, err := c.Hijack()
		if err != nil {
			ended <- err
			return
		}
		defer conn.Close()
		// otherwise the kernel wakes the writer after a third of some megabytes
		conn.(*clientconn.Conn).SetWriteBuffer(32 << 10)
		record := make([]byte, 16<<10)
		for {
			if _, err := conn.Write(record); err != nil {
				ended <- err
				return
			}
		}
	}))
	c := from(t, "127.0.0.1", addr)
	c.(*net.TCPConn).SetReadBuffer(64 << 10)
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond): // the client's pace: some 600 KB/s, and 1 MiB/s are asked for
				if _, err := io.CopyN(io.Discard, c, 64<<10); err != nil {
					return
				}
			}
		}
	})
	err := waittest.Next(t, ended, "the client is cut off")
	close(stop)
	c.Close()
	reading.Wait()
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}

// Connections that are held open cost a bounded amount of memory.
func TestConnectionsCostLittle(t *testing.T) {
	const max = 256
	e, _ := testEdge(t)
	addr, p := rawServer(t, time.Minute, max, e.handler(false))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := heap()
	for i := range 4 * max {
		c := from(t, fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), addr)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 100))
	}
	waittest.Until(t, "all places are taken", func() bool { open, _, _ := p.Counts(); return open == max-max/8 })
	if more := int64(heap() - before); more > max*64<<10+8<<20 { // clients' ends are in it, too
		t.Errorf("%d connections at a time cost %d KiB", max, more>>10)
	}
}

// Large responses stay in memory until their clients have received them. Those of clients that do not read are
// aborted for others, so that their number is bounded, and clients that read get complete responses.
func TestLargeAnswersAreShared(t *testing.T) {
	const max, slow = 8, 24
	e, _ := testEdge(t)
	e.Large = clientconn.NewLarge(max)
	data := bytes.Repeat([]byte("casemate"), 4<<20) // more than the kernel keeps for a connection
	e.Registry = func(w http.ResponseWriter, r *http.Request, _ registry.View) { w.Write(data) }
	addr, p := rawServer(t, time.Hour, 128, e.handler(false))
	const request = "GET /v2/a/referrers/x HTTP/1.1\r\nHost: gap.example\r\nConnection: close\r\n\r\n"
	for i := range slow {
		io.WriteString(from(t, fmt.Sprintf("127.1.0.%d", i%12+1), addr), request)
		waittest.Until(t, "its answer is under way", func() bool {
			open, _, evicted := e.Large.Counts()
			return open+int(evicted) == i+1
		})
	}
	open, refused, _ := e.Large.Counts()
	if open != max || refused != 0 {
		t.Errorf("want %d large answers under way and none refused, got %d and %d", max, open, refused)
	}
	waittest.Until(t, "the others' connections are closed", func() bool {
		open, _, _ := p.Counts()
		return open == max
	})
	good := from(t, "127.2.0.1", addr)
	io.WriteString(good, request)
	resp, err := http.ReadResponse(bufio.NewReader(good), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != int64(len(data)) {
		t.Errorf("who reads got %d bytes of %d: %v", n, len(data), err)
	}
	waittest.Until(t, "its place is free", func() bool { open, _, _ := e.Large.Counts(); return open == max-1 })
}
