package repositories

import (
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const (
	maxSignature = 1 << 20
	maxSigners   = 16
)

// signers returns the keys that the signatures of a document name, in order: of an InRelease file, of a detached
// signature with armor, or of a binary one. It verifies nothing.
func signers(document string) []Signer {
	list := []Signer{}
	body, armored := dearmored(document)
	if !armored {
		body = document
	}
	r := packet.NewReader(io.LimitReader(strings.NewReader(body), maxSignature))
	for len(list) < maxSigners {
		p, err := r.NextWithUnsupported()
		if err != nil {
			return list
		}
		s, ok := p.(*packet.Signature)
		if !ok {
			continue
		}
		switch by := (Signer{Fingerprint: fmt.Sprintf("%X", s.IssuerFingerprint)}); {
		case s.IssuerKeyId != nil:
			by.KeyID = fmt.Sprintf("%016X", *s.IssuerKeyId)
			list = append(list, by)
		case len(by.Fingerprint) == 40:
			by.KeyID = by.Fingerprint[24:]
			list = append(list, by)
		}
	}
	return list
}

// dearmored decodes the armor of a signature, which may be behind a signed text.
func dearmored(document string) (body string, ok bool) {
	const begin, end = "-----BEGIN PGP SIGNATURE-----", "-----END PGP SIGNATURE-----"
	i := strings.LastIndex(document, begin)
	if i < 0 {
		return "", false
	}
	text, _, ok := strings.Cut(document[i+len(begin):], end)
	if !ok || len(text) > 2*maxSignature {
		return "", ok
	}
	_, text, _ = strings.Cut(strings.ReplaceAll(text, "\r", ""), "\n\n") // after the armor's header
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "=") {
			break // the checksum
		}
		b.WriteString(line)
	}
	raw, err := base64.StdEncoding.DecodeString(b.String())
	return string(raw), err == nil
}
