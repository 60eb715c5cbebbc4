// Package metrics counts events that other packages report, reads the counters of the others at each scrape, and
// serves all of them at /metrics.
package metrics

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"casemate/appliance/content"
	"casemate/appliance/missing"
	"casemate/appliance/reply"
	"casemate/appliance/repositories"
	"casemate/appliance/upstream"
	"casemate/cluster"
	"casemate/cluster/share"
	"casemate/dnssrv"
	"casemate/pki"
)

// Metrics are the metrics of /metrics, in their own registry. Every label has a bounded set of values: no label
// contains data from clients.
type Metrics struct {
	reg      *prometheus.Registry
	requests *prometheus.CounterVec
	sent     *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	misses   *prometheus.CounterVec
	noise    *prometheus.CounterVec
	luck     *prometheus.CounterVec
	tls      *prometheus.CounterVec
	own      *prometheus.Registry // requests, sent and misses, for Totals
}

// New returns the metrics of a node, which reads s at each scrape.
func New(s Sources) *Metrics {
	m := &Metrics{
		reg: prometheus.NewRegistry(),
		requests: counter("http_requests_total", "Requests answered, by service, method and status.", "room", "method",
			"code"),
		sent: counter("http_sent_bytes_total", "Bytes of response bodies, by service.", "room"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "casemate_http_request_seconds",
			Help:    "Time from a request's header to the end of its response, by service.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 60, 300},
		}, []string{"room"}),
		misses: counter("misses_total", "Misses by kind: requests for content that is not stored.", "kind"),
		noise: counter("misses_noise_total",
			"Misses that do not show a need, by reason; not included in casemate_misses_total.",
			"reason"),
		luck: counter("tolerances_total", "Responses found by a fallback, see status."),
		tls: counter("tls_errors_total",
			"TLS handshakes that failed; untrusted: the client does not trust the bastions' root.", "reason"),
	}
	for _, k := range missing.Kinds {
		m.misses.WithLabelValues(k)
	}
	for _, reason := range missing.Reasons {
		m.noise.WithLabelValues(reason)
	}
	m.luck.WithLabelValues()
	m.reg.MustRegister(m.requests, m.sent, m.seconds, m.misses, m.noise, m.luck, m.tls, scrape{s},
		collectors.NewGoCollector())
	m.own = prometheus.NewRegistry()
	m.own.MustRegister(m.requests, m.sent, m.misses)
	m.reg.MustRegister(process(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.Started)...)
	return m
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "casemate_" + name, Help: help}, labels)
}

// Which fraction of the time may be spent on generating the page of /metrics, and how long a request waits for it at
// most.
const (
	metricsShare = 10
	metricsPause = time.Second
)

// sharedPage generates the page of /metrics. Clients are not authenticated and may read slowly, so one page is
// generated at a time, completely before it is sent, for at most a tenth of the time, and once for all waiting
// requests. No request gets a page whose generation began before the request.
type sharedPage struct {
	mu   sync.Mutex
	next *pageRound // new requests wait for it; nil: there is none that has not begun

	// of capacity 1: full while a request waits or generates a page; that request owns the fields below
	turn chan struct{}
	at   time.Time // when the last page was generated
	took time.Duration
}

type pageRound struct {
	done chan struct{} // closed when the other fields are set
	text []byte
	err  error
}

// get returns a page that create generates after the call of get. ctx ends waiting for others.
func (p *sharedPage) get(ctx context.Context, create func() ([]byte, error)) ([]byte, error) {
	p.mu.Lock()
	if round := p.next; round != nil {
		p.mu.Unlock()
		select {
		case <-round.done:
			return round.text, round.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	round := &pageRound{done: make(chan struct{})}
	p.next = round
	p.mu.Unlock()
	// It serves all waiting requests, not only the first, so ctx does not end it.
	p.turn <- struct{}{}
	round.err = errors.New("the metrics cannot be read") // if create panics
	defer func() {
		<-p.turn
		close(round.done)
	}()
	time.Sleep(min((metricsShare-1)*p.took, metricsPause) - time.Since(p.at))
	p.mu.Lock()
	p.next = nil
	p.mu.Unlock()
	begin := time.Now()
	round.text, round.err = create()
	p.at, p.took = time.Now(), time.Since(begin)
	return round.text, round.err
}

// Handler is GET /metrics, in Prometheus's text format.
func (m *Metrics) Handler() http.Handler {
	page := sharedPage{turn: make(chan struct{}, 1)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := page.get(r.Context(), m.write)
		if err != nil {
			reply.Refuse(w, r, http.StatusInternalServerError, "", err.Error())
			return
		}
		reply.Send(w, r, string(expfmt.NewFormat(expfmt.TypeTextPlain)), text)
	})
}

// write returns all metrics as text.
func (m *Metrics) write() ([]byte, error) {
	families, err := m.reg.Gather()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// Totals are what has been counted since the start.
type Totals struct {
	Requests, Sent map[string]uint64 // by service: requests, and bytes of response bodies
	Misses         uint64            // without noise
}

// Totals returns what has been counted so far. It reads these counters alone, none of another package.
func (m *Metrics) Totals() (Totals, error) {
	t := Totals{Requests: map[string]uint64{}, Sent: map[string]uint64{}}
	families, err := m.own.Gather()
	if err != nil {
		return t, err
	}
	for _, f := range families {
		for _, c := range f.GetMetric() {
			n, room := uint64(c.GetCounter().GetValue()), ""
			for _, l := range c.GetLabel() {
				if l.GetName() == "room" {
					room = l.GetValue()
				}
			}
			switch f.GetName() {
			case "casemate_http_requests_total":
				t.Requests[room] += n
			case "casemate_http_sent_bytes_total":
				t.Sent[room] += n
			case "casemate_misses_total":
				t.Misses += n
			}
		}
	}
	return t, nil
}

// Request counts a response of a service.
func (m *Metrics) Request(room string, r *http.Request, status int, bytes int64, took time.Duration) {
	method := r.Method
	switch method {
	case "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE":
	default:
		method = "other"
	}
	code := "other"
	if status >= 200 && status < 600 {
		code = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(room, method, code).Inc()
	m.sent.WithLabelValues(room).Add(float64(bytes))
	m.seconds.WithLabelValues(room).Observe(took.Seconds())
}

// Miss counts a miss: by its kind, or by the reason for which it is noise.
func (m *Metrics) Miss(kind, noise string) {
	if noise != "" {
		m.noise.WithLabelValues(noise).Inc()
		return
	}
	if slices.Contains(missing.Kinds, kind) {
		m.misses.WithLabelValues(kind).Inc()
	}
}

// Lucky counts a response found by a fallback.
func (m *Metrics) Lucky() { m.luck.WithLabelValues().Inc() }

// TLSErrors returns the HTTP servers' error log. An operator looks there for clients that do not trust our root when
// a node does not work; untrusting is called for each of their handshakes, with what the client said.
func (m *Metrics) TLSErrors(l *slog.Logger, untrusting func(client netip.Addr, alert string)) *log.Logger {
	return log.New(handshakeLog{m, l, untrusting}, "", 0)
}

type handshakeLog struct {
	m          *Metrics
	l          *slog.Logger
	untrusting func(client netip.Addr, alert string)
}

func (h handshakeLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	rest, ok := strings.CutPrefix(line, "http: TLS handshake error from ")
	if !ok {
		h.l.Debug("http server", "message", line)
		return len(p), nil
	}
	from, why, _ := strings.Cut(rest, ": ")
	reason := "other"
	switch {
	case strings.Contains(why, "unknown certificate authority"),
		strings.Contains(why, "bad certificate"),
		strings.Contains(why, "certificate unknown"),
		strings.Contains(why, "unknown certificate"):
		reason = "untrusted"
		h.l.Warn("a client does not trust the bastions' root: check that casemate ca is in its trust store", "client",
			from, "alert", why)
		if a, err := netip.ParseAddrPort(from); err == nil {
			h.untrusting(share.Plain(a.Addr()), why)
		}
	case strings.Contains(why, "EOF"), strings.Contains(why, "reset by peer"):
		reason = "closed"
	case strings.Contains(why, "timeout"):
		reason = "timeout"
	}
	if reason != "untrusted" {
		h.l.Debug("tls handshake", "client", from, "err", why)
	}
	h.m.tls.WithLabelValues(reason).Inc()
	return len(p), nil
}

var _ io.Writer = handshakeLog{}

// scrape reads the counters of other packages at the time of a scrape.
type scrape struct{ Sources }

// Sources are the packages whose own counters are exported.
type Sources struct {
	Version, Commit, Node string
	Started               time.Time
	Ready                 func() error // nil: this node serves
	Places                *share.Places
	Book                  *missing.Book
	DNS                   interface{ Stats() dnssrv.Stats }
	Cluster               Cluster
	Imports               *content.Engine
	CA                    interface{ Expiries() []pki.Expiry }
	Repositories          *repositories.Index
	Upstream              Upstream
}

// Upstream is what is exported of fetching from origins.
type Upstream interface {
	Stats() []upstream.Stat
	Dials() uint64
}

// Cluster is the part of the cluster that is exported.
type Cluster interface {
	Status() cluster.Status
	Lost(most int) (list []cluster.Lost, all int)
	Damaged() int
	ScrubStatus() cluster.ScrubStatus
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("casemate_"+name, help, labels, nil)
}

const dnsEvents = "fast, refused, dropped, unsent, absent, limited, withheld, truncated, forwarded, forward_failed, " +
	"forward_shed, forward_looped, misses_lost, refused_tcp, closed_tcp"

var (
	descUp      = desc("serving", "1 when this node serves.")
	descInfo    = desc("info", "Constant 1, with the version.", "version", "commit", "node")
	descConns   = desc("http_connections", "Open HTTP connections.")
	descRefused = desc("http_connections_refused_total", "Connections beyond the bounds.")
	descEvicted = desc("http_connections_evicted_total",
		"Connections that were closed to make room for other clients.")
	descBook     = desc("missing_entries", "Entries of this node's missing book, without noise.")
	descDropped  = desc("missing_dropped_total", "Entries that the full missing book dropped since it was cleared.")
	descDNS      = desc("dns_answers_total", "DNS answers by response code.", "rcode")
	descDNSMore  = desc("dns_events_total", "DNS queries by further outcomes: "+dnsEvents+".", "event")
	descLeader   = desc("raft_leader", "1 when this node leads, 0 when it does not.")
	descHas      = desc("raft_has_leader", "1 when a leader is known: writes work.")
	descTerm     = desc("raft_term", "raft's term.")
	descCommit   = desc("raft_commit_index", "Newest entry known to be committed.")
	descApplied  = desc("raft_applied_index", "Newest entry applied here.")
	descEntries  = desc("tree_entries", "Names in the tree.")
	descBlobs    = desc("tree_blobs", "Blobs that the tree knows.")
	descBytes    = desc("tree_blob_bytes", "Bytes of all blobs.")
	descImports  = desc("imports", "Imports by state: imported, incomplete.", "state")
	descImported = desc("import_bytes_total", "Bytes that imports on this node wrote.")
	descImportS  = desc("import_seconds_total", "Time that imports on this node ran.")
	descDiskAll  = desc("disk_bytes", "Size of the data directory's file system.")
	descDiskFree = desc("disk_free_bytes", "Free bytes of it, including the reserve.")
	descReserve  = desc("disk_reserve_bytes", "Bytes that are reserved as free space.")
	descDamaged  = desc("blobs_damaged", "Blobs known to be damaged on this node's disk.")
	descLost     = desc("blobs_lost", "Blobs that clients of this node do not get, because no node has an intact copy.")
	descScrubbed = desc("scrub_blobs_total", "Blobs that this node has read and compared with their digests.")
	descScrubB   = desc("scrub_bytes_total", "Bytes of the blobs that this node has read and compared with their "+
		"digests.")
	descFaults   = desc("scrub_faults_total", "Blobs that were found to be damaged, by scrubbing or by reading.")
	descRepaired = desc("scrub_repaired_total", "Damaged blobs that another node, an import or a push has repaired.")
	descDue      = desc("scrub_due_blobs", "Blobs that are due for the background scrub.")
	descOldest   = desc("scrub_oldest_timestamp_seconds", "Every blob of this node was verified since then.")
	descValid    = desc("repository_valid_until_timestamp_seconds", "When apt begins to refuse a repository of "+
		"packages; of those that expire first.", "repository")
	descDials   = desc("upstream_connections_total", "Connections that were tried to origins and their resolvers.")
	descFetches = desc("upstream_fetches_total", "Fetches from origins; of those with most.", "origin")
	descFetched = desc("upstream_bytes_total", "Bytes that were fetched from origins; of those with most.", "origin")
	descFailed  = desc("upstream_failures_total", "Fetches that failed; of those with most.", "origin")
	descExpiry  = desc("certificate_expiry_timestamp_seconds", "When the first certificate of its kind expires.",
		"kind")
)

// maxOrigins bounds the origins of one scrape.
const maxOrigins = 100

// maxRepositories bounds the repositories of one scrape.
const maxRepositories = 100

// Describe sends nothing: an unchecked collector, whose series depend on events.
func (scrape) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s scrape) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge(descUp, yes(s.Ready() == nil))
	gauge(descInfo, 1, s.Version, s.Commit, s.Node)
	open, refused, evicted := s.Places.Counts()
	gauge(descConns, float64(open))
	count(descRefused, refused)
	count(descEvicted, evicted)
	n, dropped := s.Book.Len()
	gauge(descBook, float64(n))
	count(descDropped, dropped)
	count(descDials, s.Upstream.Dials())
	fetched := s.Upstream.Stats()
	slices.SortFunc(fetched, func(a, b upstream.Stat) int { return cmp.Compare(b.Fetches, a.Fetches) })
	for _, o := range fetched[:min(len(fetched), maxOrigins)] {
		count(descFetches, o.Fetches, o.Host)
		count(descFetched, o.Bytes, o.Host)
		count(descFailed, o.Failures, o.Host)
	}
	d := s.DNS.Stats()
	for rcode, n := range d.Answers {
		count(descDNS, n, rcode)
	}
	for event, n := range map[string]uint64{
		"fast": d.Fast, "refused": d.Refused, "dropped": d.Dropped, "truncated": d.Truncated, "forwarded": d.Forwarded,
		"forward_failed": d.ForwardFailed, "forward_shed": d.ForwardShed, "misses_lost": d.MissesLost,
		"forward_looped": d.ForwardLooped,
		"unsent":         d.Unsent, "absent": d.Absent, "limited": d.Limited, "withheld": d.Withheld,
		"refused_tcp": d.RefusedTCP, "closed_tcp": d.ClosedTCP,
	} {
		count(descDNSMore, n, event)
	}
	st := s.Cluster.Status()
	gauge(descLeader, yes(st.Role == "leader"))
	gauge(descHas, yes(st.Leader != ""))
	gauge(descTerm, float64(st.Term))
	gauge(descCommit, float64(st.Commit))
	gauge(descApplied, float64(st.Applied))
	gauge(descEntries, float64(st.Entries))
	gauge(descBlobs, float64(st.Blobs))
	gauge(descBytes, float64(st.Bytes))
	if complete, incomplete, err := s.Imports.Counts(); err == nil {
		gauge(descImports, float64(complete), content.Imported)
		gauge(descImports, float64(incomplete), content.Incomplete)
	}
	imported, took := s.Imports.Totals()
	ch <- prometheus.MustNewConstMetric(descImported, prometheus.CounterValue, float64(imported))
	ch <- prometheus.MustNewConstMetric(descImportS, prometheus.CounterValue, took.Seconds())
	gauge(descDiskAll, float64(st.DiskTotal))
	gauge(descDiskFree, float64(st.DiskFree))
	gauge(descReserve, float64(st.DiskReserve))
	_, lost := s.Cluster.Lost(0)
	gauge(descLost, float64(lost))
	gauge(descDamaged, float64(s.Cluster.Damaged()))
	scrub := s.Cluster.ScrubStatus()
	count(descScrubbed, scrub.Blobs)
	count(descScrubB, scrub.Bytes)
	count(descFaults, scrub.Faults)
	count(descRepaired, scrub.Repaired)
	gauge(descDue, float64(scrub.Due))
	if !scrub.Oldest.IsZero() {
		gauge(descOldest, float64(scrub.Oldest.Unix()))
	}
	dated := s.Repositories.Dated()
	for _, r := range dated[:min(len(dated), maxRepositories)] {
		gauge(descValid, float64(r.ValidUntil.Unix()), r.Name())
	}
	first := map[string]time.Time{}
	for _, e := range s.CA.Expiries() {
		if t, ok := first[e.Kind]; !ok || e.NotAfter.Before(t) {
			first[e.Kind] = e.NotAfter
		}
	}
	for kind, t := range first {
		gauge(descExpiry, float64(t.Unix()), kind)
	}
}
