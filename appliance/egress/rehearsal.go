package egress

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
)

// ReadFile returns the entries of a book that may be open elsewhere, as they were when it was last saved.
func ReadFile(path string) ([]Entry, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, err
	}
	m := merger{at: map[key]int{}}
	m.add(f, "")
	slices.SortFunc(m.entries, Order)
	return m.entries, nil
}

// Unrecorded says, in the order of names, which names clients used in ways that are not recorded as requests: one
// sentence for each. Names that ours reports are left out. Names that were only refused in DNS are not there either:
// the missing book has them, and tells noise apart.
func Unrecorded(entries []Entry, ours func(name string) bool) (sentences []string) {
	type uses struct{ resolved, forwarded, refused, asked bool }
	by := map[string]uses{}
	for _, e := range entries {
		u := by[e.Name]
		switch {
		case e.Verdict == Forwarded:
			u.forwarded = true
		case (e.Kind == DNS || e.Kind == Handshake) && e.Verdict == Answered:
			u.resolved = true
		case e.Kind != DNS && e.Verdict == Answered:
			u.asked = true
		case e.Kind != DNS:
			u.refused = true
		}
		by[e.Name] = u
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		u := by[name]
		switch {
		case ours(name) || u.asked:
		case u.refused:
			sentences = append(sentences, name+" was connected to and is not an origin: what it was asked for is not "+
				"in the transcript")
		case u.resolved:
			sentences = append(sentences, name+" was resolved and never asked for over HTTP: what used it (another "+
				"port or protocol, QUIC) is not in the transcript")
		case u.forwarded:
			sentences = append(sentences, name+" was forwarded to the resolvers of the site (dns.forward): what it "+
				"serves is not in the transcript")
		}
	}
	return sentences
}
