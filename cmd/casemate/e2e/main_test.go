//go:build e2e || bench

package e2e

import (
	"os"
	"testing"
)

// roles are what this program does instead of testing if a test has started it; each says whether it was asked for.
var roles []func() (asked bool, code int)

// atEnd runs after the last test.
var atEnd []func()

func TestMain(m *testing.M) {
	for _, role := range roles {
		if asked, code := role(); asked {
			os.Exit(code)
		}
	}
	code := m.Run()
	for _, f := range atEnd {
		f()
	}
	os.Exit(code)
}
