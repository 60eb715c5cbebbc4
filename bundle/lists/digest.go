package lists

import (
	_ "crypto/sha256" // references are parsed by a library that knows the algorithms that are linked
	_ "crypto/sha512"
	"fmt"
	"strings"
)

// CheckDigest says what is wrong with a digest: it must be "sha256:" or "sha512:" with lower-case hex of the right
// length.
func CheckDigest(d string) error {
	alg, sum, _ := strings.Cut(d, ":")
	n := map[string]int{"sha256": 64, "sha512": 128}[alg]
	if n == 0 {
		return fmt.Errorf("digest %.150q is neither sha256:<hex> nor sha512:<hex>", d)
	}
	if len(sum) != n || strings.Trim(sum, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %.150q is not %s: and %d lower-case hex digits", d, alg, n)
	}
	return nil
}
