package state

import (
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names, in bytes. Elements may be long because the file server uses elements of URLs, including query
// strings.
const (
	MaxName    = 4096
	MaxElement = 1024
)

// keyOf turns a name into the key that it is stored under: '/' becomes NUL, which no name may contain. So the order of
// keys is the order of names component by component ("a/b" before "a-b"), and the keys below a directory are adjacent.
func keyOf(name string) string { return strings.ReplaceAll(name, "/", "\x00") }

func nameOf(key string) string { return strings.ReplaceAll(key, "\x00", "/") }

// validName reports whether name is a file's name: fs.ValidPath, not the root, no NUL, within the limits.
func validName(name string) bool {
	if len(name) > MaxName || name == "." || !fs.ValidPath(name) || strings.IndexByte(name, 0) >= 0 {
		return false
	}
	for rest, more := name, true; more; {
		var elem string
		if elem, rest, more = strings.Cut(rest, "/"); len(elem) > MaxElement {
			return false
		}
	}
	return true
}

// validKey reports whether key is that of a valid name. The first known bytes of it are the beginning of a valid key.
func validKey(key string, known int) bool {
	if len(key) > MaxName {
		return false
	}
	for rest, more := key[strings.LastIndexByte(key[:known], 0)+1:], true; more; {
		var elem string
		elem, rest, more = strings.Cut(rest, "\x00")
		if elem == "" || elem == "." || elem == ".." || len(elem) > MaxElement || !utf8.ValidString(elem) ||
			strings.IndexByte(elem, '/') >= 0 {
			return false
		}
	}
	return true
}

// parentKey is the key of the directory of key; false at the root.
func parentKey(key string) (string, bool) {
	i := strings.LastIndexByte(key, 0)
	if i < 0 {
		return "", false
	}
	return key[:i], true
}

// belowKey is the prefix of every key below the directory.
func belowKey(dir string) string {
	if dir == "." {
		return ""
	}
	return keyOf(dir) + "\x00"
}

// MaxID is the maximum length of the id of a stage or a claim, in bytes.
const MaxID = 255

// ValidID reports whether id can name a stage or a claim: 1 to MaxID bytes of UTF-8 without control characters.
func ValidID(id string) bool {
	return id != "" && len(id) <= MaxID && utf8.ValidString(id) && strings.IndexFunc(id, unicode.IsControl) < 0
}
