package rpm

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"casemate/bundle/digests"
)

const (
	maxRepomd = 4 << 20 // bytes of repomd.xml; and of a metalink or mirrorlist
	maxData   = 1000    // files that it names
	maxFile   = 4 << 30 // bytes of one of them
	maxSigned = 1 << 20 // bytes of its signature, and of a key
)

// Repomd is what a repomd.xml says.
type Repomd struct {
	Date time.Time // of the newest file
	Data []Data
}

// Data is one file that repomd.xml names.
type Data struct {
	Type       string // primary, filelists, other, group, updateinfo, modules, …
	URL        string
	Digest     string
	Size       int64  // 0: not stated
	OpenDigest string // of its expanded content; "" if it is not stated, or of another kind
	OpenSize   int64  // the same
}

// checksum is a sum with its kind.
type checksum struct {
	Type string `xml:"type,attr"`
	Text string `xml:",chardata"`
}

// digest is the sum in our form. The error says which kinds are taken.
func (c checksum) digest() (string, error) {
	kind, text := strings.ToLower(strings.TrimSpace(c.Type)), strings.ToLower(strings.TrimSpace(c.Text))
	if kind != "sha256" && kind != "sha512" {
		return "", fmt.Errorf("it has a checksum of the kind %.20q only: sha256 or sha512 is needed", kind)
	}
	d := kind + ":" + text
	if err := digests.Check(d); err != nil {
		return "", err
	}
	return d, nil
}

// location is where a file is.
type location struct {
	Base string `xml:"http://www.w3.org/XML/1998/namespace base,attr"`
	Href string `xml:"href,attr"`
}

// ParseRepomd reads a repomd.xml. base is the URL of the repository, with a slash at its end.
func ParseRepomd(text []byte, base string) (*Repomd, error) {
	var doc struct {
		XMLName xml.Name
		Data    []struct {
			Type         string   `xml:"type,attr"`
			Location     location `xml:"location"`
			Checksum     checksum `xml:"checksum"`
			OpenChecksum checksum `xml:"open-checksum"`
			Size         int64    `xml:"size"`
			OpenSize     int64    `xml:"open-size"`
			Timestamp    float64  `xml:"timestamp"`
		} `xml:"data"`
	}
	if err := unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if doc.XMLName.Local != "repomd" {
		return nil, fmt.Errorf("it is a document <%.40s>, not <repomd>", doc.XMLName.Local)
	}
	if len(doc.Data) > maxData {
		return nil, fmt.Errorf("it names more than %d files", maxData)
	}
	r := &Repomd{}
	for _, d := range doc.Data {
		out := Data{Type: d.Type, Size: d.Size, OpenSize: d.OpenSize}
		var err error
		if out.URL, err = resolve(base, d.Location.Base, d.Location.Href); err == nil {
			out.Digest, err = d.Checksum.digest()
		}
		if err == nil && (d.Size < 0 || d.Size > maxFile || d.OpenSize < 0 || d.OpenSize > maxFile) {
			err = fmt.Errorf("its size %d or %d is not possible", d.Size, d.OpenSize)
		}
		if err != nil {
			return nil, fmt.Errorf("the file %.40q: %w", d.Type, err)
		}
		out.OpenDigest, _ = d.OpenChecksum.digest()
		if t := d.Timestamp; t > 0 && t < 1<<40 {
			if date := time.Unix(int64(t), 0).UTC(); date.After(r.Date) {
				r.Date = date
			}
		}
		r.Data = append(r.Data, out)
	}
	if r.find("primary") == nil {
		return nil, errors.New("it names no index of packages (primary)")
	}
	return r, nil
}

// find returns the file of a kind; nil if there is none.
func (r *Repomd) find(kind string) *Data {
	i := slices.IndexFunc(r.Data, func(d Data) bool { return d.Type == kind })
	if i < 0 {
		return nil
	}
	return &r.Data[i]
}

// unmarshal reads one small XML document. A document that is a web page has an error that says so.
func unmarshal(text []byte, to any) error {
	if head := bytes.ToLower(bytes.TrimSpace(text)); bytes.HasPrefix(head, []byte("<!doctype html")) ||
		bytes.HasPrefix(head, []byte("<html")) {
		return errors.New("it is a web page: perhaps a proxy or a login page answered")
	}
	if err := xml.Unmarshal(text, to); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	return nil
}

// resolve returns the URL of a file: href below xml:base if there is one, otherwise below the repository. ../ is
// resolved as clients do.
func resolve(base, xmlBase, href string) (string, error) {
	if xmlBase != "" {
		base = strings.TrimRight(xmlBase, "/") + "/"
	}
	if strings.TrimSpace(href) == "" {
		return "", errors.New("it has no location")
	}
	b, err := url.Parse(base)
	if err != nil {
		return "", fmt.Errorf("its base %.200q is not a URL", base)
	}
	// createrepo does not escape names: a % that begins no escape stands for itself, and a colon makes no scheme.
	h, err := url.Parse(href)
	if err != nil || h.Scheme != "" && !strings.Contains(href, "://") {
		h = &url.URL{Path: href}
	}
	u := b.ResolveReference(h)
	if err := checkURL(u.String()); err != nil {
		return "", err
	}
	if path.Base(u.Path) == "/" {
		return "", fmt.Errorf("its location %.200q is not a file", href)
	}
	return u.String(), nil
}
