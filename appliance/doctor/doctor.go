// Package doctor finds out, on a node, why the node cannot use the bastions. It checks causes in their order of
// dependency, and reports for each failure the error texts that programs show, the cause and the cure.
//
// It promises: it writes nothing. Every wait is bounded, and a run takes less than a minute even if nothing answers.
// From responses over plain HTTP it uses only names and addresses; what it requests by those names is verified with
// the node's trust store alone. Files that it cannot read without root are listed, and it does not guess their
// content.
package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/appliance/nodeconf"
)

// Bounds of a run.
const (
	wholeRun    = 55      // seconds
	probeTime   = 3       // seconds: one question to one bastion
	maxSite     = 4 << 20 // bytes of /site.json
	maxConfig   = 1 << 20 // bytes of a file of the node
	parallel    = 8
	lookups     = 32   // names resolved concurrently: each may have to wait for a dead resolver
	maxNames    = 2000 // origins, with their aliases, that are checked
	maxBastions = 32   // addresses
)

// second is the unit of the limits of a run, and siteTime is the time limit for a response on port 80. Tests make
// them longer, for busy machines.
var (
	second   = time.Second
	siteTime = (probeTime + 1) * second
)

// EnrolledFile is where the enrol script stores the node's mode ("mode mirror") and the bastions' addresses, one per
// line.
const EnrolledFile = "/etc/casemate/bastions"

// Modes are the ways in which a node finds the bastions: "dns" uses the bastions as resolvers, "mirror" uses the
// bastions' own names and registry mirrors.
var Modes = []string{"dns", "mirror"}

// Ports are the bastion's ports; zero is the well-known one.
type Ports struct{ HTTP, HTTPS, DNS uint16 }

// Config selects what to check. The zero value checks this node.
type Config struct {
	// Bastions are addresses or names; if empty, they are discovered.
	Bastions []string
	// Mode is one of Modes; if "", the one in EnrolledFile, or "dns".
	Mode string
	// Image and File are what is pulled and downloaded; if "", what the bastions propose.
	Image, File string
	// Outside are addresses with ports that this node must not reach; none: not checked. A way out is a warning, or, if
	// Closed is set, a failure.
	Outside []string
	Closed  bool
	// Root is the directory that contains the node's /etc, /run and /proc; "" is "/". With another root, names are
	// resolved with that root's configuration.
	Root string
	// Ports are the bastions' ports.
	Ports Ports
	// Env is the environment; nil is the process's.
	Env []string
	// Now is the node's clock; nil is time.Now.
	Now func() time.Time

	dial dialer // for tests; nil is the system's
}

// State is the result of a check.
type State string

const (
	OK      State = "ok"
	Warning State = "warning" // works, but not as it should
	Failed  State = "failed"
	Skipped State = "skipped" // not run, because its precondition failed earlier
)

// Report is the result of a run, in the order of the causes.
type Report struct {
	Bastions []string `json:"bastions"` // addresses
	Checks   []*Check `json:"checks"`
	Unseen   []string `json:"unseen,omitempty"` // files that could not be read without root
	Failed   int      `json:"failed"`
	Warnings int      `json:"warnings"`
	Skipped  int      `json:"skipped"`
}

// Check is one line of the report.
type Check struct {
	Name     string    `json:"name"`
	State    State     `json:"state"`
	Text     string    `json:"text"`
	Troubles []Trouble `json:"troubles,omitempty"`

	kinds map[string]bool
	mu    sync.Mutex // guards Troubles: bastions are asked concurrently
}

// Trouble is something wrong: a failure or a warning.
type Trouble struct {
	ID      string   `json:"id"`
	Warning bool     `json:"warning,omitempty"`
	Seen    []string `json:"seen"`
	Cause   string   `json:"cause"`
	Cure    []string `json:"cure"`
}

func (c *Check) fail(id string, v values) { c.add(id, false, v) }
func (c *Check) warn(id string, v values) { c.add(id, true, v) }

func (c *Check) add(id string, warning bool, v values) {
	t := find(id)
	out := Trouble{ID: id, Warning: warning, Seen: t.seen, Cause: printable(v.fill(t.cause)), Cure: []string{}}
	for _, s := range t.cure {
		if c.applies(s.on, v) {
			out.Cure = append(out.Cure, printable(v.fill(s.do)))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.Troubles, func(o Trouble) bool { return o.ID == out.ID && o.Cause == out.Cause }) {
		c.Troubles = append(c.Troubles, out)
	}
}

// applies reports whether a step is for this kind of node, and for the family of the bastion's address.
func (c *Check) applies(on string, v values) bool {
	if on != "ipv4" && on != "ipv6" {
		return on == "" || c.kinds[on]
	}
	a, err := netip.ParseAddr(v["bastion"])
	return err != nil || a.Is4() == (on == "ipv4")
}

// run is the state of one run.
type run struct {
	cfg       Config
	node      node
	mirror    bool   // whether the mode is "mirror"
	lost      []lost // the families that this node cannot reach
	report    *Report
	site      nodeconf.Site
	roots     []*x509.Certificate // the bastions' roots, as reported by them
	trust     *x509.CertPool      // the node's trust store
	bundle    string              // the file that trust was read from
	endpoints []*endpoint
	source    string // how the bastions were discovered
	outside   []netip.AddrPort
	sample    Sample
	states    map[string]State
}

// Run runs the checks. An error means that they could not be run at all; it wraps fs.ErrInvalid if an argument is
// wrong.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	for port, known := range map[*uint16]uint16{&cfg.Ports.HTTP: 80, &cfg.Ports.HTTPS: 443, &cfg.Ports.DNS: 53} {
		if *port == 0 {
			*port = known
		}
	}
	if cfg.Env == nil {
		cfg.Env = os.Environ()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.dial == nil {
		cfg.dial = (&net.Dialer{}).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, wholeRun*second)
	defer cancel()
	r := &run{cfg: cfg, report: &Report{Bastions: []string{}}, states: map[string]State{}}
	if cfg.Image != "" {
		if _, err := parseRef(cfg.Image); err != nil {
			return nil, err
		}
	}
	if err := checkFile(cfg.File); err != nil {
		return nil, err
	}
	outside, err := parseOutside(cfg.Outside)
	if err != nil {
		return nil, err
	}
	r.outside = outside
	if cfg.Mode != "" && !slices.Contains(Modes, cfg.Mode) {
		return nil, fmt.Errorf("the mode must be %s, got %q: %w", strings.Join(Modes, " or "), clip(cfg.Mode),
			fs.ErrInvalid)
	}
	r.readNode()
	names := r.checkNames
	if r.mirror {
		names = r.checkOwnNames
	}
	if err := r.discover(ctx); err != nil {
		return nil, err
	}
	for _, d := range r.endpoints {
		r.report.Bastions = append(r.report.Bastions, d.addr.String())
	}
	steps := []struct {
		name string
		most time.Duration // seconds
		f    func(context.Context, *Check)
		need []func() string
	}{
		{"bastions", 10, r.checkBastions, nil},
		{"resolver", 1, r.checkResolver, []func() string{r.knowSite}},
		{"names", 14, names, []func() string{r.knowSite, r.haveEndpoint}},
		{"clock", 1, r.checkClock, []func() string{r.knowSite}},
		{"trust", 14, r.checkTrust, []func() string{r.knowSite, r.haveEndpoint}},
		{"overrules", 2, r.checkOverrules, []func() string{r.knowSite}},
		{"registries", 10, r.checkRegistries, []func() string{r.knowSite, r.haveEndpoint, r.after("clock"),
			r.after("trust")}},
		{"pull", 15, r.checkPull, []func() string{r.knowSite, r.haveEndpoint, r.after("clock"), r.after("trust")}},
		{"file", 15, r.checkFile, []func() string{r.knowSite, r.haveEndpoint, r.after("clock"), r.after("trust")}},
		{"transfer", 20, r.checkTransfer, []func() string{r.knowSite, r.haveEndpoint, r.after("clock"),
			r.after("trust")}},
		{"outside", 8, r.checkOutside, nil},
	}
	for _, s := range steps {
		if s.name == "resolver" && r.mirror {
			continue // a node in mirror mode keeps its resolver, so the resolver does not identify the bastions
		}
		if s.name == "outside" && len(r.outside) == 0 {
			continue
		}
		c := &Check{Name: s.name, kinds: r.node.kinds}
		for _, need := range s.need {
			if c.Text == "" {
				c.Text = need()
			}
		}
		switch {
		case c.Text != "":
			c.State = Skipped
		case ctx.Err() != nil:
			c.State, c.Text = Skipped, "there was no time left"
		default:
			own, stop := context.WithTimeout(ctx, s.most*second)
			s.f(own, c)
			stop()
		}
		r.finish(c)
	}
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return nil, err
	}
	slices.Sort(r.report.Unseen)
	r.report.Unseen = slices.Compact(r.report.Unseen)
	return r.report, nil
}

// finish sets the state of a check and adds it to the report.
func (r *run) finish(c *Check) {
	c.Text = printable(c.Text)
	slices.SortStableFunc(c.Troubles, func(a, b Trouble) int { // failures first, then in the order of the causes
		if a.Warning != b.Warning {
			if b.Warning {
				return -1
			}
			return 1
		}
		return place(a.ID) - place(b.ID)
	})
	if c.State == "" {
		c.State = OK
		for _, t := range c.Troubles {
			if !t.Warning {
				c.State = Failed
			} else if c.State == OK {
				c.State = Warning
			}
		}
	}
	switch c.State {
	case Failed:
		r.report.Failed++
	case Warning:
		r.report.Warnings++
	case Skipped:
		r.report.Skipped++
	}
	r.states[c.Name] = c.State
	r.report.Checks = append(r.report.Checks, c)
}

func place(id string) int {
	return slices.IndexFunc(troubles, func(t trouble) bool { return t.id == id })
}

// knowSite, haveEndpoint and after return the reason why a check must be skipped, or "".
func (r *run) knowSite() string {
	if len(r.site.Nodes) == 0 {
		return "no bastion reports what it serves"
	}
	return ""
}

func (r *run) haveEndpoint() string {
	if len(r.open()) == 0 {
		return "no bastion can be reached"
	}
	return ""
}

func (r *run) after(check string) func() string {
	return func() string {
		if r.states[check] == Failed {
			return "the check of " + check + " failed"
		}
		return ""
	}
}

// open returns the endpoints that can be used.
func (r *run) open() (list []*endpoint) {
	for _, d := range r.endpoints {
		if d.https == nil && d.http == nil {
			list = append(list, d)
		}
	}
	return list
}

// read reads a file of the node. It records files that cannot be read without root.
func (r *run) read(name string) (string, bool) {
	path := filepath.Join(r.cfg.Root, name)
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", false // opening a pipe could block forever
	}
	f, err := os.Open(path)
	if err != nil {
		r.unseen(name, err)
		return "", false
	}
	defer f.Close()
	data, err := readUpTo(f, maxConfig)
	if err != nil {
		r.unseen(name, err)
		return "", false
	}
	return string(data), true
}

func (r *run) unseen(name string, err error) {
	if errors.Is(err, fs.ErrPermission) {
		r.report.Unseen = append(r.report.Unseen, name)
	}
}

// glob returns the files of the node that match a pattern relative to its root.
func (r *run) glob(pattern string) (list []string) {
	dir := strings.TrimSuffix(filepath.Dir(pattern), "/*")
	if _, err := os.ReadDir(filepath.Join(r.cfg.Root, dir)); err != nil {
		r.unseen(dir, err)
	}
	found, _ := filepath.Glob(filepath.Join(r.cfg.Root, pattern)) // the only possible error is a malformed pattern
	for _, f := range found {
		if rel, err := filepath.Rel(r.cfg.Root, f); err == nil {
			list = append(list, "/"+rel)
		}
	}
	return list
}

// each calls f for 0 to n-1, up to atOnce concurrently, and waits for all calls. After ctx has ended it starts no
// more calls, and it returns how many it did not start.
func each(ctx context.Context, n, atOnce int, f func(i int)) (left int) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		if ctx.Err() != nil {
			left = n - i
			break
		}
		wg.Go(func() { defer func() { <-slots }(); f(i) })
	}
	wg.Wait()
	return left
}

// some formats the first items of a list.
func some(list []string) string {
	const few = 3
	if len(list) <= few+1 {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

func texts(addrs []netip.Addr) (list []string) {
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}
