package rpm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"casemate/bundle/ospackages/openpgp"
)

const (
	maxHeader  = 64 << 20 // bytes of a header's data; rpm's own limit is 256 MiB
	maxEntries = 64 << 10 // of a header
	leadSize   = 96
)

// Tags of headers (rpm's manual, Tags).
const (
	tagName, tagVersion, tagRelease, tagEpoch = 1000, 1001, 1002, 1003
	tagPayloadDigest, tagPayloadAlgorithm     = 5092, 5093
	// Of the signature header: those of the main header, by DSA or EdDSA, by RSA, and of rpm 6.
	tagDSAHeader, tagRSAHeader, tagOpenPGP = 267, 268, 278
)

// header is a header of a package: the bytes as they are signed, and where its values are.
type header struct {
	raw     []byte
	data    []byte
	entries map[uint32]headerEntry
}

type headerEntry struct{ kind, offset, count uint32 }

var headerMagic = []byte{0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0}

// readHeader reads one header (rpm's manual, Package Format, Header Structure).
func readHeader(r io.Reader) (*header, error) {
	var intro [16]byte
	if _, err := io.ReadFull(r, intro[:]); err != nil {
		return nil, fmt.Errorf("it ends in a header: %w", err)
	}
	if !bytes.Equal(intro[:4], headerMagic[:4]) {
		return nil, errors.New("a header does not begin as one")
	}
	n, size := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	if n > maxEntries || size > maxHeader {
		return nil, errors.New("a header is too large")
	}
	// What a header claims is allocated only as far as the file has it.
	var b bytes.Buffer
	b.Write(intro[:])
	want := int64(n)*16 + int64(size)
	if got, err := io.Copy(&b, io.LimitReader(r, want)); err != nil || got != want {
		return nil, errors.Join(errors.New("it ends in a header"), err)
	}
	h := &header{raw: b.Bytes(), entries: make(map[uint32]headerEntry, n)}
	index := h.raw[16 : 16+n*16]
	h.data = h.raw[16+n*16:]
	for ; len(index) > 0; index = index[16:] {
		tag := binary.BigEndian.Uint32(index)
		if _, twice := h.entries[tag]; twice {
			return nil, fmt.Errorf("a header has the tag %d twice", tag)
		}
		h.entries[tag] = headerEntry{binary.BigEndian.Uint32(index[4:]), binary.BigEndian.Uint32(index[8:]),
			binary.BigEndian.Uint32(index[12:])}
	}
	return h, nil
}

// Types of values.
const (
	typeInt32, typeString, typeBin, typeStrings = 4, 6, 7, 8
)

// text is a string, or the first of several; "" without one.
func (h *header) text(tag uint32) string {
	e, ok := h.entries[tag]
	if !ok || e.kind != typeString && e.kind != typeStrings || int64(e.offset) >= int64(len(h.data)) {
		return ""
	}
	s, _, ok := bytes.Cut(h.data[e.offset:], []byte{0})
	if !ok {
		return ""
	}
	return string(s)
}

// texts are all strings of an array, at most 64.
func (h *header) texts(tag uint32) (list []string) {
	e := h.entries[tag]
	if e.kind != typeStrings || int64(e.offset) >= int64(len(h.data)) {
		return nil
	}
	rest := h.data[e.offset:]
	for range min(e.count, 64) {
		s, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			break
		}
		list, rest = append(list, string(s)), after
	}
	return list
}

func (h *header) binary(tag uint32) []byte {
	e, ok := h.entries[tag]
	if !ok || e.kind != typeBin || int64(e.offset)+int64(e.count) > int64(len(h.data)) {
		return nil
	}
	return h.data[e.offset : e.offset+e.count]
}

func (h *header) number(tag uint32) int {
	e, ok := h.entries[tag]
	if !ok || e.kind != typeInt32 || int64(e.offset)+4 > int64(len(h.data)) {
		return 0
	}
	return int(binary.BigEndian.Uint32(h.data[e.offset:]))
}

// signatures are those of the main header.
func (h *header) signatures() (list [][]byte) {
	for _, tag := range []uint32{tagRSAHeader, tagDSAHeader} {
		if b := h.binary(tag); len(b) > 0 {
			list = append(list, b)
		}
	}
	for _, text := range h.texts(tagOpenPGP) {
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			list = append(list, b)
		}
	}
	return list
}

// checkSignature reads a package's file: its header must be signed by one of the keys, be that of the package that the
// index means, and have the digest of the payload that follows. As for rpm, one good signature is enough.
func checkSignature(in io.Reader, p *Package, keys *openpgp.Keyring, now time.Time) error {
	r := bufio.NewReaderSize(in, 64<<10)
	lead := make([]byte, leadSize)
	if _, err := io.ReadFull(r, lead); err != nil || !bytes.Equal(lead[:4], []byte{0xed, 0xab, 0xee, 0xdb}) {
		return errors.New("it is not an RPM package")
	}
	sig, err := readHeader(r)
	if err != nil {
		return err
	}
	if pad := (8 - len(sig.data)%8) % 8; pad > 0 {
		if _, err := r.Discard(pad); err != nil {
			return errors.New("it ends in its signature")
		}
	}
	main, err := readHeader(r)
	if err != nil {
		return err
	}
	list := sig.signatures()
	if len(list) == 0 {
		return errors.New("it is not signed")
	}
	var failed error
	for _, s := range list {
		if _, failed = openpgp.Detached(main.raw, s, keys, now); failed == nil {
			break
		}
	}
	if failed != nil {
		return failed
	}
	have := evr{main.number(tagEpoch), main.text(tagVersion), main.text(tagRelease)}
	if name := main.text(tagName); name != p.Name || have != p.evr {
		return fmt.Errorf("it is the package %.100s-%.100s", name, have)
	}
	return main.checkPayload(r)
}

// checkPayload compares what follows the header with the digest in it. Packages of rpm before 4.14 have none.
func (h *header) checkPayload(r io.Reader) error {
	want := h.texts(tagPayloadDigest)
	if len(want) == 0 {
		return nil
	}
	var sum hash.Hash
	switch h.number(tagPayloadAlgorithm) { // RFC 9580, 9.5
	case 8, 0:
		sum = sha256.New()
	case 10:
		sum = sha512.New()
	default:
		return nil
	}
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != want[0] {
		return errors.New("its content is not what its signed header says")
	}
	return nil
}
