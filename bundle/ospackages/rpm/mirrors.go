package rpm

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"casemate/bundle/lists"
)

const maxMirrors = 5 // of a repository that are tried

// mirrors is what the document at a mirrorlist or metalink URL says.
type mirrors struct {
	url      string // of the document
	metalink bool
	bases    []string
	// digests are those of the repomd.xml files that a metalink allows; none: any.
	digests []string
}

// parseMirrorlist reads one URL a line.
func parseMirrorlist(text []byte) (*mirrors, error) {
	m := &mirrors{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && checkURL(line) == nil {
			m.bases = append(m.bases, strings.TrimRight(line, "/")+"/")
		}
	}
	if len(m.bases) == 0 {
		return nil, errors.New("it names no mirror")
	}
	return m, nil
}

// verification are sums of a file in a metalink.
type verification struct {
	Hash []checksum `xml:"verification>hash"`
}

// parseMetalink reads a metalink (version 3.0, as MirrorManager writes it).
func parseMetalink(text []byte) (*mirrors, error) {
	var doc struct {
		XMLName xml.Name
		File    []struct {
			verification
			Name string `xml:"name,attr"`
			// Alternates are earlier generations, which mirrors may still have.
			Alternates []verification `xml:"alternates>alternate"`
			URL        []string       `xml:"resources>url"`
		} `xml:"files>file"`
	}
	if err := unmarshal(text, &doc); err != nil {
		return nil, err
	}
	m := &mirrors{metalink: true}
	for _, f := range doc.File {
		if f.Name != "repomd.xml" {
			continue
		}
		for _, v := range append([]verification{f.verification}, f.Alternates...) {
			for _, h := range v.Hash {
				if d, err := h.digest(); err == nil {
					m.digests = append(m.digests, d)
				}
			}
		}
		for _, u := range f.URL {
			if base, ok := strings.CutSuffix(strings.TrimSpace(u), "repodata/repomd.xml"); ok && checkURL(base) == nil {
				m.bases = append(m.bases, base)
			}
		}
	}
	if len(m.bases) == 0 {
		return nil, errors.New("it names no mirror of repomd.xml that is asked by http or https")
	}
	return m, nil
}

func (m *mirrors) parse(text []byte) (*mirrors, error) {
	if m.metalink {
		return parseMetalink(text)
	}
	return parseMirrorlist(text)
}

// findMirrors fetches the document of mirrors of a repository; nil if it has none. The mirror of an earlier run comes
// first, so that content does not move to another host with each run; otherwise those of https.
func (c *Collector) findMirrors(ctx context.Context, r *Repo) (*mirrors, error) {
	m := &mirrors{url: r.Metalink, metalink: true}
	if m.url == "" {
		m.url, m.metalink = r.Mirrorlist, false
	}
	if m.url == "" {
		return nil, nil
	}
	text, _, err := c.fetch.Document(ctx, m.url, maxRepomd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.url, err)
	}
	found, err := m.parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.url, err)
	}
	found.url = m.url
	if before, err := m.parse(c.fetch.Last(m.url, maxRepomd)); err == nil && len(before.bases) == 1 {
		if i := slices.Index(found.bases, before.bases[0]); i >= 0 {
			found.bases = append(before.bases, slices.Delete(found.bases, i, i+1)...)
			return found, nil
		}
	}
	slices.SortStableFunc(found.bases, func(a, b string) int {
		return strings.Compare(scheme(b), scheme(a)) // https before http
	})
	return found, nil
}

func scheme(u string) string { s, _, _ := strings.Cut(u, ":"); return s }

// document is what nodes get at the URL of mirrors: it names the one from which the content came, with the sum of its
// repomd.xml.
func (m *mirrors) document(base string, repomd []byte, digest string, date time.Time) []byte {
	if !m.metalink {
		return []byte(base + "\n")
	}
	kind, sum, _ := strings.Cut(digest, ":")
	var at bytes.Buffer
	_ = xml.EscapeText(&at, []byte(base+"repodata/repomd.xml"))
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="utf-8"?>
<metalink version="3.0" type="dynamic" xmlns="http://www.metalinker.org/"
    xmlns:mm0="http://fedorahosted.org/mirrormanager">
  <files>
    <file name="repomd.xml">
      <mm0:timestamp>%d</mm0:timestamp>
      <size>%d</size>
      <verification>
        <hash type="%s">%s</hash>
      </verification>
      <resources maxconnections="1">
        <url protocol="%[5]s" type="%[5]s" preference="100">%[6]s</url>
      </resources>
    </file>
  </files>
</metalink>
`, max(date.Unix(), 0), len(repomd), kind, sum, scheme(base), at.String())
}

// addMirrors adds the document that answers at the URL of mirrors.
func (c *Collector) addMirrors(r *repository, m *mirrors, repomd []byte, digest string) error {
	doc := m.document(r.base, repomd, digest, r.Date)
	sum, err := c.fetch.Put(doc)
	if err != nil {
		return err
	}
	r.files = append(r.files, lists.File{URL: m.url, Digest: sum, Known: "the mirror that was read",
		Size: int64(len(doc)), Where: r.Where})
	r.note("its packages come from the mirror %s, which nodes are sent to", r.base)
	return nil
}
