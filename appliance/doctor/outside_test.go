package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestOutside: a way out is a warning, or a failure if the operator has named it; closed ways are said.
func TestOutside(t *testing.T) {
	https, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer https.Close()
	resolver, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for b := make([]byte, 512); ; {
			n, from, err := resolver.ReadFrom(b)
			if err != nil {
				return
			}
			b[2] |= 0x80 // an answer
			resolver.WriteTo(b[:n], from)
		}
	}()
	defer func() { resolver.Close(); <-served }()
	open := map[string]string{"192.0.2.1:443": https.Addr().String(), "192.0.2.1:53": resolver.LocalAddr().String()}
	var mu sync.Mutex
	var asked []string
	dial := func(ctx context.Context, network, at string) (net.Conn, error) {
		mu.Lock()
		asked = append(asked, network+" "+at)
		mu.Unlock()
		to, ok := open[at]
		if !ok || network == "tcp" && strings.HasSuffix(at, ":53") {
			return nil, syscall.EHOSTUNREACH
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}
	for _, tt := range []struct {
		outside []string
		closed  bool
		state   State
		ids     []string
		text    string
	}{
		{[]string{"192.0.2.9:443", "192.0.2.9:53"}, true, OK, nil, "no answer from 192.0.2.9:443, 192.0.2.9:53"},
		{[]string{"192.0.2.1:443", "192.0.2.9:53"}, false, Warning, []string{"outside-open"},
			"no answer from 192.0.2.9:53"},
		{[]string{"192.0.2.1:443", "192.0.2.1:53"}, true, Failed, []string{"outside-resolver", "outside-open"}, ""},
	} {
		addrs, err := parseOutside(tt.outside)
		if err != nil {
			t.Fatal(err)
		}
		r := &run{cfg: Config{Closed: tt.closed, dial: dial}, report: &Report{}, states: map[string]State{},
			outside: addrs}
		c := &Check{Name: "outside"}
		asked = nil
		r.checkOutside(t.Context(), c)
		r.finish(c)
		var ids []string
		for _, tr := range c.Troubles {
			ids = append(ids, tr.ID)
		}
		if c.State != tt.state || !slices.Equal(ids, tt.ids) || c.Text != tt.text {
			t.Errorf("%v: %s %v %q, want %s %v %q; asked %v", tt.outside, c.State, ids, c.Text, tt.state, tt.ids,
				tt.text, asked)
		}
	}
	for _, bad := range []string{"192.0.2.1", "host.example:443", "192.0.2.1:0", "[::1"} {
		if _, err := parseOutside([]string{bad}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := parseOutside(make([]string, maxOutside+1)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("too many: %v", err)
	}
	if _, err := parseOutside(Outside); err != nil {
		t.Errorf("the default: %v", err)
	}
}
