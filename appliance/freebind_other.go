//go:build !linux

package appliance

import "syscall"

func freeBind(string, string, syscall.RawConn) error { return nil }
