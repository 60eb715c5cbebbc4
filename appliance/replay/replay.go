// Package replay asks the questions of a transcript again, as the clients did: the name in DNS, then TLS for that name,
// then the request. It compares the answers with the recorded ones.
//
// It promises: nothing is sent to another address than those that the resolver has answered, and what a transcript has
// is asked at the usual ports of public names alone: a transcript may be somebody else's. No content is downloaded: a
// request for it ends after the answer's header. The number of requests at once is bounded.
package replay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"casemate/bundle"
	"casemate/bundle/lists"
)

const (
	atOnce   = 8
	patience = 30 * time.Second // for the header of one answer
)

// Config says where questions are asked.
type Config struct {
	// Resolver is "address:port" of the DNS server; "": the machine's own.
	Resolver string
	// Roots are trusted for TLS; nil: the system's.
	Roots *x509.CertPool
	// Follow follows redirects before an answer is compared: for names of a list, of which nobody has recorded how they
	// are answered.
	Follow bool
	// Dial makes the connections, to an address; nil: a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Difference is a question whose answer is not the recorded one.
type Difference struct {
	Question bundle.Question `json:"question"`
	Why      string          `json:"why"`
	Cure     string          `json:"cure"`
}

// Ask asks all questions and returns the differences, in the order of the questions.
func Ask(ctx context.Context, questions []bundle.Question, cfg Config) ([]Difference, error) {
	client := cfg.client()
	defer client.CloseIdleConnections()
	found := make([]*Difference, len(questions))
	next := make(chan int)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				found[i] = ask(ctx, client, questions[i], cfg.Follow)
			}
		})
	}
feed:
	for i := range questions {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	list := []Difference{}
	for _, d := range found {
		if d != nil {
			list = append(list, *d)
		}
	}
	return list, nil
}

func (c Config) client() *http.Client {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: patience}).DialContext
	}
	resolver := net.DefaultResolver
	if c.Resolver != "" {
		resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, c.Resolver)
		}}
	}
	var redirect func(*http.Request, []*http.Request) error // nil: ten are followed
	if !c.Follow {
		redirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return &http.Client{
		CheckRedirect: redirect,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: c.Roots}, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConnsPerHost: atOnce, ResponseHeaderTimeout: patience, TLSHandshakeTimeout: patience,
			MaxResponseHeaderBytes: 64 << 10,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				addrs, err := resolver.LookupHost(ctx, host+".")
				if err != nil {
					return nil, err
				}
				for _, a := range addrs {
					var conn net.Conn
					if conn, err = dial(ctx, network, net.JoinHostPort(a, port)); err == nil {
						return conn, nil
					}
				}
				return nil, err
			},
		},
	}
}

// Manifest is the Accept of clients of images.
const Manifest = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

// Listed returns the questions of clients that want what lists name.
func Listed(w *lists.Wanted) (questions []bundle.Question) {
	for _, i := range w.Images {
		host, repository, _ := strings.Cut(i.Repository, "/")
		if host == "docker.io" {
			host = "registry-1.docker.io"
		}
		for _, reference := range []string{i.Tag, i.Digest} {
			if reference != "" {
				questions = append(questions, bundle.Question{
					Method: http.MethodGet, URL: "https://" + host + "/v2/" + repository + "/manifests/" + reference,
					Accept: Manifest, Status: http.StatusOK, Digest: i.Digest})
			}
		}
	}
	for _, f := range w.Files {
		q := bundle.Question{Method: http.MethodGet, URL: f.URL, Status: http.StatusOK}
		if strings.HasPrefix(f.Digest, "sha256:") { // that of other algorithms is not in an answer
			q.Digest = f.Digest
		}
		questions = append(questions, q)
	}
	return questions
}

// ask asks one question; nil if the answer is the same.
func ask(ctx context.Context, client *http.Client, q bundle.Question, follow bool) *Difference {
	differs := func(cure, format string, args ...any) *Difference {
		return &Difference{Question: q, Why: fmt.Sprintf(format, args...), Cure: cure}
	}
	u, err := url.Parse(q.URL)
	if err != nil {
		return differs("", "%v", err)
	}
	host := u.Hostname()
	if !follow && !public(u) {
		return differs("take it out of the transcript",
			"it was not asked: %.300s is no public name with the usual port", u.Host)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel() // ends the body
	req, err := http.NewRequestWithContext(ctx, q.Method, q.URL, nil)
	if err != nil {
		return differs("", "%v", err)
	}
	if q.Accept != "" {
		req.Header.Set("Accept", q.Accept)
	}
	if q.Held != "" {
		req.Header.Set("If-None-Match", `"`+q.Held+`"`)
	}
	resp, err := client.Do(req)
	if err != nil {
		return failed(differs, host, err)
	}
	resp.Body.Close()
	was, load := "was", "import the bundle of this transcript, or see \"casemate check\""
	if follow {
		was, load = "should be", "import a bundle with it, or see \"casemate check\""
	}
	if resp.StatusCode != q.Status {
		switch resp.StatusCode {
		case http.StatusMisdirectedRequest:
			load = "casemate origin add " + host
		case http.StatusUnauthorized, http.StatusForbidden:
			load = "casemate config set registry.anonymous pull"
		}
		return differs(load, "the answer is %d, and %s %d", resp.StatusCode, was, q.Status)
	}
	if got := bundle.DigestIn(resp.Header); q.Digest != "" && got != "" && got != q.Digest {
		return differs(load, "the content is %s, and %s %s", got, was, q.Digest)
	}
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && q.Size > 0 && n != q.Size {
		return differs(load, "the content has %d bytes, and had %d", n, q.Size)
	}
	if q.Location != "" {
		to, err := resp.Location()
		if err != nil {
			return differs(load, "the redirect leads nowhere, and led to %s", q.Location)
		}
		to.RawQuery, to.Fragment = "", ""
		if to.String() != q.Location {
			return differs(load, "the redirect leads to %.300s, and led to %s", to, q.Location)
		}
	}
	return nil
}

// public reports whether a URL is one that a rehearsal records: of a host with a domain, at the port of its scheme.
// Others may be services of this machine.
func public(u *url.URL) bool {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	_, err := netip.ParseAddr(host)
	switch usual := map[string]string{"http": "80", "https": "443"}[u.Scheme]; {
	case u.Port() != "" && u.Port() != usual, err == nil, last == host, last == "localhost", last == "":
		return false
	}
	return last[0] < '0' || last[0] > '9' // 127.1 is an address for some resolvers
}

// failed describes a question without an answer.
func failed(differs func(cure, format string, args ...any) *Difference, host string, err error) *Difference {
	var dns *net.DNSError
	var verify *tls.CertificateVerificationError
	var alert tls.AlertError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return differs("casemate origin add "+host, "the name %s does not exist in DNS", host)
	case errors.As(err, &dns):
		return differs("ask the bastions: --resolver ADDRESS", "the name %s cannot be resolved: %v", host, dns)
	case errors.As(err, &verify):
		return differs("trust the bastions: --ca FILE, or enroll this machine",
			"the certificate for %s is not trusted: %v", host, verify.Err)
	case errors.As(err, &alert), strings.Contains(err.Error(), "remote error: tls"):
		return differs("casemate origin add "+host, "there is no certificate for %s", host)
	}
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	return differs("look whether the bastions run: casemate status", "%v", err)
}
