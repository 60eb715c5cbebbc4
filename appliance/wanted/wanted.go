// Package wanted writes the open entries of the missing book as lists that casemate bundle create and casemate check
// take.
//
// It promises: a list is valid, whatever clients have asked for. What cannot be in one is left out, with the reason.
package wanted

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"casemate/appliance/missing"
	"casemate/appliance/nodeconf"
	"casemate/bundle/lists"
)

// Formats are the lists that there are: for --images, --files and --packages of bundle create.
var Formats = []string{"images", "files", "packages"}

// Write writes the open entries as a list in one of the Formats, one a line, each below a comment with who asked for
// it. It returns how many lines are no comments, and of the entries that are left out the names and the reasons.
func Write(w io.Writer, format string, book []missing.Listed) (n int, left []string, err error) {
	out := bufio.NewWriter(w)
	book = slices.DeleteFunc(slices.Clone(book), func(l missing.Listed) bool { return l.Solved || l.Noise != "" })
	switch format {
	case "images":
		n, left = names(out, book, missing.Image, image)
	case "files":
		n, left = names(out, book, missing.File, file)
	case "packages":
		n = packages(out, book)
	default:
		return 0, nil, fmt.Errorf("a list is of %s, got %.20q", strings.Join(Formats, ", "), format)
	}
	return n, left, out.Flush()
}

// names writes the entries of one kind. Those for which refused returns a reason are left out.
func names(out io.Writer, book []missing.Listed, kind string, refused func(name string) (why string)) (n int,
	left []string) {
	for _, l := range book {
		if l.Kind != kind {
			continue
		}
		if why := refused(l.Name); why != "" {
			left = append(left, l.Name+": "+why)
			continue
		}
		asked(out, l)
		if l.Detail != "" {
			fmt.Fprintf(out, "# %s\n", printable(l.Detail))
		}
		fmt.Fprintln(out, l.Name)
		n++
	}
	return n, left
}

// asked writes comments with who asked for an entry, and what an operator has noted.
func asked(out io.Writer, l missing.Listed) {
	times := "once"
	if l.Count != 1 {
		times = fmt.Sprintf("%d times", l.Count)
	}
	clients, last := printable(strings.Join(l.Clients, " ")), l.Last.UTC().Format(time.RFC3339)
	fmt.Fprintf(out, "# asked for %s, last at %s, by %s\n", times, last, clients)
	if l.Mark != nil {
		fmt.Fprintf(out, "# marked by %s: %s\n", printable(l.Mark.By), printable(l.Mark.Note))
	}
}

// packages writes the entries that are packages of stored repositories, each once. The version is a comment: file names
// have no epoch, and publishers remove old versions.
func packages(out io.Writer, book []missing.Listed) int {
	listed := map[string]bool{}
	for _, l := range book {
		p := l.Package
		if p == nil {
			continue
		}
		line := p.Name
		if p.Arch != "all" && p.Arch != "noarch" {
			line += ":" + p.Arch
		}
		asked(out, l)
		fmt.Fprintf(out, "# version %s of %s\n", printable(p.Version), printable(p.Repository))
		if !listed[line] {
			fmt.Fprintln(out, line)
		}
		listed[line] = true
	}
	return len(listed)
}

// image returns why a missed name cannot be in a list of images; "" if it can. In a list, a name without a host
// is one of Docker Hub; here it is a name that was pushed here, or requested by a flat name, and its origin is unknown.
func image(name string) string {
	w, err := lists.ParseReference(name)
	switch {
	case err != nil:
		return err.Error()
	case !strings.HasPrefix(name, w.Repository):
		return "it has no registry"
	case strings.HasPrefix(w.Repository, nodeconf.Unlisted+"/"):
		return "its registry is unknown, because the node's runtime cannot report it"
	case name == w.Repository:
		return "only its tags were to be listed"
	}
	return unreadable(name, (*lists.Parser).Images)
}

// file is image for a list of files.
func file(name string) string {
	if strings.HasPrefix(name, "/") {
		return "it is a path of files.DOMAIN without an origin"
	}
	if why := missing.NoFile(name); why != "" {
		return why
	}
	return unreadable(name, (*lists.Parser).Files)
}

// unreadable returns why a list cannot have name as its only line.
func unreadable(name string, read func(*lists.Parser, string, io.Reader)) string {
	var l lists.Parser
	read(&l, "", strings.NewReader(name))
	switch w, err := l.Wanted(); {
	case err != nil:
		return strings.TrimPrefix(err.Error(), ":1: ")
	case len(w.Images)+len(w.Files) != 1 || strings.ContainsAny(name, " \t"):
		return "it is not a name"
	}
	return ""
}

// printable replaces control characters: a line break would end a comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
