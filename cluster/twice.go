package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"casemate/cluster/peer"
)

// twice returns the nodes that run twice, and the addresses of both processes.
func (c *Cluster) twice() peer.Twice {
	if c.peers == nil {
		return nil
	}
	return c.peers.Twice()
}

func (c *Cluster) twiceSentences() (list []string) {
	twice := c.twice()
	for _, node := range slices.Sorted(maps.Keys(twice)) {
		where := strings.Join(twice[node], " and ")
		if len(twice[node]) < 2 {
			where = "both at " + where
		}
		list = append(list, fmt.Sprintf("node %s runs twice, %s: a virtual machine or a disk was copied; stop the "+
			"copy now, since both answer for one node and what one of them confirms the other does not have: "+
			"\"A node that runs "+
			"twice\" in docs/troubleshooting.md", node, where))
	}
	return list
}
