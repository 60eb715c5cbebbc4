package diagnose

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Looks is what a mismatch looks like.
type Looks string

// The possible values of Mismatch.Looks.
const (
	Truncated         Looks = "truncated"
	ErrorPage         Looks = "an error page"
	OtherArchitecture Looks = "for another architecture"
	OtherVersion      Looks = "another version"
	Changed           Looks = "changed"
)

// Mismatch is the error for content that does not have the expected digest.
type Mismatch struct {
	Want, Got string // digests
	Size      int64  // number of bytes that were received
	Known     string // the source of the expected digest
	Looks     Looks
	Detail    string // the reason for Looks
}

func (m *Mismatch) Error() string {
	s := fmt.Sprintf("its checksum is wrong, it looks %s", m.Looks)
	if m.Looks == ErrorPage || m.Looks == OtherVersion {
		s = fmt.Sprintf("its checksum is wrong, it looks like %s", m.Looks)
	}
	if m.Detail != "" {
		s += ": " + m.Detail
	}
	s += fmt.Sprintf(" (%d bytes, %s, expected %s", m.Size, m.Got, m.Want)
	if m.Known != "" {
		s += " by " + m.Known
	}
	return s + ")"
}

// Diagnose finds out what the content of a URL looks like that has a wrong digest. other returns the known artifact
// that has a digest, or "".
func (m *Mismatch) Diagnose(rawURL, known string, content *os.File, other func(digest string) string) {
	m.Known = known
	if m.Size == 0 {
		m.Looks, m.Detail = Truncated, "it is empty"
		return
	}
	if other != nil {
		if is := other(m.Got); is != "" {
			m.Looks, m.Detail = OtherVersion, "it is "+is
			if a, b := architecture(is), architecture(known); a != "" && b != "" && a != b {
				m.Looks = OtherArchitecture
			}
			return
		}
	}
	name := rawURL
	if u, err := url.Parse(rawURL); err == nil {
		name = u.Path
	}
	head := make([]byte, 1024)
	n, err := content.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return
	}
	head = head[:n]
	if what := DescribeErrorPage(head, path.Base(name)); what != "" {
		m.Looks, m.Detail = ErrorPage, what
		return
	}
	switch {
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		m.diagnoseELF(name, content)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		m.diagnoseGzip(name, content)
	}
	if m.Looks == Changed && m.Detail == "" {
		m.Detail = "the server has other content now, or the checksum belongs to another version"
	}
}

// diagnoseELF checks whether a program is complete and for the architecture in its URL.
func (m *Mismatch) diagnoseELF(name string, content *os.File) {
	var ident [20]byte
	if _, err := content.ReadAt(ident[:], 0); err != nil {
		m.Looks, m.Detail = Truncated, "it is only the beginning of a program"
		return
	}
	if want, is := architecture(name), elfArchitecture(ident[:]); want != "" && is != "" && want != is {
		m.Looks, m.Detail = OtherArchitecture, fmt.Sprintf("it is a program for %s, and its URL says %s", is, want)
		return
	}
	// The section table is at the end of a program; without it, the end is missing. The parser distinguishes a stripped
	// program from a truncated one.
	if _, err := elf.NewFile(content); err != nil {
		m.Looks, m.Detail = Truncated, "the end of the program is missing"
	}
}

// elfArchitecture returns the architecture of a program that begins with head, "" if it is not a known program.
func elfArchitecture(head []byte) string {
	if len(head) < 20 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return ""
	}
	if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		return machines[elf.Machine(uint16(head[19])|uint16(head[18])<<8)]
	}
	machine := elf.Machine(uint16(head[18]) | uint16(head[19])<<8)
	if machine == elf.EM_PPC64 {
		return "ppc64le"
	}
	return machines[machine]
}

// diagnoseGzip checks whether an archive is complete, and whether the programs in it are for the architecture in its
// URL.
func (m *Mismatch) diagnoseGzip(name string, content *os.File) {
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return
	}
	z, err := gzip.NewReader(content)
	if err != nil {
		return
	}
	// Bounded, because a small archive can contain any amount of data.
	inside := bufio.NewReader(io.LimitReader(z, 8<<30))
	want := architecture(name)
	if head, err := inside.Peek(512); err == nil && want != "" && string(head[257:262]) == "ustar" {
		for t := tar.NewReader(inside); ; {
			if _, err := t.Next(); err != nil {
				break
			}
			ident := make([]byte, 20)
			if _, err := io.ReadFull(t, ident); err != nil {
				continue
			}
			if is := elfArchitecture(ident); is != "" && is != want {
				m.Looks, m.Detail = OtherArchitecture, fmt.Sprintf(
					"the programs in it are for %s, and its URL says %s",
					is,
					want,
				)
				return
			}
		}
	}
	if _, err := io.Copy(io.Discard, inside); errors.Is(err, io.ErrUnexpectedEOF) {
		m.Looks, m.Detail = Truncated, "its gzip stream ends early"
	}
}

// machines are the architectures by the names that Go and Kubernetes use.
var machines = map[elf.Machine]string{
	elf.EM_X86_64: "amd64", elf.EM_386: "386", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_S390: "s390x",
	elf.EM_RISCV: "riscv64", elf.EM_PPC64: "ppc64",
}

// architectureWords are the names of architectures in URLs and checksum tables.
var architectureWords = map[string]string{
	"amd64": "amd64", "x86_64": "amd64", "x64": "amd64", "arm64": "arm64", "aarch64": "arm64", "arm": "arm",
	"armv7": "arm", "armv7l": "arm", "armhf": "arm",
	"armv6": "arm", "386": "386", "i386": "386", "i686": "386", "ppc64le": "ppc64le", "s390x": "s390x",
	"riscv64": "riscv64",
}

var wordSeparators = regexp.MustCompile(`[^a-z0-9_]+`)

// architecture finds the only architecture that a text names, "" if it names none or several.
func architecture(text string) string {
	found := ""
	for _, w := range wordSeparators.Split(strings.ToLower(text), -1) {
		a := architectureWords[w]
		for rest, more := w, true; a == "" && more; { // linux_amd64, Linux_x86_64
			if _, rest, more = strings.Cut(rest, "_"); more {
				a = architectureWords[rest]
			}
		}
		if a != "" && found != "" && a != found {
			return ""
		}
		if a != "" {
			found = a
		}
	}
	return found
}

// DescribeErrorPage says why content looks like an error of a server or proxy instead of the file with that name, "" if
// it does not.
func DescribeErrorPage(head []byte, name string) string {
	text := strings.ToLower(string(bytes.TrimSpace(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")))))
	ext := path.Ext(name)
	if strings.HasPrefix(text, "<!doctype html") || strings.HasPrefix(text, "<html") ||
		strings.HasPrefix(text, "<head") {
		if ext == ".html" || ext == ".htm" {
			return ""
		}
		return "it is HTML, perhaps a proxy's, login or error page"
	}
	if ext != ".xml" && strings.HasPrefix(text, "<?xml") && strings.Contains(text, "<error>") {
		return "it is an object store's error: " + OneLine(string(head))
	}
	if magic := ArchiveMagic[ext]; magic != "" && !strings.HasPrefix(string(head), magic) && printable(head) {
		return "it is text and not a " + ext + ": " + OneLine(string(head))
	}
	return ""
}

// ArchiveMagic are the first bytes of archives, by file name extension.
var ArchiveMagic = map[string]string{
	".gz": "\x1f\x8b", ".tgz": "\x1f\x8b", ".zip": "PK", ".xz": "\xfd7zXZ\x00", ".zst": "\x28\xb5\x2f\xfd",
	".deb": "!<arch>", ".rpm": "\xed\xab\xee\xdb",
}

func printable(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c < ' ' && c != '\n' && c != '\r' && c != '\t' })
}

// ServerMessage turns a server's error into one short line: the message in a registry's JSON, or the text. HTML gives
// "".
func ServerMessage(contentType string, body []byte) string {
	if m := registryMessage(body); m != "" {
		return OneLine(m)
	}
	if strings.Contains(contentType, "html") || DescribeErrorPage(body, "") != "" {
		return ""
	}
	return OneLine(string(body))
}

// OneLine makes one printable line of at most 200 bytes of a foreign text.
func OneLine(s string) string {
	s = strings.Join(
		strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\u2028' || r == '\ufffd' }),
		" ",
	)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// registryMessage returns the first message of a registry's error (OCI distribution specification, "Error Codes"), ""
// if body is not such an error.
func registryMessage(body []byte) string {
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return cmp.Or(doc.Errors[0].Message, doc.Errors[0].Code)
}
