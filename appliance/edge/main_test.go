package edge

import (
	"log/slog"
	"strings"
	"testing"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// testLog writes to the test's log.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}
