package appliance

import (
	"path/filepath"

	"casemate/appliance/forecast"
	"casemate/appliance/metrics"
	"casemate/appliance/series"
	"casemate/appliance/setup"
	"casemate/appliance/totals"
	"casemate/dnssrv"
	"casemate/registry"
)

// openTraffic opens what counts for the page and for status, after everything that is counted.
func (a *Appliance) openTraffic() (err error) {
	begins := a.dns.Own() // at 0: also what a DNS process that starts late answers at first is counted
	a.series = series.New(series.Config{Now: a.opt.Now, Sources: []series.Source{
		{Lines: requestLines, Read: a.readRequests},
		{Lines: dnsLines, Read: func() []uint64 {
			switch {
			case a.dns.Err() == nil:
				begins = false
				return dnsCounts(a.dns.Stats())
			case begins:
				return make([]uint64, len(dnsLines))
			default: // what it counted before is not known yet, or not any more
				return nil
			}
		}},
	}})
	a.totals = totals.Open(totals.Config{Tree: a.tree, IsTag: registry.IsTag})
	a.forecast, err = forecast.Open(forecast.Config{
		File:  filepath.Join(a.cfg.Data, setup.DisksFile),
		Disks: func() []forecast.Disk { return a.status.Disks() },
		Now:   a.opt.Now, Log: a.log.With("room", "forecast"),
	})
	return err
}

// requestLines are the requests of clients. Those of operators and of the page do not count: pages that show them would
// change each other.
var requestLines = []series.Line{
	{Name: "image_requests", Unit: "requests"}, {Name: "file_requests", Unit: "requests"},
	{Name: "image_bytes", Unit: "bytes"}, {Name: "file_bytes", Unit: "bytes"}, {Name: "misses", Unit: "misses"},
}

func (a *Appliance) readRequests() []uint64 {
	t, err := a.metrics.Totals()
	if err != nil {
		a.log.Warn("requests cannot be counted", "err", err)
		return nil
	}
	return requestCounts(t)
}

func requestCounts(t metrics.Totals) []uint64 {
	const images, files = "registry", "files"
	return []uint64{t.Requests[images], t.Requests[files], t.Sent[images], t.Sent[files], t.Misses}
}

// dnsLines are the answers of DNS by what they said. Forwarded questions count for their answer as well.
var dnsLines = []series.Line{
	{Name: "dns_answered", Unit: "answers"}, {Name: "dns_unknown", Unit: "answers"},
	{Name: "dns_refused", Unit: "answers"}, {Name: "dns_failed", Unit: "answers"},
	{Name: "dns_forwarded", Unit: "questions"},
}

func dnsCounts(s dnssrv.Stats) []uint64 {
	counts := make([]uint64, len(dnsLines))
	for rcode, n := range s.Answers {
		switch rcode {
		case "NOERROR":
			counts[0] += n
		case "NXDOMAIN":
			counts[1] += n
		case "REFUSED":
			counts[2] += n
		default:
			counts[3] += n
		}
	}
	counts[4] = s.Forwarded
	return counts
}
