package raftlog

import (
	"context"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// hclogAdapter implements the logger of raft and raft-wal by slog. Their Info becomes Debug, because our own lines
// report elections.
type hclogAdapter struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*hclogAdapter)(nil)

// NewLogger is the logger for a library of that name.
func NewLogger(log *slog.Logger, name string) hclog.Logger {
	return &hclogAdapter{log: log.With("lib", name), name: name}
}

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

func (b *hclogAdapter) Log(l hclog.Level, msg string, args ...any) {
	if l == hclog.Trace || l == hclog.Off || l == hclog.NoLevel {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = f[0]
		}
	}
	to := level(l)
	for _, begin := range repeated {
		if strings.HasPrefix(msg, begin) {
			to = slog.LevelDebug
		}
	}
	b.log.Log(context.Background(), to, msg, args...)
}

// repeated are raft's lines that come several times a second while a node is down or there is no majority. Our own
// lines report the same once: which node is down, which node leads, that there is no leader.
var repeated = []string{
	"heartbeat timeout reached", "Election timeout reached", "failed to make requestVote RPC", "failed to contact",
	"failed to appendEntries to", "failed to heartbeat to", "failed to decode incoming command",
	"failed to get previous log", "rejecting pre-vote", "rejecting appendEntries", "appendEntries rejected",
	"failed to pipeline", "failed to flush response",
}

func (b *hclogAdapter) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }
func (b *hclogAdapter) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b *hclogAdapter) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b *hclogAdapter) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b *hclogAdapter) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *hclogAdapter) is(l hclog.Level) bool { return b.log.Enabled(context.Background(), level(l)) }

func (b *hclogAdapter) IsTrace() bool { return false }
func (b *hclogAdapter) IsDebug() bool { return b.is(hclog.Debug) }
func (b *hclogAdapter) IsInfo() bool  { return b.is(hclog.Info) }
func (b *hclogAdapter) IsWarn() bool  { return b.is(hclog.Warn) }
func (b *hclogAdapter) IsError() bool { return b.is(hclog.Error) }

func (b *hclogAdapter) ImpliedArgs() []any { return b.args }

func (b *hclogAdapter) With(args ...any) hclog.Logger {
	return &hclogAdapter{log: b.log.With(args...), name: b.name, args: append(append([]any{}, b.args...), args...)}
}

func (b *hclogAdapter) Name() string { return b.name }
func (b *hclogAdapter) Named(name string) hclog.Logger {
	return b.ResetNamed(strings.Trim(b.name+"."+name, "."))
}
func (b *hclogAdapter) ResetNamed(name string) hclog.Logger {
	return &hclogAdapter{log: b.log, name: name, args: b.args}
}
func (b *hclogAdapter) SetLevel(hclog.Level)  {}
func (b *hclogAdapter) GetLevel() hclog.Level { return hclog.Debug }

func (b *hclogAdapter) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(b.log.Handler(), slog.LevelWarn)
}

func (b *hclogAdapter) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return b.StandardLogger(nil).Writer()
}
