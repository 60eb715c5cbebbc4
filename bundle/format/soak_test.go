package format

import "os"

// soak asks for every case, as make soak does; otherwise a sample has some of each kind.
var soak = os.Getenv("CASEMATE_SOAK") != ""

// every is 1 with soak and else n: of that many cases one is tried.
func every(n int) int {
	if soak {
		return 1
	}
	return n
}
