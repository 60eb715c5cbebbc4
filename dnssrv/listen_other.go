//go:build !linux

package dnssrv

import "errors"

// forceReceive and forceSend exist on Linux only; elsewhere the system's limit applies.
func forceReceive(int, int) error { return errors.ErrUnsupported }
func forceSend(int, int) error    { return errors.ErrUnsupported }

func unsent(int) (int, error) { return 0, errors.ErrUnsupported }
