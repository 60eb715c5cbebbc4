package foreign

import (
	"testing"

	"casemate/cluster/waittest"
)

func TestMain(m *testing.M) { waittest.Main(m) }
