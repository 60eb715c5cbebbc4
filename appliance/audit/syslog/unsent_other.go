//go:build !linux

package syslog

import (
	"errors"
	"net"
)

// acknowledged is only known on Linux, where bastions run; the command line is built elsewhere too.
func acknowledged(*net.TCPConn) (bool, error) {
	return false, errors.New("events are forwarded on Linux only")
}
