package remote

import "testing"

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true,
		"[::1]:5000": true, "a.localhost:80": true,
		"10.0.0.1:5000": false, "example.com": false, "192.168.0.1": false, "localhost.example.com": false} {
		if got := isLoopback(host); got != want {
			t.Errorf("%s: got %v", host, got)
		}
	}
}
