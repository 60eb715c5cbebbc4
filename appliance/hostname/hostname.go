// Package hostname folds and checks the form of host names, and how zones contain each other. What a person types goes
// through Fold once; everything behind it is lower-case ASCII.
package hostname

import (
	"net/netip"
	"strings"
)

// IsLabel reports whether s is a lower-case host label (RFC 1123 §2.1).
func IsLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range []byte(s) {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}

// IsHost reports whether s is a lower-case host name with at least one dot.
func IsHost(s string) bool {
	if len(s) > maxName || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !IsLabel(label) {
			return false
		}
	}
	_, err := netip.ParseAddr(s)
	return err != nil
}

// Overlap reports whether two names are the same or one lies below the other.
func Overlap(a, b string) bool {
	return a == b || strings.HasSuffix(a, "."+b) || strings.HasSuffix(b, "."+a)
}
