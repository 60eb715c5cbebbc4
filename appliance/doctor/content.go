package doctor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"casemate/cluster/tree"
)

// Sample is the content that a bastion proposes for the checks: GET /doctor.json. A field is empty if the bastion has
// nothing suitable.
type Sample struct {
	Image string `json:"image,omitempty"` // a small image, "registry.k8s.io/pause:3.10"
	File  string `json:"file,omitempty"`  // the URL of a file of moderate size
	Large string `json:"large,omitempty"` // an image of some MiB
}

const (
	maxManifest = 4 << 20
	maxLayer    = 64 << 20 // larger layers are not pulled
	maxTransfer = 16 << 20 // how much of a large layer is read
	maxWhole    = 8 << 20  // how much of a file is compared
	minLarge    = 1 << 20
)

// stallTime is how long a body may deliver no data. Tests change it.
var stallTime = 5 * time.Second

// accept is the Accept header of containerd (core/remotes/docker/resolver.go).
var accept = strings.Join([]string{"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json", "*/*"}, ", ")

// ref is a parsed image name: the host to ask, and the repository there.
type ref struct{ host, repo, tag, digest string }

func (f ref) String() string {
	s := f.host + "/" + f.repo
	if f.tag != "" {
		s += ":" + f.tag
	}
	if f.digest != "" {
		s += "@" + f.digest
	}
	return s
}

// dockerHub is the host that clients ask for images of docker.io.
const dockerHub = "registry-1.docker.io"

// parseRef parses an image name; names of docker.io get the host that clients use for it.
func parseRef(s string) (f ref, err error) {
	rest, digest, _ := strings.Cut(s, "@")
	f.digest = digest
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, f.tag = rest[:i], rest[i+1:]
	}
	host, repo, found := strings.Cut(rest, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, repo = "docker.io", rest
	}
	if host == "docker.io" || host == "index.docker.io" || host == dockerHub {
		host = dockerHub
		if !strings.Contains(repo, "/") {
			repo = "library/" + repo
		}
	}
	if f.tag == "" && f.digest == "" {
		f.tag = "latest"
	}
	f.host, f.repo = host, repo
	ok := hostName(host) && !slices.ContainsFunc(strings.Split(repo, "/"), func(e string) bool {
		return !hostName(e) || strings.Trim(e, ".") == ""
	}) && (f.tag == "" || hostName(f.tag)) && (f.digest == "" || tree.ValidDigest(f.digest))
	if !ok {
		return f, fmt.Errorf("the image must be HOST/REPOSITORY:TAG or @DIGEST, got %q: %w", clip(s), fs.ErrInvalid)
	}
	return f, nil
}

// checkFile refuses a string that is not a URL.
func checkFile(s string) error {
	if u, err := url.Parse(s); s != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return fmt.Errorf("the file must be a URL, got %q: %w", clip(s), fs.ErrInvalid)
	}
	return nil
}

// propose asks the bastions once for content to check with.
func (r *run) propose(ctx context.Context) {
	if r.sample == (Sample{}) {
		for _, d := range r.open() {
			var s Sample
			if _, err := r.plain(ctx, d, "/doctor.json", maxManifest, &s); err == nil && s != (Sample{}) {
				r.sample = s
				break
			}
		}
		// The proposals come over plain HTTP. Their content is fetched over verified TLS later; here only their
		// syntax is checked.
		if _, err := parseRef(r.sample.Image); err != nil {
			r.sample.Image = ""
		}
		if _, err := parseRef(r.sample.Large); err != nil {
			r.sample.Large = ""
		}
		if checkFile(r.sample.File) != nil || !strings.HasPrefix(r.sample.File, "https://") {
			r.sample.File = ""
		}
	}
	r.sample.Image, r.sample.File = cmp.Or(r.cfg.Image, r.sample.Image), cmp.Or(r.cfg.File, r.sample.File)
}

// get sends a request to one bastion. The caller closes the body.
func get(ctx context.Context, c *http.Client, method, address string, header map[string]string) (*http.Response,
	error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	return c.Do(req)
}

// All bastions are asked concurrently; there are few.
func (r *run) eachEndpoint(ctx context.Context, f func(d *endpoint, c *http.Client)) {
	open := r.open()
	each(ctx, len(open), parallel, func(i int) {
		c := r.client(open[i])
		defer c.CloseIdleConnections()
		f(open[i], c)
	})
}

// checkRegistries checks that /v2/ answers without a challenge, so that clients do not request a token.
func (r *run) checkRegistries(ctx context.Context, c *Check) {
	names := r.site.Registries()
	if r.mirror {
		names = []string{"registry." + r.site.Domain}
	}
	r.eachEndpoint(ctx, func(d *endpoint, client *http.Client) {
		for _, n := range names {
			resp, err := get(ctx, client, http.MethodGet, "https://"+n+"/v2/", nil)
			v := values{"names": n, "name": n, "bastion": d.addr.String()}
			if err != nil {
				r.failGet(c, err, v)
				return // the other registries would fail in the same way
			}
			resp.Body.Close()
			v["detail"] = resp.Status
			switch {
			case resp.StatusCode == http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") != "":
				c.fail("challenge", v)
				return // the setting applies to all registries
			case resp.StatusCode != http.StatusOK:
				c.fail("registry-status", v)
			}
		}
	})
	c.Text = fmt.Sprintf("%d answer without a challenge", len(names))
	if r.mirror {
		c.Text = names[0] + " answers, with an anonymous token if one is required"
	}
	if len(c.Troubles) > 0 {
		c.Text = fmt.Sprintf("%d asked", len(names))
	}
}

// failGet reports a request that got no response or an incomplete one.
func (r *run) failGet(c *Check, err error, v values) {
	var stalled *stallError
	id, detail := r.explainTLS(err)
	switch {
	case errors.As(err, &stalled):
		id, detail = "stall", stalled.Error()
	case id == "tls-silent":
		id, detail = "stall", "no answer"
	case id == "tls-broken":
		if id = reachID(err); id == "unreachable" {
			id = "cut"
		}
	}
	v["detail"] = detail
	if id == "refused" || id == "unreachable" {
		v["detail"] = v["bastion"]
	}
	c.fail(id, v)
}

// descriptor is an entry of an index or a manifest.
type descriptor struct {
	Digest   string `json:"digest"`
	Size     int64  `json:"size"`
	Platform *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

type manifest struct {
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
}

// problem is a fault met during a pull: the id of a trouble, and the detail to fill in.
type problem struct{ id, detail string }

func (p *problem) Error() string { return p.id + ": " + p.detail }

// resolve gets the manifest of an image for this node's platform like containerd: HEAD by tag, then GET by digest.
func resolve(ctx context.Context, client *http.Client, f ref) (m manifest, err error) {
	base := "https://" + f.host + "/v2/" + f.repo + "/manifests/"
	want := f.digest
	if want == "" {
		resp, err := get(ctx, client, http.MethodHead, base+f.tag, map[string]string{"Accept": accept})
		if err != nil {
			return m, err
		}
		resp.Body.Close()
		if err := status200(resp, f.String()); err != nil {
			return m, err
		}
		if want = resp.Header.Get("Docker-Content-Digest"); !tree.ValidDigest(want) {
			return m, &problem{"registry-status", "no digest for " + f.String()}
		}
		byTag, err := manifestAt(ctx, client, base+f.tag, want)
		if err != nil {
			return m, err
		}
		byDigest, err := manifestAt(ctx, client, base+want, want)
		if err != nil {
			return m, err
		}
		if !bytes.Equal(byTag, byDigest) {
			return m, &problem{"digest", "the tag and its digest return different bytes"}
		}
	}
	for range 3 { // an index may contain an index; the depth is bounded because the bastion's response is not trusted
		data, err := manifestAt(ctx, client, base+want, want)
		if err != nil {
			return m, err
		}
		m = manifest{}
		if err := json.Unmarshal(data, &m); err != nil {
			return m, &problem{"registry-status", "a manifest that is not valid JSON"}
		}
		if len(m.Manifests) == 0 {
			return m, nil
		}
		i := slices.IndexFunc(m.Manifests, func(d descriptor) bool {
			return d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH
		})
		if i < 0 || !tree.ValidDigest(m.Manifests[i].Digest) {
			return m, &problem{"no-platform", "linux/" + runtime.GOARCH}
		}
		want = m.Manifests[i].Digest
	}
	return m, &problem{"registry-status", "indexes nested too deeply"}
}

// status200 returns a problem unless the status is 200.
func status200(resp *http.Response, name string) error {
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusNotFound:
		return &problem{"manifest-unknown", clip(resp.Status)}
	case http.StatusUnauthorized:
		return &problem{"challenge", clip(resp.Status)}
	}
	return &problem{"registry-status", clip(resp.Status) + " for " + name}
}

func manifestAt(ctx context.Context, client *http.Client, address, want string) ([]byte, error) {
	resp, err := get(ctx, client, http.MethodGet, address, map[string]string{"Accept": accept})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := status200(resp, address); err != nil {
		return nil, err
	}
	data, err := readUpTo(moving(resp.Body), maxManifest)
	if err != nil {
		return nil, err
	}
	if got := tree.Sum(data, want); got != want {
		return nil, &problem{"digest", "want " + want + ", got " + got}
	}
	return data, nil
}

// blob reads a blob, or the first bytes of a blob larger than most. It verifies the digest if it read the blob to its
// end.
func blob(ctx context.Context, client *http.Client, f ref, b descriptor, most int64) (int64, error) {
	resp, err := get(ctx, client, http.MethodGet, "https://"+f.host+"/v2/"+f.repo+"/blobs/"+b.Digest, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if err := status200(resp, b.Digest); err != nil {
		return 0, err
	}
	h := tree.NewHash(b.Digest)
	n, err := io.Copy(h, io.LimitReader(moving(resp.Body), most))
	if err != nil {
		return n, err
	}
	if got := tree.SumOf(b.Digest, h); n < most && got != b.Digest {
		return n, &problem{"digest", fmt.Sprintf("want %s of %d bytes, got %s of %d", b.Digest, b.Size, got, n)}
	}
	return n, nil
}

// failWith adds the fault of a pull or download to the check.
func (r *run) failWith(c *Check, err error, v values) {
	var p *problem
	if !errors.As(err, &p) {
		r.failGet(c, err, v)
		return
	}
	v["detail"], v["names"] = p.detail, v["name"]
	c.fail(p.id, v)
}

// checkPull pulls a small image from every bastion: by tag, by digest, its config and a layer.
func (r *run) checkPull(ctx context.Context, c *Check) {
	r.propose(ctx)
	if r.sample.Image == "" {
		c.State, c.Text = Skipped, "the bastions have no suitable image; name one with --image"
		return
	}
	f, err := parseRef(r.sample.Image)
	if err != nil {
		c.State, c.Text = Skipped, err.Error()
		return
	}
	f = r.asAsked(f)
	r.eachEndpoint(ctx, func(d *endpoint, client *http.Client) {
		m, err := resolve(ctx, client, f)
		if err == nil {
			small := slices.Clone(m.Layers)
			slices.SortFunc(small, func(a, b descriptor) int { return cmp.Compare(a.Size, b.Size) })
			for _, b := range append([]descriptor{m.Config}, small[:min(1, len(small))]...) {
				if err == nil && tree.ValidDigest(b.Digest) && b.Size <= maxLayer {
					_, err = blob(ctx, client, f, b, maxLayer+1)
				}
			}
		}
		if err != nil {
			r.failWith(c, err, values{"name": f.String(), "bastion": d.addr.String()})
		}
	})
	c.Text = f.String() + " by tag and by digest"
}

// checkFile downloads a file from every bastion, and a range of it, and compares the bytes.
func (r *run) checkFile(ctx context.Context, c *Check) {
	r.propose(ctx)
	if r.sample.File == "" {
		c.State, c.Text = Skipped, "the bastions have no suitable file; name one with --file"
		return
	}
	name := r.fileAsAsked(r.sample.File)
	r.eachEndpoint(ctx, func(d *endpoint, client *http.Client) {
		if err := ranged(ctx, client, name); err != nil {
			r.failWith(c, err, values{"name": name, "bastion": d.addr.String()})
		}
	})
	c.Text = name + ", whole and in part"
}

func ranged(ctx context.Context, client *http.Client, name string) error {
	address := "https://" + withoutScheme(name)
	resp, err := get(ctx, client, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &problem{"file-missing", clip(resp.Status)}
	}
	whole, err := io.ReadAll(io.LimitReader(moving(resp.Body), maxWhole))
	if err != nil {
		return err
	}
	if n := int64(len(whole)); resp.ContentLength >= 0 && n != min(resp.ContentLength, maxWhole) {
		return io.ErrUnexpectedEOF
	}
	if len(whole) == 0 {
		return nil // an empty file has no range
	}
	from, to := len(whole)/3, len(whole)/3*2
	part, err := get(ctx, client, http.MethodGet, address,
		map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", from, to)})
	if err != nil {
		return err
	}
	defer part.Body.Close()
	if part.StatusCode != http.StatusPartialContent {
		return &problem{"range", "status " + clip(part.Status)}
	}
	got, err := io.ReadAll(io.LimitReader(moving(part.Body), maxWhole))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, whole[from:to+1]) {
		return &problem{"range", fmt.Sprintf("bytes %d to %d differ", from, to)}
	}
	return nil
}

// checkTransfer reads some MiB from every bastion, one bastion at a time, to find faults that only large packets
// show.
func (r *run) checkTransfer(ctx context.Context, c *Check) {
	r.propose(ctx)
	f, err := parseRef(cmp.Or(r.sample.Large, r.sample.Image))
	if err != nil {
		c.State, c.Text = Skipped, "the bastions have no suitable large content"
		return
	}
	f = r.asAsked(f)
	var transfers []string
	for _, d := range r.open() {
		client := r.client(d)
		v := values{"name": f.String(), "bastion": d.addr.String()}
		begun := time.Now()
		m, err := resolve(ctx, client, f)
		var large descriptor
		for _, l := range m.Layers {
			if l.Size > large.Size && tree.ValidDigest(l.Digest) {
				large = l
			}
		}
		var n int64
		if err == nil && large.Size >= minLarge {
			n, err = blob(ctx, client, f, large, min(maxTransfer, large.Size+1))
		}
		client.CloseIdleConnections()
		switch {
		case err != nil:
			r.failWith(c, err, v)
		case n > 0:
			transfers = append(transfers, fmt.Sprintf("%.1f MiB in %s from %s", float64(n)/(1<<20),
				time.Since(begun).Round(10*time.Millisecond), d.addr))
		}
	}
	if c.Text = some(transfers); transfers == nil && len(c.Troubles) == 0 {
		c.State, c.Text = Skipped, "the bastions have no layer of 1 MiB or more"
	}
}

// stallError means that a body delivered no data for stallTime.
type stallError struct{ got int64 }

func (e *stallError) Error() string {
	return fmt.Sprintf("no data for %[2]s after %[1]d bytes", e.got, stallTime)
}

// moving returns a reader of body that fails when no data arrives for stallTime. A response that starts and then stalls
// is the symptom of lost large packets (a wrong MTU). A timer closes the body: the connection, which may carry other
// responses, is out of reach.
func moving(body io.ReadCloser) io.Reader { return &mover{body: body} }

type mover struct {
	body io.ReadCloser
	got  int64
	late atomic.Bool
}

func (m *mover) Read(p []byte) (int, error) {
	t := time.AfterFunc(stallTime, func() { m.late.Store(true); m.body.Close() })
	n, err := m.body.Read(p)
	t.Stop()
	m.got += int64(n)
	if err != nil && err != io.EOF && m.late.Load() {
		err = &stallError{m.got}
	}
	return n, err
}
