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

// neighbours are the suffixes of checksum files beside a file.
var neighbours = []string{".sha256", ".sha256sum", ".sha512"}

// notChecked are the suffixes of files that are checksums or signatures themselves, or that belong to a repository
// whose index has their checksums.
var notChecked = []string{
	".sha256",
	".sha256sum",
	".sha512",
	".sha512sum",
	".md5",
	".asc",
	".sig",
	".pem",
	".crt",
	".cert",
	".prov",
	".txt",
	".deb",
	".rpm",
}

// maxSums is the maximum number of bytes that are read of a checksum file.
const maxSums = 256 << 10

// sidecarChecksum looks for a checksum file beside a file, and returns the digest and the URL of the checksum file; ""
// if there is none that can be read.
func (c *collector) sidecarChecksum(ctx context.Context, file string) (digest, sums string, err error) {
	u, err := url.Parse(file)
	if err != nil || u.RawQuery != "" {
		return "", "", nil // it was checked before; a URL with a query has no sidecar
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
			// Object stores answer 403 for what does not exist. Every other error is a note and not a failure: a
			// checksum beside a file protects against accidents only.
			if !transport.HasStatus(
				err,
				http.StatusNotFound,
				http.StatusForbidden,
				http.StatusGone,
				http.StatusBadRequest,
				http.StatusMethodNotAllowed,
			) {
				c.note("%s could not be read, so the file is not compared with it: %v", file+s, err)
			}
			continue
		}
		if d := sumOf(b, path.Base(u.Path)); d != "" {
			return d, file + s, nil
		}
	}
	return "", "", nil
}

// sumOf finds the sum of one name in a checksum file: "HEX" alone, lines "HEX NAME" and "HEX *NAME" as sha256sum writes
// them, and "SHA256 (NAME) = HEX" as BSD does. A name may contain directories. It returns "" if this is not a checksum
// file, or has no line for the name.
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
	// A single line is for this file whatever name it has: releases get renamed.
	if lines == 1 && s.Err() == nil {
		return only
	}
	return ""
}

// digestOfHex turns a sum into a digest according to its length; "" if it is not a sum.
func digestOfHex(hex string) string {
	hex = strings.ToLower(hex)
	for _, d := range []string{"sha256:" + hex, "sha512:" + hex} {
		if digests.Check(d) == nil {
			return d
		}
	}
	return ""
}
