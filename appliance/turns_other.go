//go:build !linux

package appliance

import "os"

func load(*os.File, int64) {}

func (c *progressConn) sendFile(*os.File, int64) (n int64, ok bool, err error) {
	return 0, false, nil
}
