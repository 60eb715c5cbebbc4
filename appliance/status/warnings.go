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

// shapeWarning describes which limits a root of this shape does not put on stolen CA keys, and what changes that.
func shapeWarning(s pki.Shape) string {
	cure := "casemate ca rotate creates a root of the current shape, which clients must trust before " +
		"casemate ca rotate --finish"
	if s.Name == pki.ShapeKept {
		cure = "casemate ca rotate, if its path length leaves room for three CA certificates below it; " +
			"otherwise have a new one signed and set it with casemate config set pki.issuer"
	}
	return fmt.Sprintf("an attacker with a bastion's keys is not limited by %s: %s", strings.Join(s.Missing, "; "),
		cure)
}

// uploadWarnings returns sentences for status about users who have reached the limit of unfinished uploads.
func uploadWarnings(u registry.Uploads) (list []string) {
	for _, of := range u.Users {
		if of.User == "" || of.Open < u.Share && of.Ended == 0 {
			continue
		}
		list = append(list, fmt.Sprintf("the user %s has %d unfinished uploads on this node, the limit is %d: "+
			"a new one cancels the one that has been idle longest, %d so far; check that user's client",
			of.User, of.Open, u.Share, of.Ended))
	}
	return list
}

// importWarnings returns sentences for status about incomplete and staged imports.
func importWarnings(list []content.Import) []string {
	var out []string
	for _, i := range list {
		switch {
		case i.State == content.Staged:
			who := "somebody else"
			if !i.NeedsApproval {
				who = i.Maker + " or somebody else"
			}
			out = append(out, fmt.Sprintf("import %s of %s is staged and waits for %s until %s: casemate import diff "+
				"%s", i.Name, i.Maker, who, i.KeptUntil.Format(time.DateOnly), i.Name))
		case i.State != content.Incomplete || i.Running:
		case len(i.Missing) > 0:
			out = append(out,
				fmt.Sprintf("import %s is incomplete: of its %d parts, import %s as well; or remove it: casemate "+
					"import remove %s", i.Name,
					i.Parts, strings.Trim(fmt.Sprint(i.Missing), "[]"), i.Name))
		default:
			out = append(out, fmt.Sprintf("import %s was interrupted: import %s again to continue; "+
				"what was read of it, %s, is kept until %s or casemate import remove %s",
				i.Name, strings.Join(i.Sources[:min(len(i.Sources), 3)], " "), content.BytesText(i.BytesNew),
				i.KeptUntil.Format(time.DateOnly), i.Name))
		}
	}
	return out[:min(len(out), 20)]
}

// noLeader returns what an operator should know while there is no leader.
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
		"run casemate member address on each node to set where the others are"
}

// clusterWarnings returns what an operator should know about the other nodes.
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
			list = append(list, fmt.Sprintf("node %s does not answer this node: casemate member list shows since when",
				m.Node))
		// A single node has no other node to fetch from: that is a problem, see lostProblem.
		case m.Missing > 0 && len(members) > 1:
			blobs := "1 blob"
			if m.Missing > 1 {
				blobs = fmt.Sprintf("%d blobs", m.Missing)
			}
			list = append(list, fmt.Sprintf("node %s has yet to fetch %s", m.Node, blobs))
		}
	}
	list = append(list, p.Cluster.Warnings()...)
	if agreed, newest := p.Cluster.Format(); agreed < newest &&
		!slices.ContainsFunc(members, func(m cluster.Member) bool { return m.Format < newest }) {
		list = append(list, fmt.Sprintf("the cluster is at format %d, and every node supports %d, with which nodes "+
			"detect when their data "+
			"differs: casemate cluster format --raise (older versions no longer start after it)", agreed, newest))
	}
	if voters > 1 && voters%2 == 0 {
		list = append(list, fmt.Sprintf("%d nodes vote, of which %d are a majority: the cluster tolerates as many "+
			"failures with one "+
			"node less: add one or remove one", voters, voters/2+1))
	}
	return list
}
