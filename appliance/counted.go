package appliance

import (
	"bytes"

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

// counts returns how many tags and files there are.
func (a *Appliance) counts() (images, files int) {
	list := a.cluster.Tallies()
	return list[0], list[1]
}
