package transport

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxLimits is how many kinds of requests have a limit: redirects may lead to any number of hosts.
const maxLimits = 4096

// MaxTooManyRequests is the number of 429 answers in a row after which a host is not asked again; the pauses between
// them add up to a minute.
const MaxTooManyRequests = 8

// rateLimits slows all workers down together if a host answers 429: the answer to one of them counts for all. Hosts
// limit kinds of requests (Docker Hub counts GETs of manifests only), so each kind has its own limit. The zero value is
// ready; its methods are safe for concurrent use.
type rateLimits struct {
	mu     sync.Mutex
	limits map[string]*limit
}

// limit is the state of one kind of request to one host.
type limit struct {
	refused int       // answers in a row; answers to concurrent requests count as one
	since   time.Time // of the last answer
	until   time.Time // no request is sent before
}

// limitKey returns the kind of a request.
func limitKey(req *http.Request) string {
	kind := "other"
	for _, k := range []string{"/manifests/", "/blobs/"} {
		if strings.Contains(req.URL.Path, k) {
			kind = k
		}
	}
	return req.Method + " " + req.URL.Host + " " + kind
}

// before returns how long to wait before a request is sent, in whole milliseconds. The error replaces the answer of a
// host that need not be asked, because it refused all previous requests.
func (p *rateLimits) before(kind string, now time.Time) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.limits[kind]
	if l == nil || !l.until.After(now) {
		return 0, nil
	}
	left := l.until.Sub(now)
	if l.refused >= MaxTooManyRequests || left > MaxRetryAfter {
		return 0, &StatusError{
			Status:     http.StatusTooManyRequests,
			RetryAfter: left,
			Message:    fmt.Sprintf("it answered so %s and was not asked again", times(l.refused)),
		}
	}
	return (left + time.Millisecond - 1).Truncate(time.Millisecond), nil
}

// refused records a 429 to a request that was sent at sent. asked is the duration in Retry-After, 0 without one. again
// reports whether the request should be retried.
func (p *rateLimits) refused(kind string, sent, now time.Time, asked time.Duration) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limits == nil {
		p.limits = map[string]*limit{}
	}
	l := p.limits[kind]
	if l == nil {
		if len(p.limits) >= maxLimits {
			maps.DeleteFunc(p.limits, func(_ string, l *limit) bool { return !l.until.After(now) })
		}
		if len(p.limits) >= maxLimits {
			return asked <= MaxRetryAfter
		}
		l = &limit{}
		p.limits[kind] = l
	}
	if l.refused == 0 || !sent.Before(l.since) {
		l.refused++
		l.since = now
		l.until = now.Add(max(asked, backoff(l.refused)))
	} else if until := now.Add(asked); until.After(l.until) {
		l.until = until
	}
	return l.refused < MaxTooManyRequests && asked <= MaxRetryAfter
}

// accepted records any other answer.
func (p *rateLimits) accepted(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.limits, kind)
}

func times(n int) string {
	return cmp.Or(map[int]string{1: "once", 2: "twice"}[n], fmt.Sprintf("%d times", n))
}
