package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	failuresToOpen = 3
	minOpen        = 5 * time.Second
	maxOpen        = time.Minute
	maxServers     = 1024
)

// circuit remembers which servers do not answer, so that not every client waits for them. After three failures in a row
// a server is not asked for five seconds, then one request tries it; each further failure doubles the time, up to a
// minute.
type circuit struct {
	now func() time.Time

	mu      sync.Mutex
	servers map[string]*server // by scheme and host
}

type server struct {
	failures int
	until    time.Time // it is not asked before
	since    time.Time // of the first failure
	err      error     // the last one
}

// openError is the answer for a server that is not asked.
type openError struct {
	at    string
	left  time.Duration
	cause error
}

func (e *openError) Error() string {
	return fmt.Sprintf("%s did not answer %d times in a row, the last time: %v", e.at, failuresToOpen, e.cause)
}

func (e *openError) Unwrap() error { return e.cause }

// before returns an error if a server must not be asked now.
func (c *circuit) before(at string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.servers[at]
	if p == nil || p.failures < failuresToOpen {
		return nil
	}
	now := c.now()
	if now.Before(p.until) {
		return &openError{at, p.until.Sub(now), p.err}
	}
	p.until = now.Add(minOpen) // the others wait for this one's result
	return nil
}

func (c *circuit) after(at string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.servers, at)
		return
	}
	p := c.servers[at]
	if p == nil {
		if c.servers == nil || len(c.servers) >= maxServers {
			c.servers = map[string]*server{}
		}
		p = &server{since: c.now()}
		c.servers[at] = p
	}
	p.err = err
	if p.failures++; p.failures >= failuresToOpen {
		p.until = c.now().Add(min(minOpen<<min(p.failures-failuresToOpen, 8), maxOpen))
	}
}

// open returns the servers that are not asked, and why.
func (c *circuit) open() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, p := range c.servers {
		if p.failures >= failuresToOpen {
			list = append(list, fmt.Sprintf("%s has not answered since %s, what is here is served: %v", at,
				p.since.UTC().Format(time.RFC3339), p.err))
		}
	}
	return list
}

// guarded sends requests through the circuit.
type guarded struct {
	u     *Upstream
	inner http.RoundTripper
}

func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	// What goes through a proxy is not seen by dial.
	host := req.URL.Hostname()
	if ip, err := netip.ParseAddr(host); err == nil {
		if err := g.u.refuseAddr(req.Context(), host, ip); err != nil {
			return nil, err
		}
	} else if numeric(host) {
		return nil, fmt.Errorf("%.300s is neither a host name nor an address", host)
	}
	at := req.URL.Scheme + "://" + req.URL.Host
	if err := g.u.servers.before(at); err != nil {
		return nil, err
	}
	resp, err := g.inner.RoundTrip(req)
	switch {
	case err != nil && errors.Is(err, context.Canceled):
	case err != nil:
		g.u.servers.after(at, err)
	case resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented:
		g.u.servers.after(at, fmt.Errorf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	default:
		g.u.servers.after(at, nil)
	}
	return resp, err
}
