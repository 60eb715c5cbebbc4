package peer

import (
	"errors"
	"strings"
)

// ValidNode reports whether a name may be a node's: 1 to 63 of A-Z a-z 0-9 . _ -, but not "." and "..".
func ValidNode(name string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	return name != "" && len(name) <= 63 && strings.Trim(name, letters) == "" && name != "." && name != ".."
}

var (
	// ErrRemoved reports that a node was removed from the cluster: it stops permanently.
	ErrRemoved = errors.New("this node was removed from the cluster: clear its data directory and join under a new " +
		"name")
	// ErrStranger reports that a certificate is not a member's.
	ErrStranger = errors.New("not a member of this cluster")
)
