package session

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/sirupsen/logrus"
)

// embed makes distribution's registry over the driver. It is used as a handler: it has no listener, no purger (its
// goroutine ignores its context), no notifications, and no descriptor cache (which would still know a manifest that
// another node deleted).
func embed(s *Sessions) (app http.Handler, shutdown func() error, err error) {
	registerDriver()
	stopLogging := logTo(s.cfg.Log)
	// NewApp panics on a bad configuration.
	defer func() {
		if p := recover(); p != nil {
			stopLogging()
			app, shutdown, err = nil, nil, fmt.Errorf("distribution refuses its configuration: %v", p)
		}
	}()
	cfg := &configuration.Configuration{
		Storage: configuration.Storage{
			driverName:    configuration.Parameters{driverParameter: s},
			"redirect":    configuration.Parameters{"disable": true},
			"delete":      configuration.Parameters{"enabled": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	cfg.Catalog.MaxEntries = 1000
	cfg.HTTP.Secret = string(s.cfg.Secret)
	cfg.HTTP.RelativeURLs = true
	cfg.Validation.Manifests.URLs.Allow = []string{".*"}
	cfg.Validation.Manifests.Indexes.Platforms = "none"
	a := handlers.NewApp(context.Background(), cfg)
	return a, func() error {
		stopLogging()
		return a.Shutdown()
	}, nil
}

// distribution logs through the one standard logger of logrus, so the process has one hook, and the log of the newest
// Sessions gets the lines.
var (
	logrusOnce   sync.Once
	logrusTarget atomic.Pointer[slog.Logger]
)

// logTo lets log receive distribution's lines until stop is called.
func logTo(log *slog.Logger) (stop func()) {
	logrusOnce.Do(func() {
		logrus.SetOutput(io.Discard)
		logrus.SetLevel(logrus.InfoLevel)
		logrus.AddHook(logrusHook{})
	})
	logrusTarget.Store(log)
	return func() { logrusTarget.CompareAndSwap(log, nil) }
}

type logrusHook struct{}

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

// clientsMistakes are the beginnings of lines that distribution logs as errors, or as information, about a client's
// mistake.
var clientsMistakes = []string{
	"response completed", "client disconnected", "Image index completeness", "error resolving upload",
	"upload resumed at wrong offset", "unknown error reading request payload",
}

// Fire passes a line on. distribution logs each 4xx as an error and each request as information. Both become debug
// lines here, where the edge has its own line for a request.
func (logrusHook) Fire(e *logrus.Entry) error {
	log := logrusTarget.Load()
	if log == nil {
		return nil
	}
	level := slog.LevelDebug
	switch {
	case hasPrefix(e.Message, clientsMistakes):
	case e.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	}
	if !log.Enabled(context.Background(), level) {
		return nil
	}
	attrs := make([]any, 0, len(e.Data)*2)
	for k, v := range e.Data {
		switch {
		case k == "vars.uuid", k == "vars.name", strings.HasPrefix(k, "err."):
			attrs = append(attrs, k, v)
		case k == "error", k == "err":
			attrs = append(attrs, "err", v)
		}
	}
	log.Log(context.Background(), level, "distribution: "+e.Message, attrs...)
	return nil
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
