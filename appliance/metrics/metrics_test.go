package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// slowCollector needs some time to say how often it was asked.
type slowCollector struct {
	takes time.Duration
	asked int
}

func (c *slowCollector) Describe(chan<- *prometheus.Desc) {}

func (c *slowCollector) Collect(ch chan<- prometheus.Metric) {
	c.asked++
	time.Sleep(c.takes)
	desc := prometheus.NewDesc("asked", "How often it was asked.", nil, nil)
	ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(c.asked))
}

// stuckReader takes nothing of an answer until it is released.
type stuckReader struct {
	*httptest.ResponseRecorder
	release chan struct{}
}

func (w stuckReader) Write(p []byte) (int, error) {
	<-w.release
	return w.ResponseRecorder.Write(p)
}

// A client that requests /metrics and does not read the response blocks no other client, and the cost does not depend
// on the number of requests.
func TestMetricsAreMadeOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &slowCollector{takes: 50 * time.Millisecond}
		m := &Metrics{reg: prometheus.NewRegistry()}
		m.reg.MustRegister(c)
		h := m.Handler()
		get := func(w http.ResponseWriter) { h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil)) }
		want := func(asked int) {
			t.Helper()
			w := httptest.NewRecorder()
			get(w)
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), fmt.Sprintf("\nasked %d\n", asked)) {
				t.Errorf("want 200 and asked %d, got %d and\n%s", asked, w.Code, w.Body)
			}
			if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
				t.Errorf("got the content type %q", got)
			}
		}
		var wg sync.WaitGroup
		release := make(chan struct{})
		for range 100 {
			wg.Go(func() { get(stuckReader{httptest.NewRecorder(), release}) })
		}
		time.Sleep(time.Hour)
		synctest.Wait() // all have their page and do not take it
		if c.asked > 2 {
			t.Errorf("100 who asked at once cost %d looks, want one that has begun and one for all others", c.asked)
		}
		begin, asked := time.Now(), c.asked
		for i := range 10 {
			want(asked + i + 1) // each is as of now
		}
		if took := time.Since(begin); took < 9*metricsShare*c.takes {
			t.Errorf("10 pages that take %v each were made in %v", c.takes, took)
		}
		close(release)
		wg.Wait()
	})
}
