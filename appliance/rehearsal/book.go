// Package rehearsal records which questions clients asked while an install was rehearsed, and how they were answered:
// the transcript, which a bundle carries and replay asks again.
//
// It promises: each distinct question is kept once, with its last answer, which is that of the content that the bundle
// has. A question is in the file when its client has the answer; after a crash the rest is read back. No address,
// credential or content of a client is written. The number of questions is bounded, and what is not recorded is
// counted.
package rehearsal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"casemate/bundle"
	"casemate/bundle/digests"
)

const (
	maxLine = 64 << 10 // bytes of a line in the file
	maxFile = 256 << 20
	maxGaps = 4096
)

// Reasons why a request is not in the transcript.
const (
	NotRead   = "only GET and HEAD can be asked again: it needs the server itself (git, for example)"
	NotServed = "its name is not an origin"
	Invalid   = "its address is not a valid one"
)

// Gap is something that was asked and is not recorded.
type Gap struct {
	Name  string `json:"name"` // method, host and path
	Why   string `json:"why"`
	Count int    `json:"count"`
}

// Book is an open record. Its methods are safe for concurrent use. Close must be called.
type Book struct {
	own string // the cluster's zone, whose names differ elsewhere
	log *slog.Logger

	mu        sync.Mutex
	file      *os.File
	size      int64
	questions map[key]bundle.Question
	gaps      map[string]*Gap
	contents  map[string]string // the newest content of each URL, whatever the method and Accept
	moved     map[string]bool   // URLs whose content was another one before
	lost      int               // questions that found no place
	err       error             // of the file
}

type key struct{ url, method, accept, held string }

func keyOf(q *bundle.Question) key { return key{q.URL, q.Method, q.Accept, q.Held} }

// Open reads the record at path, or begins one. domain is the cluster's own zone. A line that a crash has cut is
// dropped; a damaged one is an error.
func Open(path, domain string, log *slog.Logger) (*Book, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	b := &Book{own: domain, log: log, file: f, questions: map[key]bundle.Question{}, gaps: map[string]*Gap{},
		contents: map[string]string{}, moved: map[string]bool{}}
	if err := b.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("the record of the rehearsal, %s: %w", path, err)
	}
	return b, nil
}

func (b *Book) read() error {
	in := bufio.NewReaderSize(io.LimitReader(b.file, maxFile), maxLine)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break // a line without its end was being written during a crash
		}
		if err != nil {
			return fmt.Errorf("line %d: longer than %d bytes", n, maxLine)
		}
		var q bundle.Question
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&q); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := q.Check(); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		b.size += int64(len(line))
		b.keep(q)
	}
	if err := b.file.Truncate(b.size); err != nil {
		return err
	}
	_, err := b.file.Seek(b.size, io.SeekStart)
	return err
}

// keep reports whether q says something new.
func (b *Book) keep(q bundle.Question) bool {
	old, known := b.questions[keyOf(&q)]
	if !known && len(b.questions) >= bundle.MaxQuestions {
		b.lost++
		return false
	}
	if known {
		q.Client = old.Client
		if q.Digest == "" && q.Status == old.Status {
			q.Digest, q.Size = old.Digest, old.Size // the answer was sent before its end was known
		}
	}
	if q.Digest != "" {
		if before := b.contents[q.URL]; before != "" && before != q.Digest {
			b.moved[q.URL] = true
		}
		b.contents[q.URL] = q.Digest
	}
	b.questions[keyOf(&q)] = q
	return !known || old != q
}

// Record records a request and its answer. service is what answered: "registry" and "files" have content.
func (b *Book) Record(service string, r *http.Request, status int, answer http.Header) {
	host := strings.ToLower(strings.TrimSuffix(r.Host, "."))
	switch {
	case service == "pages", r.URL.Path == "/token", b.ours(host):
		return
	case service == "none":
		b.miss(r, NotServed)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		b.miss(r, NotRead)
		return
	}
	q, ok := question(r, host, status, answer)
	if !ok {
		return
	}
	if q.Check() != nil {
		b.miss(r, Invalid)
		return
	}
	line, err := json.Marshal(&q)
	if err != nil {
		return // a question has strings and numbers only
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil || !b.keep(q) || b.err != nil {
		return
	}
	if b.size += int64(len(line)) + 1; b.size > maxFile {
		b.err = fmt.Errorf("the record has reached %d bytes, nothing more is written", int64(maxFile))
	} else {
		_, b.err = b.file.Write(append(line, '\n'))
	}
	if b.err != nil {
		b.log.Error("the rehearsal is not recorded", "err", b.err)
	}
}

// ours reports a name of the rehearsal's own zone, or an address.
func (b *Book) ours(host string) bool {
	if at, err := netip.ParseAddrPort(host); err == nil && at.IsValid() {
		return true
	}
	host, _, _ = strings.Cut(host, ":")
	_, err := netip.ParseAddr(host)
	return err == nil || host == "" || host == b.own || strings.HasSuffix(host, "."+b.own)
}

// question describes a request and its answer; false if the answer is not the same the next time.
func question(r *http.Request, host string, status int, answer http.Header) (q bundle.Question, ok bool) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	q = bundle.Question{
		Method: r.Method, URL: bundle.WithoutCredentials(scheme + "://" + host + r.URL.RequestURI()), Client: clientOf(r.UserAgent()),
		Status: status,
	}
	q.Digest = bundle.DigestIn(answer)
	if n, err := strconv.ParseInt(answer.Get("Content-Length"), 10, 64); err == nil && n > 0 {
		q.Size = n
	}
	if strings.Contains(r.URL.Path, "/manifests/") {
		q.Accept = strings.Join(r.Header.Values("Accept"), ", ")
	}
	if listing(r.URL.Path) {
		q.Digest, q.Size = "", 0
	}
	switch status {
	case http.StatusOK:
	case http.StatusPartialContent:
		q.Status, q.Size = http.StatusOK, 0
		if _, total, found := strings.Cut(answer.Get("Content-Range"), "/"); found {
			if n, err := strconv.ParseInt(total, 10, 64); err == nil && n > 0 {
				q.Size = n
			}
		}
	case http.StatusNotModified:
		q.Held, q.Size = strings.Trim(r.Header.Get("If-None-Match"), `"`), 0
		if digests.Check(q.Held) != nil { // it was a date, or another server's tag
			q.Held, q.Status = "", http.StatusOK
		}
	case http.StatusNotFound, http.StatusGone:
		q.Digest, q.Size = "", 0
	default:
		to, err := url.Parse(answer.Get("Location"))
		if err != nil || status < 300 || status > 399 {
			return q, false
		}
		to = r.URL.ResolveReference(to)
		if to.Host == "" {
			to.Scheme, to.Host = scheme, host
		}
		to.RawQuery, to.ForceQuery, to.Fragment, to.User = "", false, "", nil
		q.Location, q.Digest, q.Size = to.String(), "", 0
	}
	return q, true
}

// listing reports a path whose answer lists what there is, which grows: only its status is the same again.
func listing(path string) bool {
	return strings.HasPrefix(path, "/v2/") && (strings.HasSuffix(path, "/tags/list") ||
		strings.HasSuffix(path, "/_catalog") || strings.Contains(path, "/referrers/"))
}

// programs are the known clients, as their User-Agent begins. Others are not written: a User-Agent may be anything.
var programs = []string{
	"containerd", "docker", "buildkit", "cri-o", "podman", "skopeo", "crane", "go-containerregistry", "nerdctl", "helm",
	"oras", "curl", "wget", "debian apt-http", "libdnf", "pip", "uv", "ansible-httpget", "git", "go-http-client",
	"python-urllib",
}

func clientOf(agent string) string {
	agent = strings.ToLower(agent)
	for _, p := range programs {
		if strings.HasPrefix(agent, p) {
			return p
		}
	}
	return ""
}

// miss counts what is not recorded. The query is left out: it may be the credential.
func (b *Book) miss(r *http.Request, why string) {
	name := fmt.Sprintf("%.16s %.253s%.512s", r.Method, r.Host, r.URL.EscapedPath())
	b.mu.Lock()
	defer b.mu.Unlock()
	switch g := b.gaps[name]; {
	case g != nil:
		g.Count++
	case len(b.gaps) < maxGaps:
		b.gaps[name] = &Gap{Name: name, Why: why, Count: 1}
	default:
		b.lost++
	}
}

// Questions returns the transcript, in the order of bundle.CompareQuestions.
func (b *Book) Questions() []bundle.Question {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]bundle.Question, 0, len(b.questions))
	for _, q := range b.questions {
		list = append(list, q)
	}
	slices.SortFunc(list, func(x, y bundle.Question) int { return bundle.CompareQuestions(&x, &y) })
	return list
}

// Notes say what the transcript does not have since this process began, one sentence each.
func (b *Book) Notes() (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.gaps {
		list = append(list, fmt.Sprintf("%s is not in the transcript: %s", g.Name, g.Why))
	}
	for u := range b.moved {
		list = append(list, u+" had several contents during the rehearsal: the transcript has the last one")
	}
	slices.Sort(list)
	if b.lost > 0 {
		list = append(list, fmt.Sprintf("%d requests were too many to be recorded", b.lost))
	}
	if b.err != nil {
		list = append(list, "the record of the rehearsal could not be written: "+b.err.Error())
	}
	return list
}

// Close closes the file.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file = nil
	return err
}
