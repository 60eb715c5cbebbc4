package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"time"

	"casemate/dnssrv"
)

// nameRecord is what the tree keeps of an RRset that the operator set, below names/NAME/TYPE.
type nameRecord struct {
	Values []string `json:"values"`
	TTL    string   `json:"ttl,omitempty"` // a duration; "" is the setting dns.ttl
}

// ownerOf is the owner of a name below names/ in the tree: of names/OWNER/TYPE, or of names/OWNER that was removed.
func ownerOf(path string) string {
	owner, _, _ := strings.Cut(strings.TrimPrefix(path, "names/"), "/")
	return owner
}

// readName reads what the operator set at one name, nothing if there is none. Walk and not ReadDir: it does not ask the
// leader whether a name that is not here is nowhere.
func readName(tree nameTree, owner string) (list []dnssrv.Record, err error) {
	for path := range tree.Walk("names/"+owner, "") {
		r, ok, err := readRecord(tree, path)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, r)
		}
	}
	return list, nil
}

// nameTree is what of the tree names are read from.
type nameTree interface {
	fs.ReadFileFS
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
}

// readRecord reads names/OWNER/TYPE, false if it is not there.
func readRecord(tree nameTree, name string) (rec dnssrv.Record, ok bool, err error) {
	owner, kind, _ := strings.Cut(strings.TrimPrefix(name, "names/"), "/")
	data, err := tree.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return rec, false, nil
	}
	var r nameRecord
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	var ttl time.Duration
	if err == nil && r.TTL != "" {
		ttl, err = time.ParseDuration(r.TTL)
	}
	if err != nil {
		return rec, false, fmt.Errorf("name %s %s: its record is damaged, delete it and set it again: %w", owner, kind, err)
	}
	return dnssrv.Record{Name: owner, Type: kind, Values: r.Values, TTL: ttl}, true, nil
}

// allNames yields what the operator set, by name and type. It ends after an error.
func allNames(tree nameTree) iter.Seq2[dnssrv.Record, error] {
	return func(yield func(dnssrv.Record, error) bool) {
		for path := range tree.Walk("names", "") {
			r, ok, err := readRecord(tree, path)
			if (ok || err != nil) && !yield(r, err) || err != nil {
				return
			}
		}
	}
}
