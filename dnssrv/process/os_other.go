//go:build !linux

package process

import (
	"errors"
	"net"
	"os"
	"os/exec"
)

// Exec starts cmd as a DNS process. The process ends when its connection does.
func Exec(cmd *exec.Cmd) (Process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &executed{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

type executed struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *executed) Done() <-chan struct{} { return p.done }
func (p *executed) Kill()                 { p.cmd.Process.Kill() }

// AdmitOwner and the functions below need systemd.
func AdmitOwner(string) func(net.Conn) error {
	return func(net.Conn) error { return errors.ErrUnsupported }
}

// NewTableFile needs Linux.
func NewTableFile() (*os.File, error) { return nil, errors.ErrUnsupported }

// StoreFile needs systemd.
func StoreFile(*os.File) error { return errors.ErrUnsupported }

func punch(*os.File, int64, int64) {}
