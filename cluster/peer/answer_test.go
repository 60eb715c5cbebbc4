package peer

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// TestFinish: the next request after an answer that nobody has read uses the same connection, unless the answer is
// long.
func TestFinish(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		size   int
		method string
		read   int // bytes that the caller reads
		conns  int64
	}{
		{"an answer", http.StatusOK, 3, http.MethodPost, 0, 1},
		{"none", http.StatusOK, 0, http.MethodPost, 0, 1},
		{"an error", http.StatusNotFound, 200, http.MethodGet, 0, 1},
		{"the longest that is read", http.StatusNotFound, shortAnswer, http.MethodGet, 0, 1},
		{"half of an answer is read", http.StatusOK, 1000, http.MethodGet, 500, 1},
		{"a header", http.StatusOK, 1 << 20, http.MethodHead, 0, 1},
		{"a blob", http.StatusOK, 8 << 20, http.MethodGet, 0, 3},
		{"a blob that was read", http.StatusOK, 8 << 20, http.MethodGet, 8 << 20, 1},
	} {
		var conns atomic.Int64
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(c.size))
			w.WriteHeader(c.status)
			io.WriteString(w, strings.Repeat("x", c.size))
		}))
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				conns.Add(1)
			}
		}
		s.Start()
		transport := &http.Transport{DisableCompression: true}
		for range 3 {
			req, err := http.NewRequest(c.method, s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, res.Body, int64(c.read)); err != nil {
				t.Fatal(err)
			}
			Finish(res)
		}
		if n := conns.Load(); n != c.conns {
			t.Errorf("%s: three requests have made %d connections, not %d", c.name, n, c.conns)
		}
		transport.CloseIdleConnections()
		s.Close()
	}
}
