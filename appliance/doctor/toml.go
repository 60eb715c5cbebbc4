package doctor

import (
	"fmt"
	"strings"
)

// section is one table of a TOML file with its plain values: strings, booleans and lists of strings. That is all that
// matters here of hosts.toml (containerd's docs/hosts.md) and registries.conf (containers-registries.conf(5)). A full
// TOML parser would be a dependency for four keys.
type section struct {
	name   []string // of the table, or of an element of an array of tables
	values map[string][]string
}

// get returns a plain value; "" if there is none.
func (s section) get(key string) string {
	if v := s.values[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// parseTOML reads the tables in order, the root first. It skips values of types that it does not support; a file that
// is not TOML is an error.
func parseTOML(text string) ([]section, error) {
	list := []section{{values: map[string][]string{}}}
	for n := 1; text != ""; n++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSpace(uncomment(line))
		switch {
		case line == "":
		case strings.HasPrefix(line, "["):
			inner, ok := strings.CutSuffix(strings.TrimPrefix(line, "["), "]")
			if strings.HasPrefix(inner, "[") {
				inner, ok = strings.CutSuffix(inner[1:], "]")
			}
			name, rest := keys(inner)
			if !ok || len(name) == 0 || rest != "" {
				return nil, fmt.Errorf("line %d: %q is not a table", n, clip(line))
			}
			list = append(list, section{name: name, values: map[string][]string{}})
		default:
			name, rest := keys(line)
			rest, ok := strings.CutPrefix(rest, "=")
			if !ok || len(name) == 0 {
				return nil, fmt.Errorf("line %d: %q is not a key with a value", n, clip(line))
			}
			rest = strings.TrimSpace(rest)
			if strings.HasPrefix(rest, "[") { // a list may span lines
				var all strings.Builder
				all.WriteString(rest)
				for line = rest; !strings.HasSuffix(line, "]") && text != ""; n++ {
					line, text, _ = strings.Cut(text, "\n")
					line = strings.TrimSpace(uncomment(line))
					all.WriteString(" " + line)
				}
				rest = all.String()
			}
			s := list[len(list)-1]
			s.values[strings.Join(name, ".")] = scalars(rest)
		}
	}
	return list, nil
}

// keys splits a dotted key, whose parts may be quoted, off the front.
func keys(s string) (parts []string, rest string) {
	for {
		s = strings.TrimSpace(s)
		var part string
		if s != "" && (s[0] == '"' || s[0] == '\'') {
			end := strings.IndexByte(s[1:], s[0])
			if end < 0 {
				return nil, s
			}
			part, s = s[1:1+end], s[end+2:]
		} else {
			end := strings.IndexFunc(s, func(r rune) bool {
				return !(r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
			})
			if end < 0 {
				end = len(s)
			}
			if part, s = s[:end], s[end:]; part == "" {
				return nil, s
			}
		}
		parts = append(parts, part)
		s = strings.TrimSpace(s)
		if !strings.HasPrefix(s, ".") {
			return parts, s
		}
		s = s[1:]
	}
}

// scalars returns the strings in a value, or the value itself if it is not a string.
func scalars(s string) (list []string) {
	for rest := s; ; {
		start := strings.IndexAny(rest, `"'`)
		if start < 0 {
			break
		}
		end := strings.IndexByte(rest[start+1:], rest[start])
		if end < 0 {
			break
		}
		list, rest = append(list, rest[start+1:start+1+end]), rest[start+end+2:]
	}
	if list == nil && s != "" {
		list = []string{s}
	}
	return list
}

// uncomment removes a comment from the end of a line.
func uncomment(line string) string {
	quote := byte(0)
	for i := range len(line) {
		switch c := line[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			return line[:i]
		}
	}
	return line
}

// clip truncates untrusted text from a file or a server.
func clip(s string) string {
	if len(s) > 120 {
		return strings.ToValidUTF8(s[:120], "") + "…"
	}
	return s
}
