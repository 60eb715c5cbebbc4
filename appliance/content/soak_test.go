package content

import (
	"os"
	"testing"
	"time"
)

// soak asks for every case, as make soak does; otherwise a sample has some of each kind.
var soak = os.Getenv("CASEMATE_SOAK") != ""

// wait returns when nothing is missing, which it asks again and again. Its end is only for what hangs.
func wait(t testing.TB, missing func() string) {
	t.Helper()
	end := time.Now().Add(5 * time.Minute)
	for {
		what := missing()
		if what == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("waited in vain: %s", what)
			return
		}
		time.Sleep(time.Millisecond) // between two looks
	}
}
