package pki

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// files is certmagic's file storage, without its lock files (the directory is ours alone, and one name is worked on
// once at a time). What is stored is in memory at once and on the disk a little later: a handshake waits for a new
// certificate, and must not wait for a disk that is busy. What the disk does not take stays in memory: a full disk must
// not stop handshakes. Nothing is synced: what a power cut leaves absent, torn or out of step is found when it is read,
// and a new certificate costs nothing.
type files struct {
	disk *certmagic.FileStorage
	log  *slog.Logger

	changing sync.Mutex // held while files change, so that none is written after it was deleted; before mu

	mu      sync.Mutex
	ram     map[string][]byte // newer than the disk; bounded by maxLeaves
	there   map[string]bool   // the files on the disk, so that asking for one that is not there does not wait for it
	late    []string          // the keys of ram that the disk was not given yet, in their order
	writing bool              // a goroutine gives them to it
	idle    sync.WaitGroup    // that goroutine; added to under mu
}

func newFiles(dir string, log *slog.Logger) *files {
	f := &files{
		disk: &certmagic.FileStorage{Path: dir}, log: log, ram: map[string][]byte{}, there: map[string]bool{},
	}
	// What cannot be listed is as good as absent.
	keys, _ := f.disk.List(context.Background(), "certificates", true)
	for _, key := range keys {
		f.there[key] = true
	}
	return f
}

func (f *files) Lock(context.Context, string) error   { return nil }
func (f *files) Unlock(context.Context, string) error { return nil }

func (f *files) Store(_ context.Context, key string, value []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ram[key] = value
	f.late = append(f.late, key)
	if !f.writing {
		f.writing = true
		f.idle.Go(f.catchUp)
	}
	return nil
}

// catchUp writes what is late, and ends.
func (f *files) catchUp() {
	for f.writeNext() {
	}
}

func (f *files) writeNext() bool {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	if len(f.late) == 0 {
		f.writing, f.late = false, nil
		f.mu.Unlock()
		return false
	}
	key := f.late[0]
	f.late = f.late[1:]
	value, ok := f.ram[key]
	f.mu.Unlock()
	if !ok {
		return true // deleted, or written in its turn before
	}
	err := f.write(key, value)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.log.Warn("certificate kept in memory only", "file", key, "err", err)
		return true
	}
	f.there[key] = true
	if !slices.Contains(f.late, key) {
		delete(f.ram, key)
	}
	return true
}

func (f *files) write(key string, value []byte) error {
	name := f.disk.Filename(key)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, value, 0o600)
}

// flush waits until the disk was given everything.
func (f *files) flush() { f.idle.Wait() }

// held returns what the disk does not have yet; absent, that the disk does not have it either.
func (f *files) held(key string) (value []byte, held, absent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, held = f.ram[key]
	return value, held, !held && !f.there[key]
}

func (f *files) Load(ctx context.Context, key string) ([]byte, error) {
	v, held, absent := f.held(key)
	if held {
		return v, nil
	}
	if absent {
		return nil, fs.ErrNotExist
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
	f.changing.Lock()
	defer f.changing.Unlock()
	below := func(k string) bool { return k == key || strings.HasPrefix(k, key+"/") }
	f.mu.Lock()
	maps.DeleteFunc(f.ram, func(k string, _ []byte) bool { return below(k) })
	f.mu.Unlock()
	err := f.disk.Delete(ctx, key)
	if err == nil {
		f.mu.Lock()
		maps.DeleteFunc(f.there, func(k string, _ bool) bool { return below(k) })
		f.mu.Unlock()
	}
	return err
}

func (f *files) Exists(ctx context.Context, key string) bool {
	_, err := f.Stat(ctx, key)
	return err == nil
}

func (f *files) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	return f.disk.List(ctx, dir, recursive)
}

func (f *files) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	v, held, absent := f.held(key)
	if held {
		return certmagic.KeyInfo{Key: key, Size: int64(len(v)), IsTerminal: true}, nil
	}
	if absent {
		return certmagic.KeyInfo{}, fs.ErrNotExist
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
