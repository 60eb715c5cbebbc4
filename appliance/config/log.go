package config

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// NewLogger returns the logger that the config describes, writing to w (standard error), and the level that Reload
// changes.
//
// With format auto, if standard error is the journal, lines have the journal's priority (sd-daemon(3), "<6>") and no
// time; otherwise they are text.
func NewLogger(cfg Log, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.Set(cfg.Level)
	opt := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opt)), level
	}
	if cfg.Format != "text" {
		if is, err := journal.StderrIsJournalStream(); err == nil && is {
			return slog.New(newJournal(w, level)), level
		}
	}
	return slog.New(slog.NewTextHandler(w, opt)), level
}

// journalHandler writes one line per record, prefixed with the priority; the journal adds the time.
type journalHandler struct {
	slog.Handler
	out *journalWriter
}

type journalWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf bytes.Buffer
}

func (w *journalWriter) Write(p []byte) (int, error) { return w.buf.Write(p) }

func newJournal(w io.Writer, level slog.Leveler) *journalHandler {
	out := &journalWriter{w: w}
	replace := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	text := slog.NewTextHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: replace})
	return &journalHandler{text, out}
}

// Handle implements slog.Handler.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.buf.Reset()
	prefix := "<7>"
	switch {
	case r.Level >= slog.LevelError:
		prefix = "<3>"
	case r.Level >= slog.LevelWarn:
		prefix = "<4>"
	case r.Level >= slog.LevelInfo:
		prefix = "<6>"
	}
	h.out.buf.WriteString(prefix)
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.out.w.Write(h.out.buf.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.Handler.WithAttrs(attrs), h.out}
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.Handler.WithGroup(name), h.out}
}
