package appliance

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"casemate/appliance/doctor"
)

const (
	sampleLooks = 200             // images, and files, that are looked at to find samples
	sampleAge   = time.Minute     // for which what was found is told again
	largeSample = 4 << 20         // bytes from which an image shows what only large transfers do
	fileSample  = 64 << 10        // bytes that make a file worth a range
	sampleTime  = 2 * time.Second // for looking
)

// samples proposes to nodes what they may try with. Anybody may ask, so it is found at most once in a while, by one at
// a time, and among the first names only.
type samples struct {
	mu      sync.Mutex
	found   doctor.Sample
	at      time.Time
	looking chan struct{} // closed when who looks now has ended; nil: nobody does
}

// get returns what was found last, or what find finds now if that is too old. Who asks while another looks waits for
// that one, no longer than ctx.
func (s *samples) get(ctx context.Context, find func(context.Context) doctor.Sample) (doctor.Sample, error) {
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
	if !s.at.IsZero() && time.Since(s.at) <= sampleAge {
		defer s.mu.Unlock()
		return s.found, nil
	}
	done := make(chan struct{})
	s.looking = done
	s.mu.Unlock()
	// For all who ask, not for the one who asked first.
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), sampleTime)
	defer cancel()
	found := find(limit)
	s.mu.Lock()
	s.found, s.at, s.looking = found, time.Now(), nil
	s.mu.Unlock()
	close(done)
	return found, nil
}

// serveSample is GET /doctor.json.
func (a *Appliance) serveSample(w http.ResponseWriter, r *http.Request) {
	found, err := a.samples.get(r.Context(), a.findSample)
	if err != nil {
		return // nobody waits for it any more
	}
	data, err := json.MarshalIndent(found, "", "  ")
	if err != nil {
		refuse(w, r, http.StatusInternalServerError, "", err.Error())
		return
	}
	send(w, r, "application/json", append(data, '\n'))
}

// findSample looks for a small image, a large one and a file at origins that are answered. What cannot be read is left
// out.
func (a *Appliance) findSample(ctx context.Context) (s doctor.Sample) {
	v := a.now.Load()
	var small, large, fit int64
	for i := range a.registry.Samples(ctx, sampleLooks) {
		if !v.settings.Anonymous { // who must say who he is to pull is not told what there is
			break
		}
		at, _ := v.hosts.find(hostOf(i.Name))
		if at != placeOrigin || i.Reference == "" || i.Sparse || i.Lost || i.ArtifactType != "" {
			continue
		}
		ref := i.Name + ":" + i.Reference
		if s.Image == "" || i.Size < small {
			s.Image, small = ref, i.Size
		}
		if i.Size >= largeSample && (s.Large == "" || i.Size < large) {
			s.Large, large = ref, i.Size
		}
	}
	looked := 0
	for f, err := range a.files.List(ctx, "") {
		if looked++; err != nil || looked > sampleLooks {
			break
		}
		// The smallest of those that are large enough; the largest, if none is.
		better := s.File == "" || fit < fileSample && f.Size > fit || f.Size >= fileSample && f.Size < fit
		if at, _ := v.hosts.find(hostOf(f.URL)); at == placeOrigin && better {
			s.File, fit = f.URL, f.Size
		}
	}
	return s
}

// hostOf is the host of an image's name or a file's URL.
func hostOf(name string) string {
	name = strings.TrimPrefix(name, "https://")
	host, _, _ := strings.Cut(name, "/")
	return host
}
