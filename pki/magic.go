package pki

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// files is certmagic's file storage, without its lock files (the directory is ours alone, and one name is worked on
// once at a time), and with a memory for what the disk does not take: a full disk must not stop handshakes.
type files struct {
	disk *certmagic.FileStorage
	log  *slog.Logger

	mu  sync.Mutex
	ram map[string][]byte // newer than the disk; bounded by maxLeaves
}

func newFiles(dir string, log *slog.Logger) *files {
	return &files{disk: &certmagic.FileStorage{Path: dir}, log: log, ram: map[string][]byte{}}
}

func (f *files) Lock(context.Context, string) error   { return nil }
func (f *files) Unlock(context.Context, string) error { return nil }

func (f *files) Store(ctx context.Context, key string, value []byte) error {
	err := f.disk.Store(ctx, key, value)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.log.Warn("certificate kept in memory only", "file", key, "err", err)
		f.ram[key] = value
		return nil
	}
	delete(f.ram, key)
	return nil
}

func (f *files) held(key string) ([]byte, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.ram[key]
	return v, ok
}

func (f *files) Load(ctx context.Context, key string) ([]byte, error) {
	if v, ok := f.held(key); ok {
		return v, nil
	}
	v, err := f.disk.Load(ctx, key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// What cannot be read is as good as absent: a new certificate costs nothing.
		f.log.Warn("certificate file cannot be read", "file", key, "err", err)
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return v, err
}

func (f *files) Delete(ctx context.Context, key string) error {
	f.mu.Lock()
	for k := range f.ram {
		if k == key || strings.HasPrefix(k, key+"/") {
			delete(f.ram, k)
		}
	}
	f.mu.Unlock()
	return f.disk.Delete(ctx, key)
}

func (f *files) Exists(ctx context.Context, key string) bool {
	if _, ok := f.held(key); ok {
		return true
	}
	_, err := f.disk.Stat(ctx, key)
	return err == nil
}

func (f *files) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	return f.disk.List(ctx, dir, recursive)
}

func (f *files) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	if v, ok := f.held(key); ok {
		return certmagic.KeyInfo{Key: key, Size: int64(len(v)), IsTerminal: true}, nil
	}
	return f.disk.Stat(ctx, key)
}

// zapLogger bends certmagic's logger to slog. Its information is our debugging: it tells every step of every issuance.
func zapLogger(log *slog.Logger) *zap.Logger { return zap.New(zapCore{log: log}) }

type zapCore struct{ log *slog.Logger }

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

func (z zapCore) Enabled(l zapcore.Level) bool {
	return z.log.Enabled(context.Background(), slogLevel(l))
}

func (z zapCore) With(f []zapcore.Field) zapcore.Core { return zapCore{z.log.With(attrs(f)...)} }

func (z zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if z.Enabled(e.Level) {
		return ce.AddCore(e, z)
	}
	return ce
}

func (z zapCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	z.log.Log(context.Background(), slogLevel(e.Level), e.Message, attrs(f)...)
	return nil
}

func (zapCore) Sync() error { return nil }
