package foreign

import "os"

// Soak asks for every case, as make soak does.
var Soak = os.Getenv("CASEMATE_SOAK") != ""

// LowerExpansion lowers what compressed archives may decompress to, and returns what puts it back.
func LowerExpansion(free, times int64) (restore func()) {
	f, m, vf, vm := freeExpansion, maxExpansion, freeVerified, maxVerified
	freeExpansion, maxExpansion, freeVerified, maxVerified = free, times, free, times
	return func() { freeExpansion, maxExpansion, freeVerified, maxVerified = f, m, vf, vm }
}

// LowerLimits lowers the limits of reading, and returns a function that restores them.
func LowerLimits(entries int, kept int64) (restore func()) {
	e, k := maxEntries, maxMemory
	maxEntries, maxMemory = entries, kept
	return func() { maxEntries, maxMemory = e, k }
}
