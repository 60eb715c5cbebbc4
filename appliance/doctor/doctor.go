// Package doctor finds out, on a node, why it cannot use the bastions: it checks in the order of the causes and says
// for each failure the text that people will have seen, its cause and its cure.
//
// It promises: nothing is written; every wait is bounded, and all of a run takes less than a minute even if everything
// is dead; nothing that comes over plain http is believed beyond names and addresses, what it asks by those names is
// verified against the trust of the node and nothing else; what it may not read without root it names, and does not
// guess.
package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
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
	lookups     = 32   // names that are resolved at once: each may wait for a resolver that is dead
	maxNames    = 2000 // origins with their aliases that are checked
	maxBastions = 32   // addresses
)

// second is what the limits of a run are counted in, and siteTime is what an answer on port 80 may take. Tests make
// them longer, for busy machines.
var (
	second   = time.Second
	siteTime = (probeTime + 1) * second
)

// EnrolledFile is where the enrol script leaves the mode of the node ("mode mirror") and the addresses of the bastions,
// one on a line.
const EnrolledFile = "/etc/casemate/bastions"

// Modes are how a node finds the bastions: "dns" asks them for names, "mirror" knows their own names and has mirrors.
var Modes = []string{"dns", "mirror"}

// Ports are where a bastion is asked; zero is the well-known one.
type Ports struct{ HTTP, HTTPS, DNS uint16 }

// Config says what to check. The zero value checks this node as it stands.
type Config struct {
	// Bastions are addresses or names; none: they are looked for.
	Bastions []string
	// Mode is one of Modes; "": what the enrol script has left, or "dns".
	Mode string
	// Image and File are what is pulled and downloaded; "": what the bastions name.
	Image, File string
	// Root is where /etc, /run and /proc of the node are; "" is "/". With another one names are resolved by what stands
	// there.
	Root string
	// Ports are the bastions'.
	Ports Ports
	// Env is the environment; nil is the process's.
	Env []string
	// Now is the node's clock; nil is time.Now.
	Now func() time.Time
}

// State is how a check ended.
type State string

const (
	OK      State = "ok"
	Warning State = "warning" // it works, and not as it should
	Failed  State = "failed"
	Skipped State = "skipped" // it could only fail too, of something said above
)

// Report is what was found, in the order of the causes.
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
	mu    sync.Mutex // of Troubles: bastions are asked at once
}

// Trouble is something wrong: a failure, or a warning.
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
		if s.on == "" || c.kinds[s.on] {
			out.Cure = append(out.Cure, printable(v.fill(s.do)))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.Troubles, func(o Trouble) bool { return o.ID == out.ID && o.Cause == out.Cause }) {
		c.Troubles = append(c.Troubles, out)
	}
}

// run is one run.
type run struct {
	cfg    Config
	node   node
	mirror bool // the mode
	report *Report
	site   nodeconf.Site
	roots  []*x509.Certificate // the bastions', as they say
	trust  *x509.CertPool      // the node's
	bundle string              // the file that trust comes from
	doors  []*door
	source string // where the bastions are known from
	sample Sample
	states map[string]State
}

// Run checks. An error says that it could not be checked at all; fs.ErrInvalid is in it if an argument is wrong.
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
	if cfg.Mode != "" && !slices.Contains(Modes, cfg.Mode) {
		return nil, fmt.Errorf("the mode must be %s, got %q: %w", strings.Join(Modes, " or "), clip(cfg.Mode), fs.ErrInvalid)
	}
	r.readNode()
	names := r.checkNames
	if r.mirror {
		names = r.checkOwnNames
	}
	if err := r.discover(ctx); err != nil {
		return nil, err
	}
	for _, d := range r.doors {
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
		{"names", 14, names, []func() string{r.knowSite, r.haveDoor}},
		{"clock", 1, r.checkClock, []func() string{r.knowSite}},
		{"trust", 14, r.checkTrust, []func() string{r.knowSite, r.haveDoor}},
		{"overrules", 2, r.checkOverrules, []func() string{r.knowSite}},
		{"registries", 10, r.checkRegistries, []func() string{r.knowSite, r.haveDoor, r.after("clock"), r.after("trust")}},
		{"pull", 15, r.checkPull, []func() string{r.knowSite, r.haveDoor, r.after("clock"), r.after("trust")}},
		{"file", 15, r.checkFile, []func() string{r.knowSite, r.haveDoor, r.after("clock"), r.after("trust")}},
		{"transfer", 20, r.checkTransfer, []func() string{r.knowSite, r.haveDoor, r.after("clock"), r.after("trust")}},
	}
	for _, s := range steps {
		if s.name == "resolver" && r.mirror {
			continue // it is left alone, so whom it asks says nothing
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

// finish says how a check ended and puts it into the report.
func (r *run) finish(c *Check) {
	c.Text = printable(c.Text)
	slices.SortStableFunc(c.Troubles, func(a, b Trouble) int { // failures first, then as people look for them: in the order of the causes
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

// knowSite, haveDoor and after say why a check would be idle; "" is that it is not.
func (r *run) knowSite() string {
	if len(r.site.Nodes) == 0 {
		return "no bastion says what it serves"
	}
	return ""
}

func (r *run) haveDoor() string {
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

// open are the doors that can be used.
func (r *run) open() (list []*door) {
	for _, d := range r.doors {
		if d.https == nil && d.http == nil {
			list = append(list, d)
		}
	}
	return list
}

// read reads a file of the node. What may not be read without root is remembered.
func (r *run) read(name string) (string, bool) {
	path := filepath.Join(r.cfg.Root, name)
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", false // opening a pipe could take for ever
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

// glob are files of the node, by a pattern below its root.
func (r *run) glob(pattern string) (list []string) {
	dir := strings.TrimSuffix(filepath.Dir(pattern), "/*")
	if _, err := os.ReadDir(filepath.Join(r.cfg.Root, dir)); err != nil {
		r.unseen(dir, err)
	}
	found, _ := filepath.Glob(filepath.Join(r.cfg.Root, pattern)) // only a bad pattern is an error
	for _, f := range found {
		if rel, err := filepath.Rel(r.cfg.Root, f); err == nil {
			list = append(list, "/"+rel)
		}
	}
	return list
}

// each calls f for 0 to n-1, a few at once, and waits for all. It begins none any more when ctx has ended, and returns
// how many it has not begun.
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

// some names the first of a list.
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

// bastions are the addresses that a node should ask, those that can be reached first.
func (r *run) bastions() string {
	var up, down []string
	for _, d := range r.doors {
		if d.whole() {
			up = append(up, d.addr.String())
		} else {
			down = append(down, d.addr.String())
		}
	}
	list := append(up, down...)
	if len(list) > 3 { // more than three nobody asks
		list = list[:3]
	}
	return strings.Join(list, " ")
}
