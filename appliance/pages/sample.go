package pages

import (
	"context"
	"iter"
	"strings"
	"sync"
	"time"

	"casemate/appliance/doctor"
	"casemate/appliance/routing"
	"casemate/fileserver"
	"casemate/registry"
)

const (
	sampleLooks = 200             // images, and files, that are examined to find samples
	SampleAge   = time.Minute     // how long a result is reused
	LargeSample = 4 << 20         // bytes from which an image reveals faults of large transfers
	FileSample  = 64 << 10        // bytes from which a file is suitable for a range request
	sampleTime  = 2 * time.Second // time limit of a search
)

// Samples proposes content for doctor's checks. Requests are not authenticated, so the search runs at most once in a
// while, one at a time, and among the first names only.
type Samples struct {
	// Anonymous reports whether reading images needs no user. Otherwise the names of images are not disclosed.
	Anonymous func() bool
	Hosts     func() *routing.Hosts
	Images    interface {
		Samples(ctx context.Context, n int) iter.Seq[registry.Image]
	}
	Files interface {
		List(ctx context.Context, prefix string) iter.Seq2[fileserver.Info, error]
	}

	// Age is how long a result is reused.
	Age time.Duration

	mu      sync.Mutex
	found   doctor.Sample
	at      time.Time
	looking chan struct{} // closed when the running search ends; nil: none is running
}

// get returns the last result, or a new result of find if that is too old. A request waits for a running search, at
// most until ctx ends.
func (s *Samples) get(ctx context.Context, find func(context.Context) doctor.Sample) (doctor.Sample, error) {
	s.mu.Lock()
	for s.looking != nil {
		looking := s.looking
		s.mu.Unlock()
		select {
		case <-looking:
		case <-ctx.Done():
			return doctor.Sample{}, ctx.Err()
		}
		s.mu.Lock()
	}
	if !s.at.IsZero() && time.Since(s.at) <= s.Age {
		defer s.mu.Unlock()
		return s.found, nil
	}
	done := make(chan struct{})
	s.looking = done
	s.mu.Unlock()
	// The search serves all requests, not only the first one.
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), sampleTime)
	defer cancel()
	found := find(limit)
	s.mu.Lock()
	s.found, s.at, s.looking = found, time.Now(), nil
	s.mu.Unlock()
	close(done)
	return found, nil
}

// Find looks for a small image, a large one and a file at enabled origins. It skips content that cannot be read.
func (p *Samples) Find(ctx context.Context) (s doctor.Sample) {
	hosts := p.Hosts()
	var small, large, fit int64
	for i := range p.Images.Samples(ctx, sampleLooks) {
		if !p.Anonymous() {
			break
		}
		at, _ := hosts.Find(hostOf(i.Name))
		if at != routing.Origin || i.Reference == "" || i.Sparse || i.Lost || i.ArtifactType != "" {
			continue
		}
		ref := i.Name + ":" + i.Reference
		if s.Image == "" || i.Size < small {
			s.Image, small = ref, i.Size
		}
		if i.Size >= LargeSample && (s.Large == "" || i.Size < large) {
			s.Large, large = ref, i.Size
		}
	}
	looked := 0
	for f, err := range p.Files.List(ctx, "") {
		if looked++; err != nil || looked > sampleLooks {
			break
		}
		// The smallest of those that are large enough; the largest, if none is.
		better := s.File == "" || fit < FileSample && f.Size > fit || f.Size >= FileSample && f.Size < fit
		if at, _ := hosts.Find(hostOf(f.URL)); at == routing.Origin && better {
			s.File, fit = f.URL, f.Size
		}
	}
	return s
}

// hostOf returns the host of an image's name or a file's URL.
func hostOf(name string) string {
	name = strings.TrimPrefix(name, "https://")
	host, _, _ := strings.Cut(name, "/")
	return host
}
