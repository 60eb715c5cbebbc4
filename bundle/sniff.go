package bundle

import (
	"bytes"
	"strings"
)

// PartDocument is the name of the first document of a bundle, with which every part begins.
const PartDocument = "casemate/part.json"

// IsBundle says whether a file that begins so is a bundle, or a part of one. It needs the first 512 bytes.
func IsBundle(head []byte) bool {
	return bytes.HasPrefix(head, []byte(PartDocument+"\x00")) && len(head) >= 512 && string(head[257:263]) == "ustar\x00"
}

// IsChecksums says whether a file is a bundle's list of checksums, which stands beside it and is easily named with it
// ("import x.tar.*").
func IsChecksums(name string, head []byte) bool {
	sum, rest, _ := bytes.Cut(head, []byte("  "))
	return strings.HasSuffix(name, ".sha256") && len(sum) == 64 && len(bytes.Trim(sum, "0123456789abcdef")) == 0 && len(rest) > 0
}
