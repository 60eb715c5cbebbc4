package bundle

import (
	"bytes"
	"strings"
)

// PartDocument is the name of the first document of a bundle. Every part begins with it.
const PartDocument = "casemate/part.json"

// IsBundle reports whether a file with these first bytes is a bundle or a part of one. It needs 512 bytes.
func IsBundle(head []byte) bool {
	return bytes.HasPrefix(head, []byte(PartDocument+"\x00")) && len(head) >= 512 &&
		string(head[257:263]) == "ustar\x00"
}

// IsChecksums reports whether a file is the list of checksums that is stored beside a bundle ("import x.tar.*" names it
// too).
func IsChecksums(name string, head []byte) bool {
	sum, rest, _ := bytes.Cut(head, []byte("  "))
	return strings.HasSuffix(name, ".sha256") && len(sum) == 64 && len(bytes.Trim(sum, "0123456789abcdef")) == 0 &&
		len(rest) > 0
}
