package ospackages

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Repomd is what a repomd.xml says.
type Repomd struct {
	Revision string
	// Date is that of the newest of its files; zero if it has no dates.
	Date time.Time
	// Data are the kinds of its files: primary, filelists, modules.
	Data []string
}

// ParseRepomd reads a repomd.xml.
func ParseRepomd(r io.Reader) (*Repomd, error) {
	var doc struct {
		XMLName  xml.Name `xml:"repomd"`
		Revision string   `xml:"revision"`
		Data     []struct {
			Type      string `xml:"type,attr"`
			Timestamp string `xml:"timestamp"`
		} `xml:"data"`
	}
	if err := xml.NewDecoder(io.LimitReader(r, MaxDocument)).Decode(&doc); err != nil {
		return nil, fmt.Errorf("not a repomd.xml: %w", err)
	}
	if len(doc.Data) == 0 {
		return nil, errors.New("not a repomd.xml: it has no files")
	}
	md := &Repomd{Revision: strings.TrimSpace(doc.Revision)}
	newest := int64(0)
	for _, d := range doc.Data[:min(len(doc.Data), 1000)] {
		md.Data = append(md.Data, d.Type)
		whole, _, _ := strings.Cut(strings.TrimSpace(d.Timestamp), ".") // some have fractions
		if n, err := strconv.ParseInt(whole, 10, 64); err == nil && n > newest && n < 1<<40 {
			newest = n
		}
	}
	if newest > 0 {
		md.Date = time.Unix(newest, 0).UTC()
	}
	return md, nil
}
