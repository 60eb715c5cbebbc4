package pki

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapAdapter passes what certmagic logs to slog. certmagic's information is our debugging: it reports every step of
// every certificate.
type zapAdapter struct{ log *slog.Logger }

func zapLogger(log *slog.Logger) *zap.Logger { return zap.New(zapAdapter{log}) }

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func attrs(fields []zapcore.Field) []any {
	var list []any
	for _, f := range fields {
		// An encoder each, because one for all would lose their order.
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		for k, v := range enc.Fields {
			list = append(list, slog.Any(k, v))
		}
	}
	return list
}

// Enabled implements zapcore.LevelEnabler.
func (z zapAdapter) Enabled(l zapcore.Level) bool {
	return z.log.Enabled(context.Background(), slogLevel(l))
}

// With implements zapcore.Core.
func (z zapAdapter) With(f []zapcore.Field) zapcore.Core { return zapAdapter{z.log.With(attrs(f)...)} }

// Check implements zapcore.Core.
func (z zapAdapter) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if z.Enabled(e.Level) {
		return ce.AddCore(e, z)
	}
	return ce
}

// Write implements zapcore.Core.
func (z zapAdapter) Write(e zapcore.Entry, f []zapcore.Field) error {
	z.log.Log(context.Background(), slogLevel(e.Level), e.Message, attrs(f)...)
	return nil
}

// Sync implements zapcore.Core.
func (zapAdapter) Sync() error { return nil }
