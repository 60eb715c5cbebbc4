//go:build !linux

package dnssrv

import "errors"

// forceBuffer is Linux's; elsewhere the system's own limit holds.
func forceBuffer(int) error { return errors.ErrUnsupported }
