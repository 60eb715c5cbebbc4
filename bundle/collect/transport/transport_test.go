package transport

import (
	"testing"
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
