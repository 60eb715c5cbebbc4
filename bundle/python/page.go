package python

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"
)

// Link is one file on a project's page.
type Link struct {
	File           string // its name
	URL            string
	Digest         string // "sha256:…" or "sha512:…", "" if the page does not say it
	RequiresPython string
	Metadata       string // the digest of URL.metadata, "" if the page does not say it
	Yanked         bool
	YankedReason   string
}

// maxPage bounds a project's page: those of projects with nightly builds have tens of megabytes.
const maxPage = 64 << 20

// maxLinks bounds the files on a page.
const maxLinks = 200_000

// ParsePage reads a project's page, in the HTML form (PEP 503) or the JSON form (PEP 691). at is its URL.
func ParsePage(at string, page []byte) ([]Link, error) {
	base, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	if text := bytes.TrimLeft(page, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		return parseJSON(base, page)
	}
	return parseHTML(base, page)
}

func parseJSON(base *url.URL, page []byte) ([]Link, error) {
	var p struct {
		Files []struct {
			Filename       string            `json:"filename"`
			URL            string            `json:"url"`
			Hashes         map[string]string `json:"hashes"`
			RequiresPython string            `json:"requires-python"`
			CoreMetadata   json.RawMessage   `json:"core-metadata"`
			DistInfo       json.RawMessage   `json:"dist-info-metadata"`
			Yanked         any               `json:"yanked"`
		} `json:"files"`
	}
	if err := json.Unmarshal(page, &p); err != nil {
		return nil, fmt.Errorf("it is no page of an index: %w", err)
	}
	if len(p.Files) > maxLinks {
		return nil, fmt.Errorf("it has more than %d files", maxLinks)
	}
	var links []Link
	for _, f := range p.Files {
		l := Link{File: f.Filename, RequiresPython: f.RequiresPython, Digest: digestIn(f.Hashes)}
		for _, raw := range []json.RawMessage{f.CoreMetadata, f.DistInfo} {
			var hashes map[string]string
			if json.Unmarshal(raw, &hashes) == nil && l.Metadata == "" {
				l.Metadata = digestIn(hashes)
			}
		}
		if reason, ok := f.Yanked.(string); ok {
			l.Yanked, l.YankedReason = true, reason
		} else {
			l.Yanked = f.Yanked == true
		}
		if l.resolve(base, f.URL) {
			links = append(links, l)
		}
	}
	return links, nil
}

func digestIn(hashes map[string]string) string {
	for _, algorithm := range []string{"sha256", "sha512"} {
		if d := algorithm + ":" + strings.ToLower(hashes[algorithm]); hashForm.MatchString(d) {
			return d
		}
	}
	return ""
}

// resolve sets the URL of a link on a page, and reports whether it is one of a file.
func (l *Link) resolve(base *url.URL, href string) bool {
	u, err := base.Parse(strings.TrimSpace(href))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return false
	}
	if l.File == "" {
		l.File = path.Base(u.Path)
	}
	for part := range strings.SplitSeq(u.Fragment, "&") {
		if d := strings.ToLower(strings.Replace(part, "=", ":", 1)); l.Digest == "" && hashForm.MatchString(d) {
			l.Digest = d
		}
	}
	u.Fragment, u.RawFragment = "", ""
	l.URL = u.String()
	_, err = ParseFile(l.File)
	return err == nil
}

func parseHTML(base *url.URL, page []byte) ([]Link, error) {
	var links []Link
	in := html.NewTokenizer(bytes.NewReader(page))
	in.SetMaxBuf(1 << 20)
	for {
		switch in.Next() {
		case html.ErrorToken:
			if err := in.Err(); !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("it is no page of an index: %w", err)
			}
			return links, nil
		case html.StartTagToken, html.SelfClosingTagToken:
			name, more := in.TagName()
			isBase, isLink := string(name) == "base", string(name) == "a"
			var l Link
			href := ""
			for more && (isBase || isLink) {
				var key, value []byte
				key, value, more = in.TagAttr()
				switch string(key) {
				case "href":
					href = string(value)
				case "data-requires-python":
					l.RequiresPython = string(value)
				case "data-yanked":
					l.Yanked, l.YankedReason = true, string(value)
				case "data-core-metadata", "data-dist-info-metadata":
					if d := strings.ToLower(strings.Replace(string(value), "=", ":", 1)); hashForm.MatchString(d) {
						l.Metadata = d
					}
				}
			}
			if u, err := base.Parse(href); isBase && err == nil && href != "" {
				base = u
			}
			if isLink && href != "" && l.resolve(base, href) {
				if links = append(links, l); len(links) > maxLinks {
					return nil, fmt.Errorf("it has more than %d files", maxLinks)
				}
			}
		}
	}
}
