package fileserver

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"casemate/cluster/byterange"
	"casemate/cluster/tree"
	"casemate/fileserver/ospackages"
)

// The documents that are generated beside the repomd.xml of an RPM repository. An import redirects the publisher's
// metalink and mirrorlist addresses to them.
const (
	repomd     = "repomd.xml"
	metalink   = repomd + ".metalink"
	mirrorlist = repomd + ".mirrorlist"
)

// repositoryOf returns the address of the repomd.xml whose metalink or mirrorlist is at an address.
func repositoryOf(a address) (of address, ok bool) {
	n := len(a.elems)
	if a.slash || n < 2 || a.elems[n-2] != "repodata" || a.base() != metalink && a.base() != mirrorlist {
		return address{}, false
	}
	a.query = ""
	return a.withBase(repomd), true
}

// sendMirrors answers with a metalink or a mirrorlist, which name one mirror: the origin itself.
func (s *Server) sendMirrors(w http.ResponseWriter, r *http.Request, h storedFile, name string, plain bool) {
	text, err := s.mirrorsText(r.Context(), h, name, plain)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	media := "text/plain; charset=utf-8"
	if name == metalink {
		media = "application/metalink+xml; charset=utf-8"
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Security-Policy", "sandbox")
	w.Header().Set("ETag", `"`+tree.Sum([]byte(text), "")+`"`)
	http.ServeContent(w, byterange.Bound(r, int64(len(text))), "", s.validDate(w, h), strings.NewReader(text))
}

// mirrorsText is the content of the document called name beside the repomd.xml h. plain: by http, for a client that
// asked by http.
func (s *Server) mirrorsText(ctx context.Context, h storedFile, name string, plain bool) (string, error) {
	scheme := "https"
	if plain {
		scheme = "http"
	}
	url := scheme + strings.TrimPrefix(URL(h.key), "https")
	if name == mirrorlist {
		return strings.TrimSuffix(url, "repodata/"+repomd) + "\n", nil
	}
	md, err := s.repomd(ctx, h.digest)
	if err != nil {
		return "", err
	}
	date := h.mod
	if !md.Date.IsZero() {
		date = md.Date
	}
	m := metalinkDoc{
		Version: "3.0", Namespace: "http://www.metalinker.org/", Type: "dynamic",
		Published: date.UTC().Format(time.RFC1123), Extension: "http://fedorahosted.org/mirrormanager",
	}
	m.File.Name, m.File.Date, m.File.Size = repomd, date.Unix(), h.size
	for _, algorithm := range []string{"sha256", "sha512"} {
		sum, err := s.sum(ctx, h.digest, algorithm)
		if err != nil {
			return "", err
		}
		m.File.Sums = append(m.File.Sums, metalinkSum{algorithm, sum})
	}
	m.File.Resources.Most, m.File.Resources.URL = 1, metalinkURL{scheme, scheme, 100, url}
	text, err := xml.MarshalIndent(m, "", " ")
	if err != nil {
		return "", err // strings and numbers only
	}
	return xml.Header + string(text) + "\n", nil
}

// metalinkDoc is a metalink 3.0 document with the extension of MirrorManager, which dnf reads.
type metalinkDoc struct {
	XMLName   xml.Name `xml:"metalink"`
	Version   string   `xml:"version,attr"`
	Namespace string   `xml:"xmlns,attr"`
	Type      string   `xml:"type,attr"`
	Published string   `xml:"pubdate,attr"`
	Extension string   `xml:"xmlns:mm0,attr"`
	File      struct {
		Name      string        `xml:"name,attr"`
		Date      int64         `xml:"mm0:timestamp"`
		Size      int64         `xml:"size"`
		Sums      []metalinkSum `xml:"verification>hash"`
		Resources struct {
			Most int         `xml:"maxconnections,attr"`
			URL  metalinkURL `xml:"url"`
		} `xml:"resources"`
	} `xml:"files>file"`
}

type metalinkSum struct {
	Type string `xml:"type,attr"`
	Sum  string `xml:",chardata"`
}

type metalinkURL struct {
	Protocol   string `xml:"protocol,attr"`
	Type       string `xml:"type,attr"`
	Preference int    `xml:"preference,attr"`
	URL        string `xml:",chardata"`
}

// repomd reads a repomd.xml; one that is malformed has no date.
func (s *Server) repomd(ctx context.Context, digest string) (*ospackages.Repomd, error) {
	return s.repomds.get(ctx, digest, func(ctx context.Context) (*ospackages.Repomd, error) {
		blob, err := s.cfg.Tree.OpenBlob(ctx, digest)
		if err != nil {
			return nil, err
		}
		defer blob.Close()
		content := &failing{r: blob}
		md, err := ospackages.ParseRepomd(content)
		if content.err != nil {
			return nil, fmt.Errorf("read %s: %w", digest, content.err)
		}
		if err != nil {
			return &ospackages.Repomd{}, nil
		}
		return md, nil
	})
}

// failing remembers the error of a reader, so that an error of reading is not taken for one of the content.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}
