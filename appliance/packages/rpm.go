package packages

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"casemate/bundle/ospackages/rpm"
)

// readRPM reads an uploaded package to its end.
func readRPM(r io.Reader) (*uploaded, error) {
	f, err := rpm.ReadFile(r)
	if err != nil {
		return nil, err
	}
	return &uploaded{
		entry: entry{Name: f.Name, Version: f.EVR(), Arch: f.Arch}, base: f.Base(), dir: "Packages",
		describe: func(e *entry) ([]string, error) {
			m, err := f.Metadata(rpm.Stored{Location: e.File, SHA256: strings.TrimPrefix(e.Digest, "sha256:"),
				Size: e.Size, Time: e.Time})
			return []string{m.Primary, m.Filelists, m.Other}, err
		},
	}, nil
}

// rpmDocuments are the documents of a repository, in the order of entry.Metadata.
var rpmDocuments = []struct{ kind, element, namespaces string }{
	{"primary", "metadata", `xmlns="http://linux.duke.edu/metadata/common" ` +
		`xmlns:rpm="http://linux.duke.edu/metadata/rpm"`},
	{"filelists", "filelists", `xmlns="http://linux.duke.edu/metadata/filelists"`},
	{"other", "otherdata", `xmlns="http://linux.duke.edu/metadata/other"`},
}

const xmlHead = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

// writeRPM writes repodata/, as createrepo_c does. dnf reads repomd.xml and its signature in two requests: if a change
// comes between them, it reports a bad signature, and works when it is run again. A file with the signatures of both
// documents would avoid that, but not every dnf takes a second one.
func (s *Store) writeRPM(_ string, r *repository, keys []*signingKey) (documents, error) {
	docs := documents{indices: map[string][]byte{}, rest: map[string][]byte{}}
	var md strings.Builder
	fmt.Fprintf(&md, "%s<repomd xmlns=\"http://linux.duke.edu/metadata/repo\" "+
		"xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\">\n  <revision>%d</revision>\n", xmlHead, r.Date.Unix())
	for i, doc := range rpmDocuments {
		var b strings.Builder
		fmt.Fprintf(&b, "%s<%s %s packages=\"%d\">\n", xmlHead, doc.element, doc.namespaces, len(r.packages))
		for j := range r.packages {
			b.WriteString(r.packages[j].Metadata[i])
		}
		b.WriteString("</" + doc.element + ">\n")
		plain := []byte(b.String())
		packed, err := compressed(plain)
		if err != nil {
			return docs, err
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(packed))
		file := "repodata/" + sum + "-" + doc.kind + ".xml.gz"
		docs.indices[file] = packed
		fmt.Fprintf(&md, "  <data type=\"%s\">\n    <checksum type=\"sha256\">%s</checksum>\n"+
			"    <open-checksum type=\"sha256\">%x</open-checksum>\n    <location href=\"%s\"/>\n"+
			"    <timestamp>%d</timestamp>\n    <size>%d</size>\n    <open-size>%d</open-size>\n  </data>\n",
			doc.kind, sum, sha256.Sum256(plain), file, r.Date.Unix(), len(packed), len(plain))
	}
	md.WriteString("</repomd>\n")
	repomd := []byte(md.String())
	// One signature: a librepo that verifies with rpm's library instead of GPGME refuses a file with two. While the
	// key is being rotated it is that of the old one, which every node has.
	detached, err := detached(repomd, keys[:1], s.cfg.Now)
	docs.rest["repodata/repomd.xml"] = repomd
	docs.rest["repodata/repomd.xml.asc"] = detached
	return docs, err
}
