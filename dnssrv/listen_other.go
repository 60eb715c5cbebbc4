//go:build !linux

package dnssrv

import "errors"

// forceReceive and forceSend are Linux's; elsewhere the system's own limit holds.
func forceReceive(int, int) error { return errors.ErrUnsupported }
func forceSend(int, int) error    { return errors.ErrUnsupported }

func unsent(int) (int, error) { return 0, errors.ErrUnsupported }
