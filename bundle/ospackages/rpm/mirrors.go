package rpm

import (
	"cmp"
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

// findMirrors fetches the document of mirrors of a repository; nil if it has none. The mirror of the newest earlier run
// comes first, so that content does not move to another host with each run; otherwise those of https.
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
	slices.SortStableFunc(found.bases, func(a, b string) int {
		// https before http
		return cmp.Or(c.collected(b).Compare(c.collected(a)), strings.Compare(scheme(b), scheme(a)))
	})
	return found, nil
}

// collected returns the date of the repository that an earlier run collected from a mirror, or the zero time.
func (c *Collector) collected(base string) time.Time {
	before, err := ParseRepomd(c.fetch.Last(base+"repodata/repomd.xml", maxRepomd), base)
	if err != nil {
		return time.Time{}
	}
	return before.Date
}

func scheme(u string) string { s, _, _ := strings.Cut(u, ":"); return s }

// addMirrors makes the URL of mirrors lead to the document of that kind that bastions generate beside repomd.xml: it
// names the origin itself, with the sum of the repomd.xml that is stored.
func (c *Collector) addMirrors(r *repository, m *mirrors) {
	kind := ".mirrorlist"
	if m.metalink {
		kind = ".metalink"
	}
	r.redirects = append(r.redirects, lists.Redirect{From: m.url, To: r.base + "repodata/repomd.xml" + kind,
		Where: r.Where})
	r.note("its packages come from the mirror %s, which nodes are sent to", r.base)
}
