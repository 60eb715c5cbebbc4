package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"casemate/appliance/clientconn"
	"casemate/appliance/edge"
	"casemate/appliance/setup"
	"casemate/appliance/sockets"
)

// Run serves until ctx is done, or until this node fails, and stops: first it accepts no new request, then requests
// in progress get the grace period, then everything else ends in the reverse order of its start. It returns nil after
// a requested stop. Close must be called after it.
func (a *Appliance) Run(ctx context.Context) error {
	fail := make(chan error, 16)
	var stops []func() // in the order of starts
	stop := func() {
		for _, s := range slices.Backward(stops) {
			s()
		}
	}
	// start runs f until its context is done; the stop waits for it.
	start := func(name string, f func(ctx context.Context) error) {
		own, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := f(own); err != nil && own.Err() == nil {
				fail <- fmt.Errorf("%s: %w", name, err)
			}
		}()
		stops = append(stops, func() { cancel(); <-done })
	}
	start("journal", a.journal.Run)
	start("audit", a.audit.Run)
	start("audit forwarding", a.forwarder.Run)
	start("follow", a.follow)
	start("missing book", func(ctx context.Context) error { a.book.Run(ctx); return nil })
	start("egress book", func(ctx context.Context) error { a.egress.Run(ctx); return nil })
	start("book of clients", func(ctx context.Context) error { a.clients.Run(ctx); return nil })
	start("names of clients", func(ctx context.Context) error { a.clientNames.Run(ctx); return nil })
	start("pulls", func(ctx context.Context) error { a.pulls.Run(ctx); return nil })
	start("pki", a.ca.Run)
	start("repositories", func(ctx context.Context) error { a.repositories.Run(ctx); return nil })
	start("clock", func(ctx context.Context) error { a.clock.Run(ctx, a.log.With("room", "clock")); return nil })
	start("rotation", func(ctx context.Context) error { a.rotation.Run(ctx); return nil })
	start("users", a.sealUsers)
	start("access", func(ctx context.Context) error { a.access.Run(ctx); return nil })
	start("upstream", a.probeUpstream)
	if a.rehearsal != nil {
		start("learn", a.learn)
		start("names", a.serveNames)
	}
	start("dns", a.dns.Run)
	a.dns.Await(ctx, a.cluster.Done()) // clients that find this node by name need DNS
	// What DNS has counted before is known from here on.
	start("series", func(ctx context.Context) error { a.series.Run(ctx); return nil })
	start("forecast", func(ctx context.Context) error { a.forecast.Run(ctx); return nil })
	failures := a.metrics.TLSErrors(a.log.With("room", "http"), a.clients.Untrusting)
	secure, plain := a.edge.Server(false, failures), a.edge.Server(true, failures)
	secure.TLSConfig = a.ca.TLSConfig()
	var open []net.Listener
	var fresh clientconn.Fresh
	serve := func(s *http.Server, listeners []net.Listener, tls bool) {
		for _, l := range listeners {
			l = &clientconn.Listener{
				Listener: l, Places: a.places, Turns: a.turns, Fresh: &fresh, Stall: clientconn.StallTimeout,
				Log: a.log.With("room", "http"),
			}
			open = append(open, l)
			start("http", func(context.Context) error {
				var err error
				if tls {
					err = s.ServeTLS(l, "", "")
				} else {
					err = s.Serve(l)
				}
				if errors.Is(err, http.ErrServerClosed) || a.stopping.Load() && errors.Is(err, net.ErrClosed) {
					return nil
				}
				return err
			})
		}
	}
	serve(secure, a.socks.HTTPS, true)
	serve(plain, a.socks.HTTP, false)
	stops = append(stops, func() {
		a.edge.Drain(a.grace - a.grace/lastGrace)
		for _, l := range open {
			l.Close()
		}
		fresh.Wait(freshWait)
		a.shutdown(a.grace/lastGrace, secure, plain)
	})
	// After the servers, so that it stops before them: browsers that wait for changes are not waited for.
	start("page", func(ctx context.Context) error { a.page.Run(ctx); return nil })
	operators := &http.Server{
		Handler: a.admin.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: edge.MaxHeader, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		ConnContext: a.withPeer,
	}
	serveAdmin := func(context.Context) error {
		if err := operators.Serve(a.socks.Admin); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
	start("admin", serveAdmin)
	// An import ends at once and continues after the restart. After the server has stopped accepting, the responses
	// to import commands are waited for.
	stops = append(stops, a.admin.Wait, func() { a.shutdown(a.grace, operators) }, a.imports.Close)
	start("upkeep", a.upkeep)
	start("scrub", func(ctx context.Context) error { a.cluster.Patrol(ctx, a.scrubInterval); return nil })
	start("watchdog", a.watchdog)
	addrs := a.Addrs()
	a.log.Info("serving", "node", a.cfg.Node, "version", a.opt.Version, "http", sockets.Join(addrs.HTTP),
		"https", sockets.Join(addrs.HTTPS), "dns", sockets.Join(addrs.DNS), "admin", addrs.Admin)
	a.notify("READY=1\nSTATUS=serving")
	var err error
	select {
	case <-ctx.Done():
	case err = <-fail:
	case <-a.cluster.Done():
		err = a.cluster.Err()
	}
	if errors.Is(err, ErrRemoved) {
		a.dns.StopForGood()
		if err := setup.MarkRemoved(a.cfg.Data); err != nil {
			a.log.Warn("the removal cannot be recorded on disk, the next start will ask the other nodes again",
				"err", err)
		}
	}
	a.stopping.Store(true)
	a.notify("STOPPING=1\nSTATUS=stopping, waiting for requests in progress")
	a.log.Info("stopping", "node", a.cfg.Node, "reason", reason(err))
	stop()
	return err
}

func reason(err error) string {
	if err == nil {
		return "asked to"
	}
	return err.Error()
}

// shutdown stops servers: no new connections, then requests in progress get the grace period, then they are aborted.
func (a *Appliance) shutdown(grace time.Duration, servers ...*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				a.log.Warn("requests in progress are cut off", "after", grace, "err", err)
				s.Close()
			}
		})
	}
	wg.Wait()
}
