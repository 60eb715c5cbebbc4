package rehearsal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/bundle"
	"casemate/bundle/digests"
)

const (
	compareAtOnce = 32
	compareFor    = 20 * time.Second // for all tags: somebody waits for the bundle
	maxImage      = 512              // bytes of a repository and its tag
)

// Tag is a tag, and the digest that it had at its origin when both were compared.
type Tag struct {
	Image  string `json:"image"` // REPOSITORY:TAG, with its host
	Digest string `json:"digest"`
}

func (t *Tag) check() error {
	if t.Image == "" || len(t.Image) > maxImage {
		return fmt.Errorf("the image of a tag has 1 to %d bytes", maxImage)
	}
	return digests.Check(t.Digest)
}

// tagOf returns the tag that a question asked for, and the digest that clients got.
func tagOf(q *bundle.Question) (t Tag, ok bool) {
	repository, tag, ok := manifest(q)
	t = Tag{repository + ":" + tag, cmp.Or(q.Digest, q.Held)}
	ok = ok && !strings.Contains(tag, ":") && (q.Status == http.StatusOK || q.Status == http.StatusNotModified)
	return t, ok && t.check() == nil
}

// Tags returns the tags that clients used, each once, with the digests that they got.
func (r *Record) Tags() (list []Tag) {
	for _, e := range r.questions {
		if t, ok := tagOf(&e.Question); ok {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(x, y Tag) int { return cmp.Compare(x.Image+x.Digest, y.Image+y.Digest) })
	return slices.CompactFunc(list, func(x, y Tag) bool { return x.Image == y.Image })
}

// addTag remembers which digest a tag has at its origin. It reports whether that is news.
func (r *Record) addTag(t Tag) bool {
	was, known := r.origins[t.Image]
	if was == t.Digest || !known && len(r.origins) >= bundle.MaxQuestions {
		return false
	}
	if r.origins == nil {
		r.origins = map[string]string{}
	}
	r.origins[t.Image] = t.Digest
	return true
}

// originDigest returns the digest that the tag of a question has at its origin, "" if it is that of its answer.
func (r *Record) originDigest(q *bundle.Question) string {
	t, ok := tagOf(q)
	if at := r.origins[t.Image]; ok && at != t.Digest {
		return at
	}
	return ""
}

// Compare asks for the digest that each tag has at its origin now, by now, and records it: a tag keeps the digest of
// its first use for every client, and Notes say which ones have moved since. It takes 20 seconds at most. The result is
// a sentence about those that could not be compared, "" if all were.
func (b *Book) Compare(ctx context.Context,
	now func(ctx context.Context, repository, tag string) (digest string, err error)) string {
	b.mu.Lock()
	tags := b.record.Tags()
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, compareFor)
	defer cancel()
	errs := make([]error, len(tags))
	turns := make(chan struct{}, compareAtOnce)
	var wg sync.WaitGroup
	for i, t := range tags {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			at := strings.LastIndex(t.Image, ":")
			digest, err := now(ctx, t.Image[:at], t.Image[at+1:])
			if t.Digest = digest; err == nil {
				err = t.check()
			}
			if errs[i] = err; err == nil {
				b.write(line{Tag: &t})
			}
		})
	}
	wg.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	if failed == 0 {
		return ""
	}
	first := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	why := errs[first]
	if errors.Is(why, context.DeadlineExceeded) {
		why = errors.New("its origin did not answer in time")
	}
	return fmt.Sprintf("%d of %d tags could not be compared with their origins, so they may have moved; the first is "+
		"%s: %v", failed, len(tags), tags[first].Image, why)
}
