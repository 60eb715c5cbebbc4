package bundle

import "os"

// Soak asks for every case, as make soak does; otherwise a sample has some of each kind. This package's outer tests
// read it too.
var Soak = os.Getenv("CASEMATE_SOAK") != ""

// every is 1 with Soak and else n: of that many cases one is tried.
func every(n int) int {
	if Soak {
		return 1
	}
	return n
}
