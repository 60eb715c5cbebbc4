package fileserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"

	"casemate/cluster/tree"
)

// maxHops is how many redirects Resolve follows; curl's --location follows 50 at most and most other clients about 10.
const maxHops = 10

// Link adds to b, a batch of the server's own subtree, the file at key (made by Key or KeyIn), whose bytes are the blob
// with that digest.
func (s *Server) Link(b Batch, key, digest string) { b.Link(key, digest) }

// Resolve returns the final answer to a GET of a URL at its origin, redirects followed; for a path that begins with a
// slash, the answer of the server's own name (the short layout). Info describes the answer, so its URL may be another
// than the requested one; generated answers (a checksum file, the text of a setting) have the requested URL. luck is ""
// if the file of this very URL answers, otherwise a sentence that describes how it is answered. Nothing is counted or
// recorded in the missing book. Files of a host that is no origin are found as well: their URLs are answered under the
// server's own name.
//
// fs.ErrNotExist: it is answered with 404; the text gives the reason as far as it is known. fs.ErrInvalid: it is not a
// URL that can be requested.
func (s *Server) Resolve(ctx context.Context, rawURL string) (info Info, luck string, err error) {
	found, luck, err := s.resolveURL(ctx, rawURL)
	return found.Info, luck, err
}

// Open returns the content of what Resolve finds.
func (s *Server) Open(ctx context.Context, rawURL string) (io.ReadSeekCloser, Info, error) {
	found, _, err := s.resolveURL(ctx, rawURL)
	if err != nil {
		return nil, Info{}, err
	}
	if found.made {
		return generated{strings.NewReader(found.text)}, found.Info, nil
	}
	content, err := s.cfg.Tree.OpenBlob(ctx, found.Digest)
	if err != nil {
		return nil, Info{}, fmt.Errorf("file %s: %w", found.URL, err)
	}
	return content, found.Info, nil
}

// resolved is an answer; text is its content if that is generated.
type resolved struct {
	Info
	made bool
	text string
}

// generated is content without a blob.
type generated struct{ io.ReadSeeker }

func (generated) Close() error { return nil }

func (s *Server) resolveURL(ctx context.Context, rawURL string) (resolved, string, error) {
	if strings.HasPrefix(rawURL, "/") {
		return s.resolveOwn(ctx, rawURL)
	}
	a, err := parseURL(rawURL)
	if err != nil {
		return resolved{}, "", err
	}
	a, _ = s.canonical(a)
	return s.resolve(ctx, a)
}

func (s *Server) resolve(ctx context.Context, a address) (resolved, string, error) {
	asked, luck := a.url(), ""
	rules := s.rules()
	for range maxHops {
		rp, err := s.lookup(ctx, rules, a, false)
		switch {
		case errors.Is(err, fs.ErrNotExist) && rules.landing(a):
			return made(asked, a.base()+"\n", storedFile{}), "the page of a release to which files.redirects leads", nil
		case errors.Is(err, fs.ErrNotExist):
			if p, _ := s.projectAt(a); len(p.Files) > 0 {
				page := simplePage(p.title(), p.links())
				return made(asked, page, storedFile{}), "made of the packages that are here", nil
			}
			return resolved{}, "", notHeld(asked, a, s.unknown(a), err)
		case err != nil:
			return resolved{}, "", notHeld(asked, a, s.unknown(a), err)
		case rp.setting && rp.to.literal:
			return made(asked, rp.to.text, storedFile{}), "a setting says its content", nil
		case rp.setting:
			next, err := s.target(a, rp.to)
			if err != nil {
				why := "files.redirects leads to " + clip(rp.to.url) + ", which is not here"
				return resolved{}, "", notHeld(asked, a, why, fs.ErrNotExist)
			}
			a, luck = next, "files.redirects leads to "+next.url()
		case rp.sumOf != "":
			text, err := s.sumText(ctx, rp.file, rp.sumOf, rp.sum)
			if err != nil {
				return resolved{}, "", fmt.Errorf("file %s: %w", asked, err)
			}
			return made(asked, text, rp.file), "made from " + URL(rp.file.key), nil
		case rp.mirrors != "":
			text, err := s.mirrorsText(ctx, rp.file, rp.mirrors, false)
			if err != nil {
				return resolved{}, "", fmt.Errorf("file %s: %w", asked, err)
			}
			return made(asked, text, rp.file), "made from " + URL(rp.file.key), nil
		case rp.slash:
			a.slash = true
			luck = "redirected to " + a.url()
		default:
			if luck == "" && rp.file.key != a.key(a.query) {
				luck = "answered with " + URL(rp.file.key)
			}
			return resolved{Info: rp.file.info()}, luck, nil
		}
	}
	return resolved{}, "", fmt.Errorf("file %s: more than %d redirects: %w", asked, maxHops, fs.ErrNotExist)
}

// resolveOwn is Resolve for a path of the server's own name.
func (s *Server) resolveOwn(ctx context.Context, path string) (resolved, string, error) {
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return resolved{}, "", fmt.Errorf("path %q is not a path of a request: %w", clip(path), fs.ErrInvalid)
	}
	a, err := parsePath(u.EscapedPath(), u.RawQuery)
	if err != nil {
		return resolved{}, "", fmt.Errorf("path %q: %w: %w", clip(path), err, fs.ErrInvalid)
	}
	if own, isOrigin := s.ownAddress(a); isOrigin {
		return s.resolve(ctx, own)
	}
	sh, ok := parseShort(a.elems)
	if !ok || a.slash {
		return resolved{}, "", fmt.Errorf("path %s: neither an origin nor a short name with a version: %w", clip(path),
			fs.ErrNotExist)
	}
	h, of, kind, err := s.lookupShort(sh)
	switch {
	case err != nil:
		return resolved{}, "", fmt.Errorf("path %s: %w", clip(path), err)
	case of != "":
		text, err := s.sumText(ctx, h, of, kind)
		if err != nil {
			return resolved{}, "", fmt.Errorf("path %s: %w", clip(path), err)
		}
		return made(path, text, h), "made from " + URL(h.key), nil
	}
	return resolved{Info: h.info()}, "answered with " + URL(h.key), nil
}

// target is the address to which a setting leads from a.
func (s *Server) target(a address, to target) (address, error) {
	next, err := to.address(a)
	if err != nil {
		return address{}, err
	}
	next, _ = s.canonical(next)
	return next, nil
}

// made describes a generated answer.
func made(url, text string, from storedFile) resolved {
	return resolved{
		Info: Info{URL: url, Digest: tree.Sum([]byte(text), ""), Size: int64(len(text)), Time: from.mod},
		made: true, text: text,
	}
}

// notHeld describes where a chain of redirects that began at asked ended.
func notHeld(asked string, at address, why string, err error) error {
	if at.url() != asked {
		asked += ", redirected to " + at.url()
	}
	if why == "" {
		return fmt.Errorf("file %s: %w", asked, err)
	}
	return fmt.Errorf("file %s: %s: %w", asked, why, err)
}
