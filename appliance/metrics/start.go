package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// startName is the metric by which monitoring notices restarts.
const startName = "process_start_time_seconds"

// process returns a process collector and, where that does not give it, the time of the process's start: it reads the
// time of the host's boot from /proc/stat, which the packaged unit hides (ProcSubset=pid).
func process(c prometheus.Collector, started time.Time) []prometheus.Collector {
	alone := prometheus.NewRegistry()
	alone.MustRegister(c)
	families, _ := alone.Gather() // what cannot be read is missing
	for _, f := range families {
		if f.GetName() == startName {
			return []prometheus.Collector{c}
		}
	}
	return []prometheus.Collector{c, start{started, time.Now}}
}

// start is the start of the process as the clock shows it now: what has passed since then is known, whatever the clock
// showed at the start.
type start struct {
	at  time.Time
	now func() time.Time
}

var startDesc = prometheus.NewDesc(startName, "Start time of the process since unix epoch in seconds.", nil, nil)

// Describe sends nothing: the process collector describes the metric, whether it gives it or not.
func (start) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s start) Collect(ch chan<- prometheus.Metric) {
	now := s.now()
	at := now.Add(-now.Sub(s.at))
	ch <- prometheus.MustNewConstMetric(startDesc, prometheus.GaugeValue, float64(at.UnixMilli())/1000)
}
