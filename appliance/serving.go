package appliance

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// server is one of the two HTTP servers; the limits on what a client may do without progress are here and in conn.go.
func (a *Appliance) server(plain bool) *http.Server {
	return &http.Server{
		Handler:           a.flights.count(a.edge.handler(plain)),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPlace,
		ErrorLog:          a.metrics.tlsErrors(a.log.With("room", "http")),
	}
}

// flights counts requests under way, those that began before the stop apart.
type flights struct {
	stopping atomic.Bool
	before   atomic.Int64
}

func (f *flights) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.stopping.Load() {
			f.before.Add(1)
			defer f.before.Add(-1)
		}
		h.ServeHTTP(w, r)
	})
}

// drain waits until the requests that are under way now have ended, but not longer than most. Others are still answered
// meanwhile: one slow download keeps nobody out.
func (f *flights) drain(most time.Duration) {
	f.stopping.Store(true)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(most); f.before.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

// shutdown ends servers: no new connections, then those under way get the grace period, then they are cut.
func (a *Appliance) shutdown(grace time.Duration, servers ...*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				a.log.Warn("requests under way are cut off", "after", grace, "error", err)
				s.Close()
			}
		})
	}
	wg.Wait()
}
