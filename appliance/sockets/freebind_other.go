//go:build !linux

package sockets

import "syscall"

func FreeBind(string, string, syscall.RawConn) error { return nil }
