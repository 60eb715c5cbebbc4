package appliance

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/appliance/admin"
	"casemate/appliance/hostname"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/rehearsal"
	"casemate/appliance/settings"
	"casemate/appliance/upstream"
	"casemate/appliance/usage"
	"casemate/bundle/credentials"
	"casemate/dnssrv"
	"casemate/pki"
)

const (
	maxLearning = 256         // names that wait to be learnt
	maxLearnt   = 2000        // origins of a rehearsal
	existsFor   = time.Second // how long a name is looked for outside, before it is learnt
)

// learner makes origins of names that clients asked for, while an install is rehearsed.
type learner struct {
	book  *rehearsal.Book
	names chan string
	watch func(Traffic) // nil: nobody does
	now   func() time.Time

	unknown  net.PacketConn // where DNS asks for names that it does not know
	learning sync.Mutex     // one name after the other
}

// Traffic is what a rehearsal tells of one request of a client, or of one fetch from an origin.
type Traffic struct {
	Time time.Time `json:"time"`
	Host string    `json:"host"`
	// Fetch says that it is a fetch: Name is then what was fetched, otherwise method and URL of a request.
	Fetch  bool   `json:"fetch,omitempty"`
	Name   string `json:"name"`
	Status int    `json:"status"`          // 0: the origin did not answer
	Bytes  int64  `json:"bytes"`           // of the content
	Error  string `json:"error,omitempty"` // why a fetch failed
}

// answered tells of a request. It has no address of a client.
func (l *learner) answered(service string, r *http.Request, status int, bytes int64) {
	if l == nil || l.watch == nil || service == "pages" {
		return
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	l.watch(Traffic{Time: l.now().UTC(), Host: origin.Fold(r.Host), Status: status, Bytes: bytes,
		Name: r.Method + " " + credentials.Strip(scheme+r.Host+r.URL.RequestURI())})
}

func (a *Appliance) openRehearsal() error {
	if a.opt.Rehearsal == "" {
		return nil
	}
	domain := a.current.State().Settings.Domain
	if domain != pki.LabDomain {
		return usage.Errorf("the domain of a rehearsal is %s, got %s: begin one in an empty directory", pki.LabDomain,
			domain)
	}
	book, err := rehearsal.Open(rehearsal.Config{Path: a.opt.Rehearsal, Domain: domain,
		Log: a.log.With("room", "rehearsal")})
	if err != nil {
		return err
	}
	unknown, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, book.Close())
	}
	a.rehearsal = &learner{book: book, names: make(chan string, maxLearning), watch: a.opt.Watch, now: a.opt.Now,
		unknown: unknown}
	return nil
}

// transcript returns the record for the admin API, nil if there is none.
func (a *Appliance) transcript() admin.Transcript {
	if a.rehearsal == nil {
		return nil
	}
	return transcript{a.rehearsal.book, a.upstream}
}

// transcript is the record, whose tags are compared with their origins.
type transcript struct {
	*rehearsal.Book
	upstream *upstream.Upstream
}

func (t transcript) Compare(ctx context.Context) string {
	return t.Book.Compare(ctx, t.upstream.TagNow)
}

// fetched is called at the end of each fetch.
func (l *learner) fetched(e upstream.Event) {
	if l == nil {
		return
	}
	if l.watch != nil {
		t := Traffic{Time: l.now().UTC(), Host: e.Host, Fetch: true, Name: e.Name, Status: e.Status, Bytes: e.Size}
		if e.Err != nil {
			t.Error = e.Err.Error()
		}
		l.watch(t)
	}
	if e.Kind == "file" && e.Err == nil && e.Digest != "" {
		l.book.Fetched(e.Name, e.Digest, e.Size)
	}
}

// missing is called for each name that clients did not get. It does not wait. Names in DNS were learnt, or not, before.
func (l *learner) missing(kind, name string) {
	if l == nil || kind != missing.TLS && kind != missing.Host {
		return
	}
	select {
	case l.names <- origin.Fold(name):
	default: // it is asked again
	}
}

// learn makes origins of the names that clients used without a question of DNS.
func (a *Appliance) learn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case name := <-a.rehearsal.names:
			a.learnt(ctx, name)
		}
	}
}

// serveNames answers DNS's questions for names that are no origins yet, once they are.
func (a *Appliance) serveNames(ctx context.Context) error {
	n := rehearsal.Names{Log: a.log.With("room", "rehearsal")}
	n.Learn = func(ctx context.Context, name string) ([]netip.Addr, bool) {
		return a.socks.Reachable(a.cfg.Advertise), a.learnt(ctx, name)
	}
	return n.Serve(ctx, a.rehearsal.unknown)
}

// learnt makes an origin of a public name, and reports whether it is one now: then clients find it here.
func (a *Appliance) learnt(ctx context.Context, name string) bool {
	l, known := a.rehearsal, func() bool { return a.current.State().CertNames[name] }
	if known() {
		return true
	}
	if origin.Check(name) != nil || hostname.Overlap(name, pki.LabDomain) {
		return false
	}
	if err := a.ca.Permits(name); err != nil {
		if !errors.Is(err, pki.ErrNotPermitted) {
			a.log.Warn("a name is not learnt", "name", name, "err", err)
		}
		return false
	}
	ask, cancel := context.WithTimeout(ctx, existsFor)
	absent := a.upstream.Absent(ask, name)
	cancel()
	if absent {
		return false // a resolver has added a search domain, for example
	}
	l.learning.Lock()
	defer l.learning.Unlock()
	if known() {
		return true
	}
	if len(a.current.State().OriginHosts) >= maxLearnt {
		a.log.Warn("a name is not learnt: there are too many", "name", name, "most", maxLearnt)
		return false
	}
	_, err := a.changes.AddOrigin(ctx, name, nil)
	if err == nil {
		err = a.current.Read() // before its client connects
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("a name is not learnt", "name", name, "err", err)
	}
	return err == nil
}

// forwarded reports a name that DNS asks the resolvers of the site for. Of the others that it forwards it asks us.
func (l *learner) forwarded(set *settings.Settings, name string) bool {
	return l == nil || slices.ContainsFunc(set.Forward, func(f dnssrv.Forward) bool {
		zone := strings.TrimSuffix(f.Zone, ".")
		return zone == "" || name == zone || strings.HasSuffix(name, "."+zone)
	})
}
