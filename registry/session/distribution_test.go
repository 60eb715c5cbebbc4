package session

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"casemate/cluster/treetest"

	"github.com/sirupsen/logrus"
)

// lines is a slog handler that stores its records.
type lines struct {
	slog.Handler
	mu   sync.Mutex
	list []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, r.Level.String()+" "+r.Message)
	return nil
}

// TestForeignLog: distribution's lines arrive in our log, its noise as debugging, and none after Close.
func TestForeignLog(t *testing.T) {
	l := &lines{Handler: slog.DiscardHandler}
	r, err := Open(Config{Tree: treetest.New(t), Secret: []byte("x"), Log: slog.New(l)})
	if err != nil {
		t.Fatal(err)
	}
	l.list = nil
	logrus.Error("something broke")
	logrus.Error("response completed with error")
	logrus.Warn("look")
	logrus.Info("chat")
	want := "[ERROR distribution: something broke DEBUG distribution: response completed with error " +
		"WARN distribution: look DEBUG distribution: chat]"
	if got := fmt.Sprint(l.list); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	l.list = nil
	logrus.Error("late")
	if len(l.list) != 0 {
		t.Errorf("after Close: %v", l.list)
	}
}

// TestOpenRefuses: distribution's panics are errors, and a Config without a tree is one too.
func TestOpenRefuses(t *testing.T) {
	if _, err := Open(Config{}); err == nil {
		t.Error("sessions without a tree")
	}
	if _, _, err := embed(&Sessions{}); err == nil || !strings.Contains(err.Error(), "distribution") {
		t.Errorf("a driver over nothing: %v", err)
	}
}
