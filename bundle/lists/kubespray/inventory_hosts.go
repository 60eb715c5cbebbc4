package kubespray

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

var (
	bracketedHost = regexp.MustCompile(`^\[(.+)\]:[0-9]+$`)
	hostWithPort  = regexp.MustCompile(`^((?:[^:\[\]]|\[[^\]]*\])*):[0-9]+$`)
	hostPattern   = regexp.MustCompile(`^(?:[\pL\pN_.-]|\[[0-9a-zA-Z]*:[0-9a-zA-Z]+(?::[0-9]+)?\])+$`)
)

// hostNames returns the hosts of a pattern in an inventory: "node[1:3].example", "10.0.0.[11:13]", "node1:2222",
// "[fd00::1]:22".
func hostNames(pattern string) ([]string, error) {
	host := pattern
	if m := bracketedHost.FindStringSubmatch(host); m != nil {
		host = m[1]
	} else if m := hostWithPort.FindStringSubmatch(host); m != nil {
		host = m[1]
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	if !hostPattern.MatchString(host) {
		host = pattern // as Ansible does with what it does not recognise
	}
	if strings.HasSuffix(host, ":") {
		return nil, fmt.Errorf("the host %.100q ends in a colon, a port is missing", pattern)
	}
	return expandHosts(host, maxInventoryHosts)
}

// expandHosts expands the ranges of a pattern, to at most most names.
func expandHosts(pattern string, most int) ([]string, error) {
	head, after, ok := strings.Cut(pattern, "[")
	if !ok {
		return []string{pattern}, nil
	}
	inside, tail, ok := strings.Cut(after, "]")
	if !ok {
		return nil, fmt.Errorf("the range of the host %.100q has no ]", pattern)
	}
	seq, err := hostRange(inside, most)
	if err != nil {
		return nil, fmt.Errorf("the host %.100q: %w", pattern, err)
	}
	tails, err := expandHosts(tail, most)
	if err != nil {
		return nil, err
	}
	if len(seq)*len(tails) > most {
		return nil, fmt.Errorf("the host %.100q expands to more than %d hosts", pattern, most)
	}
	names := make([]string, 0, len(seq)*len(tails))
	for _, s := range seq {
		for _, t := range tails {
			names = append(names, head+s+t)
		}
	}
	return names, nil
}

const hostLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// hostRange returns the names of one range: 1:3, 01:10, a:c, 1:9:2.
func hostRange(text string, most int) ([]string, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return nil, fmt.Errorf("a range is written [BEGIN:END] or [BEGIN:END:STEP], got [%.50s]", text)
	}
	begin, end, step := parts[0], parts[1], 1
	if begin == "" {
		begin = "0"
	}
	if end == "" {
		return nil, fmt.Errorf("the range [%.50s] has no end", text)
	}
	if len(parts) == 3 {
		n, err := strconv.Atoi(parts[2])
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("the step of the range [%.50s] is not a number from 1 to %d", text, most)
		}
		step = n
	}
	width := 0
	if begin[0] == '0' && len(begin) > 1 {
		if width = len(begin); width != len(end) {
			return nil, fmt.Errorf("begin and end of the range [%.50s] must have the same number of digits", text)
		}
	}
	from, to := strings.Index(hostLetters, begin), strings.Index(hostLetters, end)
	if len(begin) != 1 || len(end) != 1 || from < 0 || to < 0 {
		var err1, err2 error
		from, err1 = strconv.Atoi(begin)
		to, err2 = strconv.Atoi(end)
		if errors.Join(err1, err2) != nil || from < 0 || width > 20 {
			return nil, fmt.Errorf("begin and end of the range [%.50s] must both be numbers or both be letters", text)
		}
	} else if from > to {
		return nil, fmt.Errorf("the range [%.50s] ends before it begins", text)
	}
	if to >= from && (to-from)/step >= most {
		return nil, fmt.Errorf("the range [%.50s] has more than %d hosts", text, most)
	}
	var names []string
	for i := from; i <= to; i += step {
		if len(begin) == 1 && strings.Contains(hostLetters, begin) {
			names = append(names, hostLetters[i:i+1])
		} else {
			names = append(names, fmt.Sprintf("%0*d", width, i))
		}
	}
	return names, nil
}

// splitShell splits a line into words as Python's shlex does for Ansible: quotes, backslashes, and comments that may
// begin within a word.
func splitShell(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	in := false // a word, perhaps an empty one in quotes
	for i := 0; i < len(line); i++ {
		switch c := line[i]; c {
		case ' ', '\t', '\r', '\n':
			if in {
				words, in = append(words, word.String()), false
				word.Reset()
			}
		case '#':
			i = len(line)
		case '\\':
			if i++; i == len(line) {
				return nil, errors.New("the line ends in a backslash")
			}
			in = true
			word.WriteByte(line[i])
		case '\'', '"':
			in = true
			for i++; ; i++ {
				if i >= len(line) {
					return nil, fmt.Errorf("a quotation mark (%c) is not closed", c)
				}
				if line[i] == c {
					break
				}
				if c == '"' && line[i] == '\\' && i+1 < len(line) && (line[i+1] == '"' || line[i+1] == '\\') {
					i++
				}
				word.WriteByte(line[i])
			}
		default:
			in = true
			word.WriteByte(c)
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
