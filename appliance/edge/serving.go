package edge

import (
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"casemate/appliance/clientconn"
	"casemate/appliance/routing"
	"casemate/cluster/share"
)

// Server returns one of the two HTTP servers; plain means the one without TLS. The limits for clients that make no
// progress are here and in clientconn.
func (e *Edge) Server(plain bool, errorLog *log.Logger) *http.Server {
	return &http.Server{
		Handler:           e.requests.count(e.handler(plain)),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    MaxHeader,
		ConnContext:       clientconn.WithConn,
		ConnState:         e.closed,
		ErrorLog:          errorLog,
	}
}

// closed calls Unasked for a connection that ends without a request. Handshakes for names that are not served have
// failed before, and are reported there.
func (e *Edge) closed(c net.Conn, state http.ConnState) {
	secure, ok := c.(*tls.Conn)
	if !ok || state != http.StateClosed || e.Unasked == nil || clientconn.Asked(c) {
		return
	}
	name := secure.ConnectionState().ServerName
	if at, _ := e.Hosts().Find(name); name != "" && at != routing.Unknown {
		e.Unasked(name, share.AddrOf(c.RemoteAddr()))
	}
}

// requests counts requests in progress, separately those that began before the stop.
type requests struct {
	stopping atomic.Bool
	before   atomic.Int64
}

func (f *requests) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.stopping.Load() {
			f.before.Add(1)
			defer f.before.Add(-1)
		}
		h.ServeHTTP(w, r)
	})
}

// Drain waits until the requests that are in progress now have ended, but at most most. Other requests are still
// answered meanwhile: one slow download does not block new clients.
func (e *Edge) Drain(most time.Duration) {
	f := &e.requests
	f.stopping.Store(true)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(most); f.before.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}
