// Package names stores the DNS records that the operator set, in the tree as names/NAME/TYPE.
package names

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"casemate/appliance/address"
	"casemate/appliance/hostname"
	"casemate/appliance/origin"
	"casemate/appliance/usage"
	"casemate/cluster"
	events "casemate/cluster/tree"
	"casemate/dnssrv"
)

// Record is the stored form of an RRset, at names/NAME/TYPE.
type Record struct {
	Values []string `json:"values"`
	TTL    string   `json:"ttl,omitempty"` // a duration; "": the setting dns.ttl
}

// Owner returns the owner of a name below names/ in the tree: of names/OWNER/TYPE, or of names/OWNER that was
// removed.
func Owner(path string) string {
	owner, _, _ := strings.Cut(strings.TrimPrefix(path, "names/"), "/")
	return owner
}

// ReadOwner returns the operator's records of one name, none if there are none. It uses Walk, since ReadDir would ask
// the leader about a name that does not exist on this node.
func ReadOwner(tree Tree, owner string) (list []dnssrv.Record, err error) {
	for path := range tree.Walk("names/"+owner, "") {
		r, ok, err := Read(tree, path)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, r)
		}
	}
	return list, nil
}

// Tree is the part of the tree that names are read from.
type Tree interface {
	fs.ReadFileFS
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
}

// Read reads names/OWNER/TYPE; false if it does not exist.
func Read(tree Tree, name string) (rec dnssrv.Record, ok bool, err error) {
	owner, kind, _ := strings.Cut(strings.TrimPrefix(name, "names/"), "/")
	data, err := tree.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return rec, false, nil
	}
	var r Record
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	var ttl time.Duration
	if err == nil && r.TTL != "" {
		ttl, err = time.ParseDuration(r.TTL)
	}
	if err != nil {
		return rec, false, fmt.Errorf("name %s %s: its record is damaged, delete it and set it again: %w", owner,
			kind, err)
	}
	return dnssrv.Record{Name: owner, Type: kind, Values: r.Values, TTL: ttl}, true, nil
}

// Path returns where a record is in the tree.
func Path(r dnssrv.Record) string { return "names/" + r.Name + "/" + r.Type }

// All yields the operator's records, by name and type. It ends after an error.
func All(tree Tree) iter.Seq2[dnssrv.Record, error] { return AllAfter(tree, "") }

// AllAfter is All from the record behind a path of the tree on; "" is the beginning.
func AllAfter(tree Tree, after string) iter.Seq2[dnssrv.Record, error] {
	return func(yield func(dnssrv.Record, error) bool) {
		for path := range tree.Walk("names", after) {
			r, ok, err := Read(tree, path)
			if (ok || err != nil) && !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// Updater is the part of the tree that changes of names need.
type Updater interface {
	fs.StatFS
	Update(ctx context.Context, edit func(cluster.Batch) error) error
}

// Set sets the records of a name for a type. A rule violation is a [usage.Error].
func Set(ctx context.Context, tree Updater, name, kind string, in Record) error {
	kind = strings.ToUpper(kind)
	if err := whole(name); err != nil {
		return err
	}
	name, err := typed(name)
	if err != nil {
		return err
	}
	if _, err := address.Parse(strings.Join(in.Values, " ")); err == nil && kind == "CNAME" {
		return usage.Errorf("the value of a CNAME is a name, got the address %s: set it with type A or AAAA",
			in.Values[0])
	}
	if in.Values, err = folded(kind, in.Values); err != nil {
		return usage.Errorf("the value of a %s %w", kind, err)
	}
	if err := addresses(kind, &in); err != nil {
		return err
	}
	rec := dnssrv.Record{Name: name, Type: kind, Values: in.Values}
	if in.TTL != "" {
		if rec.TTL, err = time.ParseDuration(in.TTL); err != nil {
			return usage.Errorf("ttl must be a duration like 1m, got %q", in.TTL)
		}
	}
	if err := dnssrv.ValidateRecord(rec); err != nil {
		return &usage.Error{Err: err}
	}
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if len(data) > 4096 {
		return usage.Errorf("name %s %s: all values together must have at most 4096 bytes, got %d", name, kind,
			len(data))
	}
	ctx = events.WithEvent(ctx, events.Event{
		Verb: "name.set", Object: name + " " + kind, New: strings.Join(in.Values, " "),
	})
	return tree.Update(ctx, func(b cluster.Batch) error { b.Put("names/"+name+"/"+kind, data); return nil })
}

// addresses puts the values of an A or AAAA record in their usual form, and refuses those that a client could not use.
// What is no address is left to the check of the record.
func addresses(kind string, in *Record) error {
	if kind != "A" && kind != "AAAA" {
		return nil
	}
	in.Values = slices.Clone(in.Values)
	for i, v := range in.Values {
		a, err := address.Parse(v)
		switch {
		case errors.Is(err, address.ErrZone), err == nil && address.NeedsZone(a):
			return usage.Errorf("the value of an AAAA record must not be a link-local address, which clients cannot "+
				"use as it is: name a unique local (fd00::/8) or global one, got %q", v)
		case err == nil && a.Is4() == (kind == "A"):
			in.Values[i] = a.String()
		}
	}
	return nil
}

// whole refuses input that is not a whole name. Resolvers complete a single label with their search list, so no client
// would ask for it.
func whole(name string) error {
	if in := origin.Pasted(name); in != "" {
		return usage.Errorf("the name of a record is a host name, without a scheme and a path: write %s, got %q", in,
			name)
	}
	if err := portless(name); err != nil {
		return err
	}
	if n, err := typed(name); err == nil && n != "" && !strings.ContainsAny(n, ".*") {
		return usage.Errorf("the name of a record is a whole name with a dot, like %s.corp.example, got %q", n, name)
	}
	return nil
}

// typed returns the owner of records as it is stored, from what a person has typed.
func typed(name string) (string, error) {
	folded, err := hostname.Fold(origin.Fold(name))
	if err == nil {
		err = hostname.CheckLength(folded)
	}
	if err != nil {
		return "", usage.Errorf("the name of a record %w", err)
	}
	return folded, nil
}

// folded returns the values of records with the host names in them folded.
func folded(kind string, values []string) (out []string, err error) {
	for _, v := range values {
		f := strings.Fields(v)
		if n := len(f); n > 0 && (kind == "CNAME" && n == 1 || kind == "SRV" && n == 4 && f[n-1] != ".") {
			target, err := hostname.Fold(f[n-1])
			if err == nil {
				err = hostname.CheckLength(target)
			}
			if err != nil {
				return nil, err
			}
			f[n-1] = target
			v = strings.Join(f, " ")
		}
		out = append(out, v)
	}
	return out, nil
}

// portless refuses a name with a port, which would be dropped silently.
func portless(name string) error {
	if origin.Port(name) == "" {
		return nil
	}
	return usage.Errorf("the name of a record is a host name, without a port: write %s, got %q", origin.Fold(name),
		name)
}

// Delete deletes the records of a name for a type, or with "" all of them; fs.ErrNotExist if there are none.
func Delete(ctx context.Context, tree Updater, name, kind string) error {
	path, err := Deleted(tree, name, kind)
	if err != nil {
		return err
	}
	return tree.Update(ctx, func(b cluster.Batch) error { b.Remove(path); return nil })
}

// Deleted returns the file, or the directory of records, that Delete would remove, or the error that it would return.
func Deleted(tree fs.StatFS, name, kind string) (path string, err error) {
	if err := portless(name); err != nil {
		return "", err
	}
	if path, err = typed(name); err != nil {
		return "", err
	}
	if kind != "" {
		path += "/" + strings.ToUpper(kind)
	}
	if !fs.ValidPath(path) {
		return "", usage.Errorf("name must be a host name, got %q", name)
	}
	path = "names/" + path
	if _, err := tree.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("name %s is not set: %w", strings.TrimSpace(name+" "+kind), fs.ErrNotExist)
	} else if err != nil {
		return "", fmt.Errorf("name %s cannot be read: %w", strings.TrimSpace(name+" "+kind), err)
	}
	return path, nil
}
