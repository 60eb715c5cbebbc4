package setup

import (
	"bytes"

	"casemate/cluster"
	"casemate/registry"
)

// tallies are the kinds of names that the cluster counts for status.
var tallies = []func(name []byte) bool{
	func(name []byte) bool {
		rest, below := bytes.CutPrefix(name, []byte("registry/"))
		return below && registry.IsTag(rest)
	},
	func(name []byte) bool { return bytes.HasPrefix(name, []byte("files/")) },
}

// Counts returns how many tags and files a cluster opened with ClusterConfig has.
func Counts(c *cluster.Cluster) (images, files int) {
	list := c.Tallies()
	return list[0], list[1]
}
