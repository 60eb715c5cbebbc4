package rehearsal

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// served is a running Names, asked by one socket.
func served(t *testing.T, learn func(context.Context, string) ([]netip.Addr, bool)) net.Conn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		n := Names{Learn: learn, Log: slog.New(slog.DiscardHandler)}
		if err := n.Serve(ctx, conn); err != nil {
			t.Error(err)
		}
	})
	client, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); cancel(); wg.Wait() })
	return client
}

func send(t *testing.T, client net.Conn, id uint16, name string, kind dnsmessage.Type) {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	text, err := m.Pack()
	if err == nil {
		_, err = client.Write(text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, client net.Conn) (m dnsmessage.Message) {
	t.Helper()
	buf := make([]byte, 1500)
	n, err := client.Read(buf)
	if err == nil {
		err = m.Unpack(buf[:n])
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestNames: a question is answered when its name is learnt, and not before; a name that does not exist is denied.
func TestNames(t *testing.T) {
	learnt := make(chan struct{})
	client := served(t, func(ctx context.Context, name string) ([]netip.Addr, bool) {
		if name == "absent.example" {
			return nil, false
		}
		select {
		case <-learnt:
		case <-ctx.Done():
		}
		return []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}, ctx.Err() == nil
	})
	send(t, client, 1, "Tools.Example.", dnsmessage.TypeA)
	send(t, client, 2, "absent.example.", dnsmessage.TypeA)
	if m := receive(t, client); m.ID != 2 || m.RCode != dnsmessage.RCodeNameError {
		t.Fatalf("the first answer is %+v", m)
	}
	close(learnt)
	m := receive(t, client)
	if a, ok := m.Answers[0].Body.(*dnsmessage.AResource); m.ID != 1 || len(m.Answers) != 1 || !ok || a.A[3] != 5 ||
		m.Questions[0].Name.String() != "Tools.Example." {
		t.Errorf("got %+v", m)
	}
	send(t, client, 3, "tools.example.", dnsmessage.TypeAAAA)
	if m := receive(t, client); len(m.Answers) != 1 || m.Answers[0].Header.Type != dnsmessage.TypeAAAA {
		t.Errorf("got %+v", m)
	}
	send(t, client, 4, "tools.example.", dnsmessage.TypeMX)
	if m := receive(t, client); m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != 0 {
		t.Errorf("got %+v", m)
	}
}

// TestNamesHeld: no question is held longer than its client waits, and no more of them than there are places.
func TestNamesHeld(t *testing.T) {
	var mu sync.Mutex
	held, most := 0, 0
	client := served(t, func(ctx context.Context, name string) ([]netip.Addr, bool) {
		at, ok := ctx.Deadline()
		if left := time.Until(at); !ok || left > heldFor {
			t.Errorf("it may take %s", left)
		}
		if name == "last.example" {
			return nil, false
		}
		mu.Lock()
		held++
		most = max(most, held)
		mu.Unlock()
		<-ctx.Done()
		mu.Lock()
		held--
		mu.Unlock()
		return nil, false
	})
	for i := range maxHeld * 2 {
		send(t, client, uint16(i), "held.example.", dnsmessage.TypeA)
	}
	client.Write([]byte("not a message"))
	if m := receive(t, client); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("got %+v", m)
	}
	mu.Lock()
	defer mu.Unlock()
	if most > maxHeld {
		t.Errorf("%d are held", most)
	}
}

// FuzzNames: no packet ends it.
func FuzzNames(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 0, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, packet []byte) {
		client := served(t, func(context.Context, string) ([]netip.Addr, bool) { return nil, false })
		client.Write(packet)
		send(t, client, 77, "absent.example.", dnsmessage.TypeA)
		for {
			if m := receive(t, client); m.ID == 77 {
				return
			}
		}
	})
}
