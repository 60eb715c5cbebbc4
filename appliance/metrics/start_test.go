package metrics

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// blind is a process collector that may not read /proc/stat: it describes the start and does not give it.
type blind struct{ prometheus.Collector }

func (b blind) Collect(ch chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric)
	go func() { b.Collector.Collect(all); close(all) }()
	for m := range all {
		if m.Desc().String() != startDesc.String() {
			ch <- m
		}
	}
}

// TestProcessStart: the start is given once, and is true, whether or not /proc/stat can be read.
func TestProcessStart(t *testing.T) {
	started := time.Now()
	sees := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	for what, c := range map[string]prometheus.Collector{"sees": sees, "blind": blind{sees}} {
		list := process(c, started)
		if want := map[string]int{"sees": 1, "blind": 2}[what]; len(list) != want {
			t.Errorf("%s: %d collectors, want %d", what, len(list), want)
		}
		reg := prometheus.NewRegistry()
		for _, c := range list {
			if err := reg.Register(c); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, f := range families {
			if f.GetName() != startName {
				continue
			}
			found++
			if at := f.GetMetric()[0].GetGauge().GetValue(); at < float64(started.Add(-time.Hour).Unix()) ||
				at > float64(time.Now().Add(time.Second).Unix()) {
				t.Errorf("%s: started at %f", what, at)
			}
		}
		if found != 1 {
			t.Errorf("%s: %d times", what, found)
		}
	}
}
