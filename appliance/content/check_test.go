package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"casemate/bundle/lists"
	"casemate/fileserver"
	"casemate/registry"
)

// shelf is a fake of everything that a check queries: a name that is not on it is a miss.
type shelf struct {
	t       *testing.T
	images  map[string]registry.Resolution // by repository:tag and repository@digest
	files   map[string]string              // URL → content
	luck    map[string]string              // URL → how it is answered instead
	tags    map[string][]string
	away    map[string]string // host → why it is not reached
	fail    error
	opened  []string
	missing string // the reason of a miss
}

func (s *shelf) Resolve(_ context.Context, repository, tag, digest string) (registry.Resolution, error) {
	name := repository + ":" + tag
	if digest != "" {
		name = repository + "@" + digest
	}
	if s.fail != nil {
		return registry.Resolution{}, s.fail
	}
	f, ok := s.images[name]
	if !ok {
		why := s.missing
		if why == "" {
			why = "not here"
		}
		return f, fmt.Errorf("image %s: %s: %w", name, why, fs.ErrNotExist)
	}
	if f.Repository == "" {
		f.Repository = repository
	}
	return f, nil
}

type shelfFiles struct{ *shelf }

func (s shelfFiles) Resolve(_ context.Context, url string) (fileserver.Info, string, error) {
	data, ok := s.files[url]
	if !ok {
		return fileserver.Info{}, "", fmt.Errorf("file %s: %w", url, fs.ErrNotExist)
	}
	return fileserver.Info{URL: url, Digest: sha256Of(data), Size: int64(len(data))}, s.luck[url], nil
}

func (s *shelf) open(_ context.Context, digest string) (io.ReadSeekCloser, error) {
	s.opened = append(s.opened, digest)
	for _, data := range s.files {
		if sha256Of(data) == digest {
			return nopCloser{bytes.NewReader([]byte(data))}, nil
		}
	}
	s.t.Errorf("the blob %s is opened, which nothing names", digest)
	return nil, fs.ErrNotExist
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func (s *shelf) checker() *Checker {
	return &Checker{Images: s, Files: shelfFiles{s}, Open: s.open,
		Tags: func(r string) []string { return s.tags[r] }, Unreached: func(host string) string { return s.away[host] }}
}

func sha256Of(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func sha512Of(s string) string {
	sum := sha512.Sum512([]byte(s))
	return "sha512:" + hex.EncodeToString(sum[:])
}

const (
	one   = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	two   = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
	three = "sha256:3333333333333333333333333333333333333333333333333333333333333333"
)

func TestCheckImages(t *testing.T) {
	amd, arm, v7 := "linux/amd64", "linux/arm64/v8", "linux/arm/v7"
	s := &shelf{t: t,
		images: map[string]registry.Resolution{
			"registry.k8s.io/pause:3.10": {Digest: one, Platforms: []string{amd, arm, v7, two}, Sparse: true,
				Absent: []string{"linux/s390x"}},
			"registry.k8s.io/pause@" + one: {Digest: one, Platforms: []string{amd, arm}},
			"quay.io/chart:1":              {Digest: one},
			"quay.io/plain:1":              {Digest: one, Platforms: []string{"linux/arm64"}},
			"quay.io/hollow:1":             {Digest: one, Sparse: true, Absent: []string{amd}},
			"quay.io/only:arm": {Digest: one, Platforms: []string{arm, two}, Sparse: true,
				Absent: []string{amd}},
			"quay.io/a/etcd:1": {Digest: one, Repository: "etcd", Luck: "answered by etcd:1",
				Platforms: []string{amd}},
			"quay.io/tagless@" + one:          {Digest: one},
			"quay.io/moved:1":                 {Digest: two},
			"quay.io/moved@" + one:            {Digest: one},
			"quay.io/other:1":                 {Digest: two},
			"charts.example:5000/there:1":     {Digest: one},
			"team/app:1":                      {Digest: one},
			"registry.casemate.internal/ok:1": {Digest: one},
		},
		tags: map[string][]string{"registry.k8s.io/pause": {"1.0", "3.10", "3.8", "3.9", "sha256-abc.sig"},
			"quay.io/tagless": {"0"}},
		away: map[string]string{"charts.example:5000": "charts.example is not an origin",
			"gone.example": "gone.example is not an origin"},
	}
	for _, c := range []struct {
		name      string
		w         lists.Image
		platforms []string
		want      *Finding // without what follows from w
	}{
		{"here, but not for all", lists.Image{Repository: "registry.k8s.io/pause", Tag: "3.10"}, nil,
			&Finding{Verdict: VerdictSparse, Detail: "other manifests that it lists are not stored",
				Platforms: []string{amd, arm,
					v7}}},
		{"here for all that is asked", lists.Image{Repository: "registry.k8s.io/pause", Tag: "3.10"},
			[]string{"linux/amd64", "linux/arm64", "linux/arm64/v8", "linux/arm", "linux/aarch64", "LINUX/x86_64"},
			nil},
		{"a variant that nobody writes", lists.Image{Repository: "quay.io/plain", Tag: "1"}, []string{"linux/arm64/v8"},
			nil},
		{"a local one has no host to reach", lists.Image{Repository: "team/app", Tag: "1"}, nil, nil},
		{"a chart is for every platform", lists.Image{Repository: "quay.io/chart", Tag: "1"}, []string{"linux/amd64"},
			nil},
		{"pinned and tagged", lists.Image{Repository: "registry.k8s.io/pause", Tag: "3.10", Digest: one}, nil, nil},
		{"the own name", lists.Image{Repository: "registry.casemate.internal/ok", Tag: "1"}, nil, nil},

		{"missing", lists.Image{Repository: "quay.io/x", Tag: "1"}, nil, &Finding{Verdict: VerdictMissing}},
		{"missing, with the likeliest tags", lists.Image{Repository: "registry.k8s.io/pause", Tag: "3.11"}, nil,
			&Finding{Verdict: VerdictMissing, Tags: []string{"3.10", "3.8", "3.9", "1.0"}}},
		{"another platform", lists.Image{Repository: "quay.io/only", Tag: "arm"}, []string{"linux/amd64"},
			&Finding{Verdict: VerdictPlatform, Detail: "not for linux/amd64", Platforms: []string{arm}}},
		{"another variant", lists.Image{Repository: "registry.k8s.io/pause", Tag: "3.10"}, []string{"linux/arm/v6"},
			&Finding{Verdict: VerdictPlatform, Detail: "not for linux/arm/v6", Platforms: []string{amd, arm, v7}}},
		{"an index alone", lists.Image{Repository: "quay.io/hollow", Tag: "1"}, nil,
			&Finding{Verdict: VerdictMissing, Detail: "its index is stored, but none of its manifests"}},
		{"an index alone, for a platform", lists.Image{Repository: "quay.io/hollow", Tag: "1"}, []string{amd},
			&Finding{Verdict: VerdictPlatform, Detail: "not for linux/amd64"}},
		{"luck", lists.Image{Repository: "quay.io/a/etcd", Tag: "1"}, nil,
			&Finding{Verdict: VerdictLuck, Detail: "answered by etcd:1"}},
		{"the digest without the tag", lists.Image{Repository: "quay.io/tagless", Tag: "1", Digest: one}, nil,
			&Finding{Verdict: VerdictMissing, Detail: "the pinned digest is stored, but without the tag",
				Tags: []string{"0"}}},
		{"the tag leads elsewhere", lists.Image{Repository: "quay.io/moved", Tag: "1", Digest: one}, nil,
			&Finding{Verdict: VerdictDigest, Detail: "the pinned digest is stored too, but without the tag", Want: one,
				Got: two}},
		{"another digest", lists.Image{Repository: "quay.io/other", Tag: "1", Digest: one}, nil,
			&Finding{Verdict: VerdictDigest, Want: one, Got: two}},
		{"a digest alone", lists.Image{Repository: "quay.io/other", Digest: three}, nil,
			&Finding{Verdict: VerdictMissing}},
		{"here and not reached", lists.Image{Repository: "charts.example:5000/there", Tag: "1"}, nil,
			&Finding{Verdict: VerdictUnreached, Detail: "it is stored, but charts.example is not an origin"}},
		{"neither", lists.Image{Repository: "gone.example/x", Tag: "1"}, nil,
			&Finding{Verdict: VerdictUnreached, Detail: "it is not stored, and gone.example is not an origin"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.w.Where = "list:1"
			r, err := s.checker().Check(t.Context(), CheckRequest{Wanted: lists.Wanted{Images: []lists.Image{c.w}},
				Platforms: c.platforms})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, c.want, "image", c.w.Ref())
		})
	}
	s.missing = "ambiguous, held with different content: quay.io/b/x, quay.io/c/x"
	r, err := s.checker().Check(t.Context(), CheckRequest{
		Wanted: lists.Wanted{Images: []lists.Image{{Repository: "quay.io/x", Tag: "1", Where: "list:1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, &Finding{Verdict: VerdictMissing, Detail: s.missing}, "image", "quay.io/x:1")
}

// expect compares the report on one thing, and its counts.
func expect(t *testing.T, r *Report, want *Finding, kind, name string) {
	t.Helper()
	counts := Report{Asked: 1, Here: 1, Findings: []Finding{}}
	if want != nil {
		w := *want
		w.Kind, w.Name, w.Where = kind, name, "list:1"
		counts.Findings = append(counts.Findings, w)
		switch w.Verdict {
		case VerdictLuck:
			counts.Luck = 1
		case VerdictSparse:
			counts.Sparse = 1
		case VerdictDigest, VerdictChecksum, VerdictSize:
			counts.Here, counts.Differs = 0, 1
		default:
			counts.Here, counts.Missing = 0, 1
		}
	}
	if !reflect.DeepEqual(*r, counts) {
		t.Errorf("got  %+v\nwant %+v", *r, counts)
	}
}

func TestCheckFiles(t *testing.T) {
	const url = "https://dl.k8s.io/kubelet"
	s := &shelf{t: t, files: map[string]string{url: "kubelet", "https://dl.k8s.io/short": "short",
		"https://gone.example/x": "x"},
		luck: map[string]string{"https://dl.k8s.io/short": "files.redirects leads to elsewhere"},
		away: map[string]string{"gone.example": "it was removed", "other.example:8443": "it is none"}}
	for _, c := range []struct {
		name string
		w    lists.File
		want *Finding
	}{
		{"here", lists.File{URL: url}, nil},
		{"with its sha256", lists.File{URL: url, Digest: sha256Of("kubelet")}, nil},
		{"with its sha512", lists.File{URL: url, Digest: sha512Of("kubelet")}, nil},
		{"missing", lists.File{URL: "https://dl.k8s.io/kubeadm"}, &Finding{Verdict: VerdictMissing}},
		{"other sha256", lists.File{URL: url, Digest: one, Known: "sums:3"},
			&Finding{Verdict: VerdictChecksum, Want: one, Got: sha256Of("kubelet"), Known: "sums:3"}},
		{"other sha512", lists.File{URL: url, Digest: sha512Of("?")},
			&Finding{Verdict: VerdictChecksum, Want: sha512Of("?"), Got: sha512Of("kubelet")}},
		{"luck", lists.File{URL: "https://dl.k8s.io/short"},
			&Finding{Verdict: VerdictLuck, Detail: "files.redirects leads to elsewhere"}},
		{"not reached", lists.File{URL: "https://gone.example/x"},
			&Finding{Verdict: VerdictUnreached, Detail: "it is stored, but it was removed"}},
		{"nor here", lists.File{URL: "https://user@other.example:8443?x"},
			&Finding{Verdict: VerdictUnreached, Detail: "it is not stored, and it is none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.opened = nil
			c.w.Where = "list:1"
			r, err := s.checker().Check(t.Context(), CheckRequest{Wanted: lists.Wanted{Files: []lists.File{c.w}},
				Platforms: []string{"linux/amd64"}})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, c.want, "file", c.w.URL)
			if read := len(s.opened) > 0; read != strings.HasPrefix(c.w.Digest, "sha512:") {
				t.Errorf("a file is read to compare its %q: %v", c.w.Digest, read)
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	s := &shelf{t: t, files: map[string]string{"https://dl.k8s.io/x": "x"}}
	for _, c := range []CheckRequest{
		{Platforms: []string{"amd64"}},
		{Platforms: []string{"linux/amd64", ""}},
		{Platforms: []string{"linux/"}},
		{Platforms: []string{"linux//amd64"}},
		{Platforms: []string{"linux/amd64/v1/x"}},
		{Platforms: make([]string, maxPlatforms+1)},
		{Wanted: lists.Wanted{Files: []lists.File{{URL: "https://dl.k8s.io/x", Digest: "md5:00"}}}},
	} {
		if _, err := s.checker().Check(t.Context(), c); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	s.fail = errors.New("the disk is broken")
	if _, err := s.checker().Check(t.Context(), CheckRequest{
		Wanted: lists.Wanted{Images: []lists.Image{{Repository: "quay.io/x", Tag: "1"}}}}); !errors.Is(err, s.fail) {
		t.Errorf("a broken disk is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.checker().Check(ctx, CheckRequest{
		Wanted: lists.Wanted{Files: []lists.File{{URL: "https://dl.k8s.io/x", Digest: sha512Of("x")}}}}); !errors.Is(
		err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}

// Content that only some installations need is reported but not counted as missing; wrong content is an error all the
// same.
func TestCheckOptional(t *testing.T) {
	s := &shelf{t: t, images: map[string]registry.Resolution{"quay.io/moved:1": {Digest: two}, "quay.io/moved@" + one: {
		Digest: one}}, files: map[string]string{"https://a.example/here": "x"}}
	r, err := s.checker().Check(context.Background(), CheckRequest{Wanted: lists.Wanted{
		Images: []lists.Image{{Repository: "quay.io/addon", Tag: "1", Optional: true}, {
			Repository: "quay.io/moved", Tag: "1", Digest: one, Optional: true}, {
			Repository: "quay.io/needed", Tag: "1"}},
		Files: []lists.File{{URL: "https://a.example/addon", Optional: true}, {
			URL: "https://a.example/here", Optional: true}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Asked != 5 || r.Here != 1 || r.Missing != 1 || r.Differs != 1 || r.Optional != 2 {
		t.Errorf("got %+v", r)
	}
	var verdicts []Verdict
	for _, f := range r.Findings {
		verdicts = append(verdicts, f.Verdict)
	}
	if want := []Verdict{VerdictOptional, VerdictDigest, VerdictMissing, VerdictOptional}; !reflect.DeepEqual(
		verdicts, want) {
		t.Errorf("got %v, want %v", verdicts, want)
	}
}
