package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"casemate/appliance/content"
	"casemate/cluster"
	"casemate/pki"
	"casemate/registry"
)

// shapeWarning says what a thief of the CA's keys is not bound by, and what changes that.
func shapeWarning(s pki.Shape) string {
	cure := "casemate ca rotate makes a root of the present shape, which clients must trust before " +
		"casemate ca rotate --finish"
	if s.Name == pki.ShapeKept {
		cure = "casemate ca rotate, if its path length leaves room for three CA certificates below it; " +
			"else have it signed anew and give it to casemate config set pki.issuer"
	}
	return fmt.Sprintf("whoever takes a bastion's keys is not bound by %s: %s", strings.Join(s.Missing, "; "), cure)
}

// uploadWarnings are sentences for status about users who have as many unfinished uploads as one may.
func uploadWarnings(u registry.Uploads) (list []string) {
	for _, of := range u.Users {
		if of.User == "" || of.Open < u.Share && of.Ended == 0 {
			continue
		}
		list = append(list, fmt.Sprintf("the user %s has %d unfinished uploads on this node, one user may have %d: "+
			"a new one ends the one that lies idle longest, %d so far; what does that user's client do?",
			of.User, of.Open, u.Share, of.Ended))
	}
	return list
}

// importWarnings are sentences for status about imports that are not complete.
func importWarnings(list []content.Import) []string {
	var out []string
	for _, i := range list {
		switch {
		case i.State != content.Incomplete || i.Running:
		case len(i.Missing) > 0:
			out = append(out,
				fmt.Sprintf("import %s is not complete: of its %d parts, import %s as well; or casemate import "+
					"remove %s", i.Name,
					i.Parts, strings.Trim(fmt.Sprint(i.Missing), "[]"), i.Name))
		default:
			out = append(out, fmt.Sprintf("import %s was interrupted: import %s again, it goes on where it was; "+
				"what was read of it, %s, is kept until %s or casemate import remove %s",
				i.Name, strings.Join(i.Sources[:min(len(i.Sources), 3)], " "), content.BytesText(i.BytesNew),
				i.KeptUntil.Format(time.DateOnly), i.Name))
		}
	}
	return out[:min(len(out), 20)]
}

// noLeader says what an operator should know while nobody leads.
func noLeader(members []cluster.Member) string {
	const what = "there is no leader: reading works, writing does not"
	for _, m := range members {
		if m.Up && !m.Self {
			return what
		}
	}
	if len(members) < 2 {
		return what
	}
	return what + "; no other node answers: if their addresses have changed, " +
		"casemate member address on each node says where the others are"
}

// clusterWarnings are what an operator should know of the other nodes.
func (p *Page) clusterWarnings() (list []string) {
	members := p.Cluster.Members()
	voters := 0
	for _, m := range members {
		if m.Role != "learner" {
			voters++
		}
		switch {
		case !m.Up && m.Stopped != "":
			list = append(list, fmt.Sprintf("node %s does not answer this node, it has stopped: %s", m.Node, m.Stopped))
		case !m.Up:
			list = append(list, fmt.Sprintf("node %s does not answer this node: casemate member list tells since when",
				m.Node))
		// alone there is nobody to fetch from: that is a problem, see lostProblem
		case m.Missing > 0 && len(members) > 1:
			list = append(list, fmt.Sprintf("node %s has yet to fetch %d blobs", m.Node, m.Missing))
		}
	}
	list = append(list, p.Cluster.Warnings()...)
	if agreed, newest := p.Cluster.Format(); agreed < newest &&
		!slices.ContainsFunc(members, func(m cluster.Member) bool { return m.Format < newest }) {
		list = append(list, fmt.Sprintf("the cluster is at format %d, and every node understands %d, with which nodes "+
			"notice when what they hold "+
			"differs: casemate cluster format --raise (older versions do not start any more after it)", agreed, newest))
	}
	if voters > 1 && voters%2 == 0 {
		list = append(list, fmt.Sprintf("%d nodes vote, of which %d are a majority: as many losses are survived with "+
			"one "+
			"node less: add one or remove one", voters, voters/2+1))
	}
	return list
}
