package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		header string
		want   time.Duration
		ok     bool
	}{
		{"7", 7 * time.Second, true}, {" 0 ", 0, true}, {"Tue, 24 Nov 2026 12:01:00 GMT", time.Minute, true},
		{"Tue, 24 Nov 2026 11:00:00 GMT", 0, true},
		{"", 0, false}, {"soon", 0, false}, {"-5", 0, false}, {"99999999999999999999", 0, false},
	} {
		if got, ok := retryAfter(tt.header, now); got != tt.want || ok != tt.ok {
			t.Errorf("%q: got %v %v", tt.header, got, ok)
		}
	}
	for try := 1; try < 40; try++ {
		if d := backoff(try); d < minBackoff/2 || d > maxBackoff {
			t.Errorf("try %d: waits %v", try, d)
		}
	}
}

// drip is a body of n bytes, of which one arrives in each interval.
type drip struct {
	ctx   context.Context
	n     int
	every time.Duration
}

func (d *drip) Read(p []byte) (int, error) {
	if d.n == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(d.every):
		d.n--
		return copy(p, "x"), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (d *drip) Close() error { return nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestStalled: a body that hardly arrives is given up, one that is slow or whose reader is slow is not.
func TestStalled(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     int
		every time.Duration
		pause time.Duration // of the reader, after each byte
		ok    bool
	}{
		{"a byte each second", 20_000, time.Second, 0, false},
		{"nothing", 1, time.Hour, 0, false},
		{"a short answer in time", 50, time.Second, 0, true},
		{"a short answer too late", 70, time.Second, 0, false},
		{"as slow as it may be", 3 * Slowest, 60 * time.Second / (Slowest + 1), 0, true},
		{"a slow reader", 100, time.Millisecond, time.Hour, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Retrying{Inner: roundTripper(func(r *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 200, Body: &drip{r.Context(), c.n, c.every}}, nil
				})}
				req, err := http.NewRequestWithContext(t.Context(), "GET", "https://a.example/", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := p.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var got strings.Builder
				buf := make([]byte, 1)
				for err == nil {
					var n int
					n, err = resp.Body.Read(buf)
					got.Write(buf[:n])
					time.Sleep(c.pause)
				}
				if c.ok != errors.Is(err, io.EOF) || !c.ok && !errors.Is(err, errStalled) || c.ok && got.Len() != c.n {
					t.Errorf("%d bytes, %v", got.Len(), err)
				}
			})
		})
	}
}
