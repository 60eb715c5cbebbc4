// Package lograte bounds how many log lines outside clients can cause.
//
// It promises: a line that names no client is passed on unchanged. Of the lines with one message, the first line of
// each client (share.Of) is logged, at most Lines of them in an interval; the others are counted, and the count is
// logged at the end of the interval. So the log shows what happens, from where and how often, and its size is bounded.
package lograte

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"casemate/cluster/share"
)

const (
	// Key is the attribute that marks a line that a client caused: the client's address, with or without a port.
	Key = "client"
	// Interval is how long lines are counted before the count is logged.
	Interval = time.Minute
	// Lines is how many lines of one message are logged in an interval, each of another client.
	Lines = 10
	// maxMessages bounds the number of messages that are counted separately. The daemon has fewer, all of them
	// constants.
	maxMessages = 256
)

// Limit is the state that derived handlers share.
type Limit struct {
	mu     sync.Mutex
	kinds  map[string]*kind // by message
	timer  *time.Timer      // nil: nothing is counted
	closed bool
}

// kind is the state of one message in this interval.
type kind struct {
	clients []string // clients with a logged line
	more    int      // lines that were not logged
	level   slog.Level
	out     slog.Handler // the handler of the first line
}

// Handler returns a handler that passes lines on to h. Call Close of the Limit before h's owner ends.
func Handler(h slog.Handler) (slog.Handler, *Limit) {
	l := &Limit{kinds: map[string]*kind{}}
	return &handler{Handler: h, limit: l}, l
}

type handler struct {
	slog.Handler
	limit  *Limit
	client string // from WithAttrs
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	client := h.client
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == Key {
			client = a.Value.Resolve().String()
		}
		return client == ""
	})
	if client == "" || h.limit.admit(h.Handler, r.Message, r.Level, client) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	client := h.client
	for _, a := range attrs {
		if a.Key == Key {
			client = a.Value.Resolve().String()
		}
	}
	return &handler{h.Handler.WithAttrs(attrs), h.limit, client}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.limit, h.client}
}

func (l *Limit) admit(out slog.Handler, message string, level slog.Level, client string) bool {
	client = share.OfText(client)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return true
	}
	k := l.kinds[message]
	if k == nil {
		if len(l.kinds) >= maxMessages {
			return false
		}
		k = &kind{level: level, out: out}
		l.kinds[message] = k
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(Interval, l.turn)
	}
	k.level = max(k.level, level)
	if len(k.clients) < Lines && !slices.Contains(k.clients, client) {
		k.clients = append(k.clients, client)
		return true
	}
	k.more++
	return false
}

// turn ends an interval.
func (l *Limit) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report()
	l.timer = nil
}

// report logs the counts and resets them. l.mu is held, so Close waits for it.
func (l *Limit) report() {
	for message, k := range l.kinds {
		if k.more > 0 && k.out.Enabled(context.Background(), k.level) {
			r := slog.NewRecord(time.Now(), k.level, message, 0)
			r.AddAttrs(slog.Int("more", k.more), slog.Duration("in", Interval))
			k.out.Handle(context.Background(), r)
		}
	}
	clear(l.kinds)
}

// Close logs the pending counts. Later lines are passed on unchanged.
func (l *Limit) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.report()
}
