package format

import (
	"fmt"
	"strconv"
)

// The tar of a bundle has one form: ustar headers with mode 0644, owner 0 and time 0, a pax header only if a name or a
// size needs one, zeros as padding, two zero blocks at the end and nothing after them. A reader knows every byte that
// is not content before it reads it.
const (
	tarBlock     = 512
	endOfArchive = 2 * tarBlock
	ustarName    = 100
	ustarSize    = 1<<33 - 1 // 11 octal digits
)

// tarHeader returns the bytes before the content of an entry.
func tarHeader(name string, size int64) []byte {
	var pax string
	if len(name) > ustarName {
		pax += paxRecord("path", name)
	}
	if size > ustarSize {
		pax += paxRecord("size", strconv.FormatInt(size, 10))
	}
	if pax == "" {
		return ustarHeader(name, size, '0')
	}
	b := ustarHeader("casemate/pax", int64(len(pax)), 'x')
	b = append(append(b, pax...), make([]byte, padding(int64(len(pax))))...)
	if size > ustarSize {
		size = 0
	}
	return append(b, ustarHeader(name[:min(len(name), ustarName)], size, '0')...)
}

// paxRecord returns "LENGTH KEY=VALUE\n"; the length includes itself (POSIX.1-2001, pax extended header).
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for size := 0; size != n; {
		size = n
		n = len(strconv.Itoa(size)) + len(key) + len(value) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

func ustarHeader(name string, size int64, typeflag byte) []byte {
	b := make([]byte, tarBlock)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	octal(b[124:135], size)
	copy(b[136:], "00000000000\x00        ") // mtime, and the checksum field as it is while the checksum is computed
	b[156] = typeflag
	copy(b[257:], "ustar\x0000")
	copy(b[329:], "0000000\x000000000\x00")
	var sum int64
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:154], sum)
	b[154] = 0
	return b
}

// octal fills b with the octal digits of n.
func octal(b []byte, n int64) {
	for i := len(b) - 1; i >= 0; i, n = i-1, n>>3 {
		b[i] = '0' + byte(n&7)
	}
}

// padding is the number of zeros after content of that size.
func padding(size int64) int64 { return -size & (tarBlock - 1) }

// entrySize is the number of bytes that an entry takes in a tar.
func entrySize(name string, size int64) int64 { return headerSize(name, size) + size + padding(size) }

// headerSize is the length of tarHeader.
func headerSize(name string, size int64) int64 {
	if len(name) <= ustarName && size <= ustarSize {
		return tarBlock
	}
	return int64(len(tarHeader(name, size)))
}
