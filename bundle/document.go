package bundle

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"casemate/bundle/canonical"
	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// MaxContent bounds the size of all blobs together, so that sums and offsets cannot overflow.
const MaxContent = 1 << 60

var (
	repositoryForm = regexp.MustCompile(
		`^((localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|\[[0-9a-fA-F:]+\]|[A-Za-z0-9-]+:[0-9]+)(:[0-9]{1,5})?/)?` +
			`[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`,
	)
	tagForm       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	mediaTypeForm = regexp.MustCompile(
		`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`,
	)
)

// Encode sorts the lists, checks the document and writes it in its canonical form. The digest of the result is the ID
// of the bundle.
func (ix *Index) Encode() ([]byte, error) {
	slices.SortFunc(ix.Images, func(a, b Image) int { return CompareImages(&a, &b) })
	slices.SortFunc(ix.Files, func(a, b File) int { return cmp.Compare(a.URL, b.URL) })
	slices.SortFunc(ix.Blobs, func(a, b Blob) int { return cmp.Compare(a.Digest, b.Digest) })
	for i := range ix.Images {
		slices.Sort(ix.Images[i].Platforms)
	}
	slices.SortFunc(ix.Redirects, func(a, b Redirect) int { return cmp.Compare(a.From, b.From) })
	if ix.Version < 1 || ix.Version > IndexVersion {
		return nil, fmt.Errorf("index: version must be between 1 and %d, got %d", IndexVersion, ix.Version)
	}
	if ix.Version = 1; len(ix.Redirects) > 0 {
		ix.Version = 2
	}
	if len(ix.Unverified) > 0 {
		ix.Version = 3
	}
	if len(ix.Questions) > 0 {
		ix.Version = 4
	}
	if err := ix.checkQuestions(); err != nil {
		return nil, err
	}
	slices.SortFunc(ix.Unverified, func(a, b Unverified) int { return cmp.Compare(a.URL, b.URL) })
	for i := range ix.Unverified {
		if err := checkUnverified(previous(ix.Unverified, i), &ix.Unverified[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(ix.Absent, func(a, b Absent) int { return cmp.Compare(a.Name, b.Name) })
	for i := range ix.Absent {
		if err := checkAbsent(previous(ix.Absent, i), &ix.Absent[i]); err != nil {
			return nil, err
		}
	}
	for i := range ix.Images {
		if err := checkImage(previous(ix.Images, i), &ix.Images[i]); err != nil {
			return nil, err
		}
	}
	for i := range ix.Files {
		if err := checkFile(previous(ix.Files, i), &ix.Files[i]); err != nil {
			return nil, err
		}
	}
	for i := range ix.Blobs {
		if err := checkBlob(previous(ix.Blobs, i), &ix.Blobs[i]); err != nil {
			return nil, err
		}
	}
	for i := range ix.Redirects {
		if err := checkRedirect(previous(ix.Redirects, i), &ix.Redirects[i]); err != nil {
			return nil, err
		}
	}
	if err := ix.checkReferences(); err != nil {
		return nil, err
	}
	var l canonical.Buffer
	fmt.Fprintf(&l, `{"version":%d`, ix.Version)
	if err := errors.Join(
		canonical.WriteList(&l, `,"images":`, ix.Images),
		canonical.WriteList(&l, `,"files":`, ix.Files),
		canonical.WriteList(&l, `,"blobs":`, ix.Blobs)); err != nil {
		return nil, err
	}
	if ix.Since != "" {
		fmt.Fprintf(&l, `,"since":%q`, ix.Since)
	}
	if len(ix.Absent) > 0 {
		if err := canonical.WriteList(&l, `,"absent":`, ix.Absent); err != nil {
			return nil, err
		}
	}
	if len(ix.Redirects) > 0 {
		if err := canonical.WriteList(&l, `,"redirects":`, ix.Redirects); err != nil {
			return nil, err
		}
	}
	if len(ix.Unverified) > 0 {
		if err := canonical.WriteList(&l, `,"unverified":`, ix.Unverified); err != nil {
			return nil, err
		}
	}
	if len(ix.Questions) > 0 {
		if err := canonical.WriteList(&l, `,"questions":`, ix.Questions); err != nil {
			return nil, err
		}
	}
	l.WriteString("}\n")
	if l.Len() > canonical.MaxDocument {
		return nil, fmt.Errorf(
			"index: %d bytes long, more than %d: make several bundles",
			l.Len(),
			canonical.MaxDocument,
		)
	}
	return l.Bytes(), nil
}

func previous[T any](list []T, i int) *T {
	if i == 0 {
		return nil
	}
	return &list[i-1]
}

// DecodeIndex reads an index document. It refuses every form but the canonical one, unsorted or repeated entries,
// invalid names and digests, and names without their blob.
func DecodeIndex(b []byte) (*Index, error) {
	ix, err := decodeIndex(b)
	if err != nil {
		return nil, fmt.Errorf("index document: %w", err)
	}
	return ix, nil
}

func decodeIndex(b []byte) (*Index, error) {
	if len(b) > canonical.MaxDocument {
		return nil, fmt.Errorf("%d bytes long, more than %d", len(b), canonical.MaxDocument)
	}
	c := &canonical.Cursor{Doc: b}
	if err := c.Version("the bundle's index", IndexVersion); err != nil {
		return nil, err
	}
	ix := &Index{Version: 1}
	for !bytes.HasPrefix(b, fmt.Appendf(nil, `{"version":%d,`, ix.Version)) { // one of them, as was checked
		ix.Version++
	}
	var err error
	if ix.Images, err = canonical.ReadList(c, `,"images":`, checkImage); err != nil {
		return nil, err
	}
	if ix.Files, err = canonical.ReadList(c, `,"files":`, checkFile); err != nil {
		return nil, err
	}
	if ix.Blobs, err = canonical.ReadList(c, `,"blobs":`, checkBlob); err != nil {
		return nil, err
	}
	if c.Skip(`,"since":`) {
		if ix.Since, err = c.String(); err != nil {
			return nil, err
		}
		if ix.Since == "" {
			return nil, errors.New("since is empty")
		}
	}
	if bytes.HasPrefix(c.Rest(), []byte(`,"absent":`)) {
		if ix.Absent, err = canonical.ReadList(c, `,"absent":`, checkAbsent); err != nil {
			return nil, err
		}
		if len(ix.Absent) == 0 {
			return nil, errors.New("absent is empty")
		}
	}
	if ix.Version == 2 || ix.Version > 2 && bytes.HasPrefix(c.Rest(), []byte(`,"redirects":`)) {
		if ix.Redirects, err = canonical.ReadList(c, `,"redirects":`, checkRedirect); err != nil {
			return nil, err
		}
		if len(ix.Redirects) == 0 {
			return nil, errors.New("redirects is empty, which is another version")
		}
	}
	if ix.Version == 3 || ix.Version > 3 && bytes.HasPrefix(c.Rest(), []byte(`,"unverified":`)) {
		if ix.Unverified, err = canonical.ReadList(c, `,"unverified":`, checkUnverified); err != nil {
			return nil, err
		}
		if len(ix.Unverified) == 0 {
			return nil, errors.New("unverified is empty, which is an older version")
		}
	}
	if ix.Version >= 4 {
		if ix.Questions, err = canonical.ReadList(c, `,"questions":`, checkQuestion); err != nil {
			return nil, err
		}
		if len(ix.Questions) == 0 {
			return nil, errNoQuestions
		}
	}
	if err := c.Expect("}\n"); err != nil {
		return nil, err
	}
	if len(c.Rest()) > 0 {
		return nil, fmt.Errorf("byte %d: more than one document", c.Offset)
	}
	return ix, ix.checkReferences()
}

// checkReferences checks what a single element cannot show: that the blob of each name is listed.
func (ix *Index) checkReferences() error {
	if ix.Since != "" {
		if err := digests.Check(ix.Since); err != nil {
			return fmt.Errorf("since: %w", err)
		}
	}
	var total int64
	for _, b := range ix.Blobs {
		if b.Omitted && ix.Since == "" {
			return fmt.Errorf("blob %s is omitted, but since names no inventory", b.Digest)
		}
		if total += b.Size; total > MaxContent {
			return fmt.Errorf("more than %d bytes of blobs", int64(MaxContent))
		}
	}
	if len(ix.Questions) > MaxQuestions {
		return fmt.Errorf("%d questions, at most %d are possible", len(ix.Questions), MaxQuestions)
	}
	if len(ix.Redirects) > MaxRedirects {
		return fmt.Errorf("%d redirects, at most %d are possible", len(ix.Redirects), MaxRedirects)
	}
	for _, r := range ix.Redirects {
		if _, ok := slices.BinarySearchFunc(ix.Files, r.From, func(f File, url string) int {
			return cmp.Compare(f.URL, url)
		}); ok {
			return fmt.Errorf("%s is a file and a redirect", r.From)
		}
	}
	for _, m := range ix.Images {
		if _, ok := ix.Blob(m.Digest); !ok {
			return fmt.Errorf("image %s: %s is not among the blobs", m.Ref(), m.Digest)
		}
	}
	for _, f := range ix.Files {
		switch b, ok := ix.Blob(f.Digest); {
		case !ok:
			return fmt.Errorf("file %s: %s is not among the blobs", f.URL, f.Digest)
		case b.Size != f.Size:
			return fmt.Errorf("file %s: has %d bytes, its blob %d", f.URL, f.Size, b.Size)
		}
	}
	return nil
}

// Blob finds a blob in a sorted index.
func (ix *Index) Blob(digest string) (Blob, bool) {
	i, ok := slices.BinarySearchFunc(ix.Blobs, digest, func(b Blob, d string) int { return cmp.Compare(b.Digest, d) })
	if !ok {
		return Blob{}, false
	}
	return ix.Blobs[i], true
}

// Ref returns the reference of the image: REPOSITORY:TAG, or REPOSITORY@DIGEST without a tag.
func (m *Image) Ref() string {
	if m.Tag == "" {
		return m.Repository + "@" + m.Digest
	}
	return m.Repository + ":" + m.Tag
}

// CompareImages orders by repository and tag; images without a tag come first, ordered by digest.
func CompareImages(a, b *Image) int {
	if c := cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Tag, b.Tag)); c != 0 || a.Tag != "" {
		return c
	}
	return cmp.Compare(a.Digest, b.Digest)
}

func checkImage(prev, m *Image) error {
	if len(m.Repository) > 255 || !repositoryForm.MatchString(m.Repository) {
		return fmt.Errorf("image: %.300q is not a repository", m.Repository)
	}
	if m.Tag != "" && !tagForm.MatchString(m.Tag) {
		return fmt.Errorf("image %s: %.200q is not a tag", m.Repository, m.Tag)
	}
	if err := digests.Check(m.Digest); err != nil {
		return fmt.Errorf("image %s: %w", m.Repository, err)
	}
	if !mediaTypeForm.MatchString(m.MediaType) {
		return fmt.Errorf("image %s: %.300q is not a media type", m.Ref(), m.MediaType)
	}
	if m.Size < 0 || m.Size > MaxContent {
		return fmt.Errorf("image %s: size must be between 0 and %d, got %d", m.Ref(), int64(MaxContent), m.Size)
	}
	for i, p := range m.Platforms {
		if !oci.ValidPlatform(p) {
			return fmt.Errorf("image %s: %.200q is not a platform", m.Ref(), p)
		}
		if i > 0 && m.Platforms[i-1] >= p {
			return fmt.Errorf(
				"image %s: platforms %s and %s are repeated or out of order",
				m.Ref(),
				m.Platforms[i-1],
				p,
			)
		}
	}
	if prev != nil && CompareImages(prev, m) >= 0 {
		return fmt.Errorf("images %s and %s are repeated or out of order", prev.Ref(), m.Ref())
	}
	return m.Provenance.check(m.Ref())
}

func checkURL(raw string, most int) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return fmt.Errorf("%.300q is not a URL: %w", raw, err)
	case u.Scheme != "https" && u.Scheme != "http",
		u.Hostname() == "",
		u.Fragment != "",
		u.User != nil,
		u.Opaque != "",
		len(raw) > most,
		strings.ContainsFunc(
			raw,
			func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"\\<>#", r) },
		):
		return fmt.Errorf(
			"%.300q is not an http or https URL of at most %d printable ASCII characters without user and fragment",
			raw,
			most,
		)
	}
	return nil
}

func checkFile(prev, f *File) error {
	if err := checkURL(f.URL, 8192); err != nil {
		return fmt.Errorf("file: %w", err)
	}
	if err := digests.Check(f.Digest); err != nil {
		return fmt.Errorf("file %s: %w", f.URL, err)
	}
	if f.Size < 0 || f.Size > oci.MaxBlob {
		return fmt.Errorf("file %s: size must be between 0 and %d, got %d", f.URL, int64(oci.MaxBlob), f.Size)
	}
	if prev != nil && prev.URL >= f.URL {
		return fmt.Errorf("files %s and %s are repeated or out of order", prev.URL, f.URL)
	}
	return f.Provenance.check(f.URL)
}

func checkRedirect(prev, r *Redirect) error {
	for _, u := range []string{r.From, r.To} {
		if err := checkURL(u, 2048); err != nil {
			return fmt.Errorf("redirect: %w", err)
		}
	}
	switch {
	case r.From == r.To:
		return fmt.Errorf("redirect: %s leads to itself", r.From)
	case prev != nil && prev.From >= r.From:
		return fmt.Errorf("redirects %s and %s are repeated or out of order", prev.From, r.From)
	}
	return nil
}

func checkBlob(prev, b *Blob) error {
	if err := digests.Check(b.Digest); err != nil {
		return err
	}
	if b.Size < 0 || b.Size > oci.MaxBlob {
		return fmt.Errorf("blob %s: size must be between 0 and %d, got %d", b.Digest, int64(oci.MaxBlob), b.Size)
	}
	if prev != nil && prev.Digest >= b.Digest {
		return fmt.Errorf("blobs %s and %s are repeated or out of order", prev.Digest, b.Digest)
	}
	return nil
}

func checkAbsent(prev, a *Absent) error {
	for _, s := range []string{a.Name, a.Why} {
		if s == "" || len(s) > 8192 || !utf8.ValidString(s) ||
			strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("absent: %.200q is empty, longer than 8192 bytes or not printable", s)
		}
	}
	if prev != nil && prev.Name >= a.Name {
		return fmt.Errorf("absent %s and %s are repeated or out of order", prev.Name, a.Name)
	}
	return nil
}

func checkUnverified(prev, u *Unverified) error {
	if err := checkURL(u.URL, 8192); err != nil {
		return fmt.Errorf("unverified: %w", err)
	}
	if u.Why == "" || len(u.Why) > 8192 || !utf8.ValidString(u.Why) ||
		strings.ContainsFunc(u.Why, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("unverified: the reason %.200q is empty, longer than 8192 bytes or not printable", u.Why)
	}
	if prev != nil && prev.URL >= u.URL {
		return fmt.Errorf("unverified %s and %s are repeated or out of order", prev.URL, u.URL)
	}
	return nil
}

func (t *Provenance) check(of string) error {
	if len(t.From) > 8192 || !utf8.ValidString(t.From) ||
		strings.ContainsFunc(t.From, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%s: from %.200q is longer than 8192 bytes or not printable", of, t.From)
	}
	if t.On != "" {
		if d, err := time.Parse(time.DateOnly, t.On); err != nil || d.Format(time.DateOnly) != t.On {
			return fmt.Errorf("%s: on must be a day like 2006-01-02, got %.40q", of, t.On)
		}
	}
	return nil
}
