package process

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Process is a DNS process that the daemon has started.
type Process interface {
	// Done is closed when the process has ended.
	Done() <-chan struct{}
	// Kill ends the process.
	Kill()
}

// Child starts DNS processes, one after the other: when the connection to one has ended, the next Dial starts another.
// The sockets stay open in this process meanwhile, so questions wait and are not refused.
type Child struct {
	// Start starts a process that has peer as its connection to this one.
	Start func(peer *os.File) (Process, error)

	mu      sync.Mutex
	running Process
}

// endGrace is how long a process may take to end after its connection was closed.
const endGrace = 3 * time.Second

// Dial starts a process and returns the connection to it.
func (c *Child) Dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, fmt.Errorf("DNS process: %w", err)
	}
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("DNS process: %w", err)
	}
	if c.running, err = c.Start(theirs); err != nil {
		c.running = nil
		conn.Close()
		return nil, fmt.Errorf("DNS process cannot be started: %w", err)
	}
	return conn, nil
}

// Close ends the process after its connection was closed.
func (c *Child) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
}

func (c *Child) end() {
	if c.running == nil {
		return
	}
	select {
	case <-c.running.Done():
	case <-time.After(endGrace):
		c.running.Kill()
		<-c.running.Done()
	}
	c.running = nil
}

// pair makes two connected sockets.
func pair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link"), nil
}

// Connect returns a Dial for a process that the service manager runs; path is its Unix socket.
func Connect(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("DNS process: %w", err)
		}
		return conn, nil
	}
}
