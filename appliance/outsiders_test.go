package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"casemate/appliance/setup"
)

// lines is a log that counts its lines by message.
type lines struct {
	slog.Handler
	mu   *sync.Mutex
	list *[]string
}

func (l lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.list = append(*l.list, text)
	return nil
}

func (l lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l lines) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l lines) WithGroup(string) slog.Handler                    { return l }

func (l lines) with(message string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range *l.list {
		if strings.HasPrefix(line, message) {
			found = append(found, line)
		}
	}
	return found
}

// A wrong password is in the log wherever it was sent, once for a client, and then as a count.
func TestWrongPasswordsAreLoggedAndCounted(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	log := lines{mu: &sync.Mutex{}, list: &[]string{}}
	n := serveNodeWith(t, cfg, Options{Log: slog.New(log)})
	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)
	const message = "a wrong user or password was refused"
	as := func(r *http.Request) { r.SetBasicAuth("ada", "wrong horse") }
	for i, c := range []struct{ method, url string }{
		{"PUT", "https://files.casemate.internal/dl.k8s.io/x"},
		{"GET", "https://registry.casemate.internal/token"},
		{"POST", "https://registry.casemate.internal/v2/a/blobs/uploads/"},
	} {
		if resp, body := n.do(c.method, c.url, strings.NewReader("x"), as); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s: %d %s", c.method, c.url, resp.StatusCode, body)
		}
		want := 1
		if got := log.with(message); len(got) != want || !strings.Contains(got[0], "client=127.0.0.1 user=ada") {
			t.Errorf("after %d: %q", i+1, got)
		}
	}
	n.stop()
	if got := log.with(message); len(got) != 2 || got[1] != message+" more=2 in=1m0s" {
		t.Errorf("in the end: %q", got)
	}
	for _, line := range *log.list {
		if strings.Contains(line, "wrong horse") {
			t.Errorf("the password is in the log: %s", line)
		}
	}
}
