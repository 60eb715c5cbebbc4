package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// This file has what differs for a node in mirror mode: it keeps its resolver, knows the bastions' own names, usually
// from its hosts file, and uses them for all requests.

// shared returns the own names that resolve to all bastions.
func (r *run) shared() []string {
	return []string{"registry." + r.site.Domain, "files." + r.site.Domain, r.site.Domain}
}

// own returns all of the bastions' own names, the shared ones first.
func (r *run) own() []string {
	list := r.shared()
	for _, n := range r.site.Nodes {
		list = append(list, r.site.Host(n))
	}
	return list
}

// asked returns the names that programs on this node use.
func (r *run) asked() []string {
	if r.mirror {
		return r.own()
	}
	return r.names()
}

// owner returns the bastion with that own name, nil if the name is shared: other bastions need no certificate for it.
func (r *run) owner(name string) (found *endpoint) {
	for _, d := range r.endpoints {
		if d.name != "" && d.name+"."+r.site.Domain == name && (found == nil || found.https != nil) {
			found = d
		}
	}
	return found
}

// registry returns the addresses in the hosts file for a name like registry.<domain>: the domain is unknown until a
// bastion has answered.
func (n node) registry() (list []netip.Addr) {
	for name, addrs := range n.hosts {
		if domain, ok := strings.CutPrefix(name, "registry."); ok && n.hosts["files."+domain] != nil {
			list = append(list, addrs...)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// checkOwnNames checks that each of the bastions' own names resolves to bastions.
func (r *run) checkOwnNames(ctx context.Context, c *Check) {
	names := r.own()
	var f findings
	left := r.follow(ctx, names, func(name string, others []string, err error) {
		var no *net.DNSError
		switch {
		case err != nil:
			detail := why(err)
			if asDNS(err, &no) {
				detail = no.Err // without the name, so that all names with this cause are one trouble
			}
			f.add("own-name-lost", clip(detail), name)
		case others != nil && r.node.hosts[name] != nil:
			f.add("hosts-file", some(others), name)
		case others != nil:
			f.add("own-name-elsewhere", some(others), name)
		}
	})
	bad := map[string]bool{}
	for _, list := range f.names {
		for _, name := range list {
			bad[name] = true
		}
	}
	// A bastion added after the node was enrolled is needed only while the others are down.
	report, shared := c.warn, len(r.shared())
	isBad := func(n string) bool { return bad[n] }
	if slices.ContainsFunc(names[:shared], isBad) || len(bad) == len(names)-shared {
		report = c.fail
	}
	f.report(report, func(detail string, names []string) values {
		return values{"detail": detail, "names": some(names), "name": names[0], "file": hostsFile, "bastion": r.open1()}
	})
	c.Text = some(names) + ", each at a bastion's address" + unbegun(left)
	if len(bad) > 0 {
		c.Text = some(names)
	}
}

// asAsked rewrites an image name to the form that a node in this mode uses: below registry.<domain>, prefixed with
// its registry's name.
func (r *run) asAsked(f ref) ref {
	own := "registry." + r.site.Domain
	if !r.mirror || f.host == own {
		return f
	}
	if f.host == dockerHub {
		f.host = "docker.io"
	}
	f.host, f.repo = own, f.host+"/"+f.repo
	return f
}

// fileAsAsked does the same for a file's URL.
func (r *run) fileAsAsked(address string) string {
	own := "https://files." + r.site.Domain + "/"
	if !r.mirror || strings.HasPrefix(address, own) {
		return address
	}
	return own + withoutScheme(address)
}

func withoutScheme(address string) string {
	return strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
}

// anonymous gets the token that the bastions' own registry requires, like every client, without a password: a
// challenge in response to a request with that token is a failure.
type anonymous struct {
	*http.Transport
	registry string // the token is sent only to this host
}

// challengeParam is a parameter of a challenge (RFC 9110 section 11.2, in the quoted form that all registries use).
var challengeParam = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

const maxToken = 64 << 10

func (a *anonymous) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := a.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.URL.Hostname() != a.registry {
		return resp, err
	}
	token, err := a.token(req.Context(), resp.Header.Get("WWW-Authenticate"))
	if token == "" && err == nil {
		return resp, nil
	}
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	return a.Transport.RoundTrip(req)
}

// token gets an anonymous token, "" if the registry grants none (distribution's docs/spec/auth/token.md). An error
// means that the request failed.
func (a *anonymous) token(ctx context.Context, challenge string) (string, error) {
	params, ok := strings.CutPrefix(challenge, "Bearer ")
	v := map[string]string{}
	for _, m := range challengeParam.FindAllStringSubmatch(params, -1) {
		v[m[1]] = m[2]
	}
	realm, err := url.Parse(v["realm"])
	if !ok || err != nil || realm.Scheme != "https" || realm.Hostname() != a.registry {
		return "", nil
	}
	q := realm.Query()
	for _, name := range []string{"service", "scope"} {
		if v[name] != "" {
			q.Set(name, v[name])
		}
	}
	realm.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := a.Transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	data, err := readUpTo(moving(resp.Body), maxToken)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(data, &answer) != nil {
		return "", nil
	}
	token := cmp.Or(answer.Token, answer.Access)
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", nil // not valid in a header
	}
	return token, nil
}
