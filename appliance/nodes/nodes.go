// Package nodes stores the nodes' advertised addresses in the tree, one record per node below nodes/.
package nodes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
)

// Dir is the directory of the records in the tree.
const Dir = "nodes"

// A Node is a member of the cluster with its addresses for clients.
type Node struct {
	Name  string
	Addrs []netip.Addr
}

type record struct {
	Addrs []netip.Addr `json:"addrs"`
}

// Tree is the part of the tree that the records are read from.
type Tree interface {
	fs.ReadDirFS
	fs.ReadFileFS
}

// List returns the node self as given, ignoring its record, followed by all other nodes by name.
func List(tree Tree, self Node) ([]Node, error) {
	list := []Node{self}
	entries, err := tree.ReadDir(Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	for _, e := range entries {
		if e.Name() == self.Name {
			continue
		}
		addrs, err := Addrs(tree, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", e.Name(), err)
		}
		list = append(list, Node{e.Name(), addrs})
	}
	return list, nil
}

// Addrs returns the recorded addresses of one node; fs.ErrNotExist if it has no record.
func Addrs(tree Tree, name string) ([]netip.Addr, error) {
	data, err := tree.ReadFile(Dir + "/" + name)
	if err != nil {
		return nil, err
	}
	var r record
	err = json.Unmarshal(data, &r)
	return r.Addrs, err
}

// Put writes a node's record in a batch.
func Put(b interface {
	Put(name string, data []byte)
}, n Node) error {
	data, err := json.Marshal(record{n.Addrs})
	if err == nil {
		b.Put(Dir+"/"+n.Name, data)
	}
	return err
}
