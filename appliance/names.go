package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"casemate/dnssrv"
)

// nameRecord is what the tree keeps of an RRset that the operator set, below names/NAME/TYPE.
type nameRecord struct {
	Values []string `json:"values"`
	TTL    string   `json:"ttl,omitempty"` // a duration; "" is the setting dns.ttl
}

// readNames reads what the operator set, from the names directory of the tree.
func readNames(tree fs.ReadDirFS) ([]dnssrv.Record, error) {
	var list []dnssrv.Record
	names, err := tree.ReadDir(".")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("names: %w", err)
	}
	for _, n := range names {
		types, err := tree.ReadDir(n.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("name %s: %w", n.Name(), err)
		}
		for _, t := range types {
			data, err := fs.ReadFile(tree, n.Name()+"/"+t.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue
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
				return nil, fmt.Errorf("name %s %s: its record is damaged, delete it and set it again: %w", n.Name(), t.Name(), err)
			}
			list = append(list, dnssrv.Record{Name: n.Name(), Type: t.Name(), Values: r.Values, TTL: ttl})
		}
	}
	return list, nil
}
