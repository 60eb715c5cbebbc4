package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/dnsquery"
	"casemate/appliance/nodeconf"
)

// endpoint is one address of a bastion. Its errors record which of its ports cannot be reached; nil means reachable.
type endpoint struct {
	addr netip.Addr
	name string // the bastion's name, "" if unknown

	http, https, tcp, udp error
	site                  *nodeconf.Site
	behind                time.Duration // how far this node's clock is behind the bastion's clock
	dated                 bool
}

func (d *endpoint) whole() bool {
	return d.http == nil && d.https == nil && d.tcp == nil && d.udp == nil
}

// discover finds the bastions: those given as arguments, those that the node was enrolled with, or those among its
// resolvers that identify themselves as bastions. It adds every other bastion that the first one to answer lists.
func (r *run) discover(ctx context.Context) error {
	var found []netip.Addr
	sure := true
	switch {
	case len(r.cfg.Bastions) > 0:
		r.source = "named"
		for _, b := range r.cfg.Bastions {
			list, err := r.bastion(ctx, b)
			if err != nil {
				return err
			}
			found = append(found, list...)
		}
	case len(r.node.enrolled) > 0:
		r.source, found = "by "+EnrolledFile, r.node.enrolled
	case r.mirror:
		r.source, found = "by "+hostsFile, r.node.registry()
	default:
		r.source, sure = "by "+r.node.file, false
		found = r.node.servers
	}
	var endpoints []*endpoint
	at := func(a netip.Addr) int {
		return slices.IndexFunc(endpoints, func(d *endpoint) bool { return d.addr == a.Unmap() })
	}
	add := func(a netip.Addr, name string) {
		if i := at(a); i >= 0 {
			endpoints[i].name = name
		} else if len(endpoints) < maxBastions {
			endpoints = append(endpoints, &endpoint{addr: a.Unmap(), name: name})
		}
	}
	for _, a := range found {
		add(a, "")
	}
	r.try(ctx, endpoints)
	r.lost = r.lostFamilies(endpoints)
	if !sure { // a resolver that is not a bastion must not count as a bastion that is down
		endpoints = slices.DeleteFunc(endpoints, func(d *endpoint) bool { return d.site == nil })
	}
	for _, d := range endpoints {
		if d.site != nil {
			r.site = *d.site
			break
		}
	}
	known := len(endpoints)
	for _, n := range r.site.Nodes {
		for _, a := range n.Addrs {
			add(a, n.Name)
		}
	}
	r.try(ctx, endpoints[known:])
	r.endpoints, r.roots = endpoints, parseCerts([]byte(r.site.Roots))
	if len(endpoints) > 0 {
		r.lost = r.lostFamilies(endpoints)
	}
	return nil
}

// bastion resolves an argument: an address, or a name that this node can resolve.
func (r *run) bastion(ctx context.Context, arg string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(strings.Trim(arg, "[]")); err == nil {
		return []netip.Addr{a}, nil
	}
	if !hostName(arg) || strings.Contains(arg, ":") || strings.Trim(arg, "0123456789.") == "" {
		return nil, fmt.Errorf("BASTION must be an address or a name, got %q: %w", clip(arg), fs.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime*second)
	defer cancel()
	list, err := r.lookup(ctx, strings.ToLower(strings.TrimSuffix(arg, ".")))
	if err != nil {
		return nil, fmt.Errorf("this node cannot resolve the bastion's name %s; give its address instead: %s", arg,
			clip(why(err)))
	}
	return list, nil
}

// try tries all endpoints concurrently. Nodes with mirrors do not need port 53, so it is not reported for them.
func (r *run) try(ctx context.Context, endpoints []*endpoint) {
	var wg sync.WaitGroup
	for _, d := range endpoints {
		wg.Go(func() { d.http = r.fetchSite(ctx, d) })
		wg.Go(func() { d.https = r.reach(ctx, netip.AddrPortFrom(d.addr, r.cfg.Ports.HTTPS)) })
		if r.mirror {
			continue
		}
		wg.Go(func() { d.tcp = r.reach(ctx, netip.AddrPortFrom(d.addr, r.cfg.Ports.DNS)) })
		wg.Go(func() {
			q := &question{name: "registry.k8s.io", kind: dnsquery.A}
			_, d.udp = ask(ctx, r.cfg.dial, "udp", netip.AddrPortFrom(d.addr, r.cfg.Ports.DNS), []*question{q})
			if d.udp == nil && q.rcode == dnsquery.Refused {
				d.udp = errRefused
			}
		})
	}
	wg.Wait()
}

// errRefused means that the resolver refuses to answer this client.
var errRefused = errors.New("REFUSED")

func (r *run) reach(ctx context.Context, to netip.AddrPort) error {
	conn, err := r.cfg.dial.to(ctx, "tcp", to)
	if err == nil {
		conn.Close()
	}
	return err
}

// fetchSite fetches a bastion's /site.json. The document is not authenticated, so only names and addresses are used,
// and the roots only for comparison.
func (r *run) fetchSite(ctx context.Context, d *endpoint) error {
	begun := r.cfg.Now()
	var site nodeconf.Site
	resp, err := r.plain(ctx, d, "/site.json", maxSite, &site)
	if resp != nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			// Date has a resolution of one second and was written between the request and the response.
			d.behind, d.dated = date.Add(time.Second/2).Sub(begun.Add(r.cfg.Now().Sub(begun)/2)), true
		}
	}
	if err != nil {
		return err
	}
	if err := checkSite(&site); err != nil {
		return err
	}
	d.site = &site
	return nil
}

// errAnswer means that the response does not come from a bastion.
var errAnswer = errors.New("not a response of a bastion")

// plain gets a JSON document over plain HTTP.
func (r *run) plain(ctx context.Context, d *endpoint, path string, most int64, into any) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, siteTime)
	defer cancel()
	to := netip.AddrPortFrom(d.addr, r.cfg.Ports.HTTP)
	t := &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return r.cfg.dial.to(ctx, "tcp", to)
		}}
	// A zone is for this node only and not part of a URL.
	host := netip.AddrPortFrom(d.addr.WithZone(""), to.Port()).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: t, CheckRedirect: stay}).Do(req)
	if err != nil {
		return nil, silence(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp, fmt.Errorf("%w: %s", errAnswer, clip(resp.Status))
	}
	data, err := readUpTo(resp.Body, most)
	if err != nil {
		return resp, silence(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return resp, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return resp, nil
}

// errSilent means that a connection was made, but no response or an incomplete one came.
var errSilent = errors.New("no answer")

// silence turns a timeout after the connection was made into errSilent.
func silence(err error) error {
	var op *net.OpError
	if timeout(err) && !(errors.As(err, &op) && op.Op == "dial") {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return err
}

// stay follows no redirect: the redirect's target is not what is checked.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// checkSite refuses a document with malformed names, so that what is printed and requested later are valid names.
func checkSite(s *nodeconf.Site) error {
	if len(s.Nodes) == 0 || len(s.Addrs()) == 0 || len(s.Addrs()) > maxBastions || !hostName(s.Domain) {
		return fmt.Errorf("%w: it lists no bastions", errAnswer)
	}
	n := 0
	for _, node := range s.Nodes {
		if !hostName(node.Name) {
			return fmt.Errorf("%w: a bastion called %q", errAnswer, clip(node.Name))
		}
	}
	for _, o := range s.Origins {
		for _, h := range append([]string{o.Host}, o.Aliases...) {
			if n++; n > maxNames || !hostName(h) {
				return fmt.Errorf("%w: an origin called %q", errAnswer, clip(h))
			}
		}
	}
	return nil
}

func hostName(s string) bool {
	return s != "" && len(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r == '-' || r == '.' || r == '_' || r == ':' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' ||
			r >= 'A' && r <= 'Z')
	})
}

// parseAddrs reads one address per line; it skips comments and invalid addresses.
func parseAddrs(text string) (list []netip.Addr) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if a, err := netip.ParseAddr(strings.TrimSpace(line)); err == nil {
			list = append(list, a.Unmap())
		}
	}
	return list
}

func parseCerts(data []byte) (list []*x509.Certificate) {
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return list
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil && b.Type == "CERTIFICATE" {
			list = append(list, c)
		}
	}
}

// readUpTo reads everything, which must be at most most bytes.
func readUpTo(from io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%w: it is longer than %d bytes", errAnswer, most)
	}
	return data, err
}

// checkBastions checks that each bastion can be reached.
func (r *run) checkBastions(_ context.Context, c *Check) {
	if len(r.endpoints) == 0 && r.mirror {
		c.fail("not-enrolled", values{"file": hostsFile, "detail": EnrolledFile})
		c.Text = "no bastion was found"
		return
	}
	if len(r.endpoints) == 0 && len(r.lost) > 0 {
		for _, l := range r.lost {
			c.checkFamily(l, c.fail, func(*endpoint) bool { return false })
		}
		c.Text = "no bastion was found"
		return
	}
	if len(r.endpoints) == 0 {
		servers := some(texts(r.node.servers))
		if servers == "" {
			servers = "it asks none"
		}
		c.fail("no-bastion", values{"detail": servers})
		c.Text = "no bastion was found"
		return
	}
	whole := map[string]bool{} // by bastion: at least one of its addresses works
	all := map[string]bool{}
	for _, d := range r.endpoints {
		all[d.key()] = true
		whole[d.key()] = whole[d.key()] || d.whole()
	}
	up := 0
	for _, ok := range whole {
		if ok {
			up++
		}
	}
	// As long as another bastion works, clients fail over to it, only later: a warning.
	report := c.fail
	if up > 0 {
		report = c.warn
	}
	for _, l := range r.lost {
		c.checkFamily(l, report, func(d *endpoint) bool { return whole[d.key()] })
	}
	for _, d := range r.endpoints {
		if d.whole() || r.lostFor(d.addr) != nil || whole[d.key()] && noRoute(d.http) {
			continue // the family has been reported; the bastion's other address is enough
		}
		byID := map[string][]string{}
		for _, p := range []struct {
			port uint16
			what string
			err  error
		}{{r.cfg.Ports.HTTP, "tcp", d.http}, {r.cfg.Ports.HTTPS, "tcp", d.https}, {r.cfg.Ports.DNS, "tcp", d.tcp}, {
			r.cfg.Ports.DNS, "udp", d.udp}} {
			if p.err != nil {
				byID[reachID(p.err)] = append(byID[reachID(p.err)], fmt.Sprintf("%d/%s", p.port, p.what))
			}
		}
		for id, ports := range byID {
			if id == "stall" { // clients choose this bastion and hang
				c.fail(id, values{"name": "http://" + nodeconf.URLHost(d.addr) + "/site.json",
					"bastion": d.addr.String(), "detail": "the connection was made, but no complete response came"})
				continue
			}
			report(id, values{"bastion": d.addr.String(), "detail": d.addr.String() + " port " +
				strings.Join(ports, ", ")})
		}
	}
	ports := fmt.Sprintf("%d, %d and %d (udp, tcp)", r.cfg.Ports.HTTP, r.cfg.Ports.HTTPS, r.cfg.Ports.DNS)
	if r.mirror {
		ports = fmt.Sprintf("%d and %d", r.cfg.Ports.HTTP, r.cfg.Ports.HTTPS)
	}
	c.Text = fmt.Sprintf("%d of %d can be reached at %s; known %s", up, len(all), ports, r.source)
}

// key is the same for all addresses of a bastion.
func (d *endpoint) key() string {
	if d.name != "" {
		return d.name
	}
	return d.addr.String()
}

// reachID returns the id of the trouble that a connection error means.
func reachID(err error) string {
	switch {
	case errors.Is(err, errRefused):
		return "dns-refused"
	case errors.Is(err, errAnswer):
		return "not-casemate"
	case errors.Is(err, errSilent):
		return "stall"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	}
	return "unreachable"
}

// Limits for the difference between two clocks. Certificates are back-dated by a day, so five minutes do not break
// TLS; they do break tokens, logs and certificates of other CAs.
const (
	clockWarn = 30 * time.Second
	clockFail = 5 * time.Minute
)

// checkClock compares the clocks, using the Date header of the responses.
func (r *run) checkClock(_ context.Context, c *Check) {
	var all []time.Duration
	for _, d := range r.endpoints {
		if d.dated && d.site != nil {
			all = append(all, d.behind)
		}
	}
	if len(all) == 0 {
		c.State, c.Text = Skipped, "no bastion reports its time"
		return
	}
	slices.Sort(all)
	middle := all[len(all)/2]
	for _, d := range r.endpoints {
		if off := d.behind - middle; d.dated && d.site != nil && off.Abs() > clockWarn {
			c.warn("bastion-clock", values{"bastion": d.addr.String(), "detail": off.Abs().Round(time.Second).String()})
		}
	}
	how := "behind"
	if middle < 0 {
		how = "ahead"
	}
	text := middle.Abs().Round(time.Second).String()
	v := values{"bastion": r.open1(), "detail": text + " " + how}
	switch {
	case middle.Abs() > clockFail:
		c.fail("clock", v)
	case middle.Abs() > clockWarn:
		c.warn("clock", v)
	}
	c.Text = text + " from the bastions'"
}

// open1 returns one reachable bastion's address, to be filled into the command of a cure.
func (r *run) open1() string {
	for _, d := range r.endpoints {
		if d.whole() {
			return d.addr.String()
		}
	}
	if len(r.endpoints) > 0 {
		return r.endpoints[0].addr.String()
	}
	return "BASTION"
}

// client returns a client that sends requests for every name to one bastion and uses the node's trust store.
func (r *run) client(d *endpoint) *http.Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return r.cfg.dial.to(ctx, "tcp", netip.AddrPortFrom(d.addr, r.cfg.Ports.HTTPS))
		},
		TLSClientConfig: &tls.Config{RootCAs: r.trust, Time: r.cfg.Now}, TLSHandshakeTimeout: (probeTime + 1) * second,
		ResponseHeaderTimeout: 8 * second,
		ForceAttemptHTTP2:     true, MaxIdleConnsPerHost: 2, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, // the bytes are compared
	}
	if r.mirror {
		return &http.Client{CheckRedirect: stay, Transport: &anonymous{t, "registry." + r.site.Domain}}
	}
	return &http.Client{CheckRedirect: stay, Transport: t}
}
