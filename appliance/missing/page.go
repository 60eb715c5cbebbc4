package missing

import (
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"casemate/cluster/share"
)

// Filter selects entries; its zero value selects all.
type Filter struct {
	Kind string // one of Kinds
	// Client is a network that one of the clients is in, User the user that one of them is.
	Client netip.Prefix
	User   string
	Text   string // a part of the name, the detail, a client or the note, whatever the case
}

// Match reports whether the filter selects an entry.
func (f Filter) Match(e Entry) bool {
	if f.Kind != "" && e.Kind != f.Kind {
		return false
	}
	if f.Client.IsValid() && !slices.ContainsFunc(e.Clients, func(c string) bool { return inNetwork(c, f.Client) }) {
		return false
	}
	if f.User != "" && !slices.ContainsFunc(e.Clients, func(c string) bool {
		return strings.HasPrefix(c, f.User+"@")
	}) {
		return false
	}
	if f.Text == "" {
		return true
	}
	text := strings.ToLower(f.Text)
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	return has(e.Name) || has(e.Detail) || slices.ContainsFunc(e.Clients, has) || e.Mark != nil && has(e.Mark.Note)
}

// inNetwork reports whether a client of an entry, an address or USER@ADDRESS, belongs to a network.
func inNetwork(client string, network netip.Prefix) bool {
	client = client[strings.LastIndexByte(client, '@')+1:]
	p, err := netip.ParsePrefix(client) // of an earlier version
	if a, aerr := netip.ParseAddr(client); aerr == nil {
		p, err = share.Net(a), nil
	}
	return err == nil && network.Overlaps(p)
}

// The parts of a list, in their order.
const (
	opened = iota
	solved
	noisy
)

// position is the place of an entry in the order of Pages.
type position struct {
	part int
	last int64 // nanoseconds since 1970
	key
}

func positionOf(part int, e Entry) position {
	return position{part, e.Last.UnixNano(), key{e.Kind, e.Name}}
}

func (p position) String() string { return fmt.Sprintf("%d %d %s %s", p.part, p.last, p.kind, p.name) }

func parsePosition(s string) (p position, err error) {
	parts := strings.SplitN(s, " ", 4)
	if len(parts) == 4 {
		p.kind, p.name = parts[2], parts[3]
		if p.part, err = strconv.Atoi(parts[0]); err == nil {
			p.last, err = strconv.ParseInt(parts[1], 10, 64)
		}
	}
	if err != nil || len(parts) != 4 || p.part < opened || p.part > noisy {
		return p, fmt.Errorf("after must be the cursor of a page of this list, got %.80q: %w", s, fs.ErrInvalid)
	}
	return p, nil
}

// Pages returns the entries that by selects, each with its position, and beginning behind a position; "" is the
// beginning. Those that are missing come first, then the solved ones, and noise last; apart from that the order of
// entries stays, which is that of All. Whether an entry is solved is not stored: it depends on the current content, so
// it is right on every node, and deleting the content makes its entry missing again. k.Answered is asked only while the
// sequence is read. An entry that is asked for while somebody turns pages moves to the first page. fs.ErrInvalid: after
// is no position.
func Pages(entries []Entry, by Filter, k Known, after string) (iter.Seq2[Listed, string], error) {
	begin := position{part: -1}
	if after != "" {
		var err error
		if begin, err = parsePosition(after); err != nil {
			return nil, err
		}
	}
	return func(yield func(Listed, string) bool) {
		for part := max(begin.part, opened); part <= noisy; part++ {
			from := 0
			if part == begin.part {
				from = entriesAfter(entries, begin)
			}
			for _, e := range entries[from:] {
				if (e.Noise != "") != (part == noisy) || !by.Match(e) {
					continue
				}
				how, ok := k.Answered(e)
				if part != noisy && ok != (part == solved) {
					continue
				}
				if !yield(k.list(e, how, ok), positionOf(part, e).String()) {
					return
				}
			}
		}
	}, nil
}

// entriesAfter returns the index of the first entry behind a position.
func entriesAfter(entries []Entry, p position) int {
	at := Entry{Kind: p.kind, Name: p.name, Last: time.Unix(0, p.last)}
	i, found := slices.BinarySearchFunc(entries, at, func(e, at Entry) int {
		if quiet := e.Noise != ""; quiet != (p.part == noisy) {
			if quiet {
				return 1
			}
			return -1
		}
		return newest(e, at)
	})
	if found {
		i++
	}
	return i
}
