package collect

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/url"
	"path"
	"strings"

	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
)

// neighbours are the names that a checksum beside a file has: its own with one of these behind.
var neighbours = []string{".sha256", ".sha256sum", ".sha512"}

// notChecked are the names of what is itself a checksum or a signature, or of what belongs to a repository and has its
// sums in it.
var notChecked = []string{".sha256", ".sha256sum", ".sha512", ".sha512sum", ".md5", ".asc", ".sig", ".pem", ".crt", ".cert", ".prov", ".txt", ".deb", ".rpm"}

// maxSums is the most that a neighbour is read of.
const maxSums = 256 << 10

// sidecarChecksum looks for the checksum that lies beside a file, and returns the digest and the checksum's URL; nothing if
// there is none that can be read.
func (c *collector) sidecarChecksum(ctx context.Context, file string) (digest, sums string, err error) {
	u, err := url.Parse(file)
	if err != nil || u.RawQuery != "" {
		return "", "", nil // it was checked before; one with a query has no neighbours
	}
	for _, s := range notChecked {
		if strings.HasSuffix(u.Path, s) {
			return "", "", nil
		}
	}
	for _, s := range neighbours {
		b, err := c.text(ctx, file+s, maxSums)
		if ctx.Err() != nil {
			return "", "", err
		}
		if err != nil {
			// Object stores say 403 for what does not exist. Everything else is said, and no reason to fail: a checksum
			// beside a file can only tell of accidents.
			if !transport.HasStatus(err, http.StatusNotFound, http.StatusForbidden, http.StatusGone, http.StatusBadRequest, http.StatusMethodNotAllowed) {
				c.note("%s: could not be read, so the file is not compared with it: %v", file+s, err)
			}
			continue
		}
		if d := sumOf(b, path.Base(u.Path)); d != "" {
			return d, file + s, nil
		}
	}
	return "", "", nil
}

// sumOf reads a checksum file for one name: "HEX" alone, lines "HEX NAME" and "HEX *NAME" as sha256sum writes them, and
// "SHA256 (NAME) = HEX" as BSD does. A name may have directories before it. "" if it is no checksum file, or has no
// line for the name.
func sumOf(b []byte, name string) string {
	s := bufio.NewScanner(bytes.NewReader(b))
	only, lines := "", 0
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		hex, of, named := strings.Cut(line, " ")
		if algorithm, rest, ok := strings.Cut(line, " ("); ok && strings.HasPrefix(algorithm, "SHA") {
			if of, hex, named = strings.Cut(rest, ") = "); !named {
				return ""
			}
		}
		d := digestOfHex(hex)
		if d == "" {
			return ""
		}
		of = strings.TrimPrefix(strings.TrimSpace(of), "*")
		if named && path.Base(of) == name {
			return d
		}
		only = d
		lines++
	}
	// One line is about this file, whatever it is called there: releases are renamed.
	if lines == 1 && s.Err() == nil {
		return only
	}
	return ""
}

// digestOfHex makes a digest of a sum by its length, "" if it is none.
func digestOfHex(hex string) string {
	hex = strings.ToLower(hex)
	for _, d := range []string{"sha256:" + hex, "sha512:" + hex} {
		if digests.Check(d) == nil {
			return d
		}
	}
	return ""
}
