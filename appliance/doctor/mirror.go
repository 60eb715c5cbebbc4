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

// This file is what is different for a node whose DNS is left alone: it knows the bastions' own names, by its hosts
// file as a rule, and asks for everything by them.

// shared are the own names that stand for all bastions.
func (r *run) shared() []string {
	return []string{"registry." + r.site.Domain, "files." + r.site.Domain, r.site.Domain}
}

// own are all of the bastions' own names, the shared ones first.
func (r *run) own() []string {
	list := r.shared()
	for _, n := range r.site.Nodes {
		list = append(list, r.site.Host(n))
	}
	return list
}

// asked are the names that programs on this node ask for.
func (r *run) asked() []string {
	if r.mirror {
		return r.own()
	}
	return r.names()
}

// owner is the bastion whose own name that is, nil if it is nobody's alone: others need not have a certificate for it.
func (r *run) owner(name string) (found *door) {
	for _, d := range r.doors {
		if d.name != "" && d.name+"."+r.site.Domain == name && (found == nil || found.https != nil) {
			found = d
		}
	}
	return found
}

// registry are the addresses that the hosts file has for a name like registry.<domain>: the domain is not known before
// a bastion has answered.
func (n node) registry() (list []netip.Addr) {
	for name, addrs := range n.hosts {
		if domain, ok := strings.CutPrefix(name, "registry."); ok && n.hosts["files."+domain] != nil {
			list = append(list, addrs...)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// checkOwnNames: does each of the bastions' own names lead to bastions?
func (r *run) checkOwnNames(ctx context.Context, c *Check) {
	names := r.own()
	var f findings
	left := r.follow(ctx, names, func(name string, others []string, err error) {
		var no *net.DNSError
		switch {
		case err != nil:
			detail := why(err)
			if asDNS(err, &no) {
				detail = no.Err // without the name, so that all with this cause are one trouble
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
	// A bastion that came after the node was enrolled is missed only when the others are down.
	report, shared := c.warn, len(r.shared())
	isBad := func(n string) bool { return bad[n] }
	if slices.ContainsFunc(names[:shared], isBad) || len(bad) == len(names)-shared {
		report = c.fail
	}
	f.tell(report, func(detail string, names []string) values {
		return values{"detail": detail, "names": some(names), "name": names[0], "file": hostsFile, "bastion": r.open1()}
	})
	c.Text = some(names) + ", each at a bastion's address" + unbegun(left)
	if len(bad) > 0 {
		c.Text = some(names)
	}
}

// asAsked is an image as a node of this mode asks for it: below registry.<domain>, with its registry's name in front.
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

// fileAsAsked is the same for a file's URL.
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

// anonymous gets the token that the bastions' own registry wants, as every client does, and has no password: what is
// asked for once more after it still is a challenge.
type anonymous struct {
	*http.Transport
	registry string // a token goes to nobody else
}

// challengeParam is a parameter of a challenge (RFC 9110 section 11.2, with the quotes that all registries write).
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

// token is an anonymous one, "" if nobody gets one (distribution's docs/spec/auth/token.md). An error says that it
// could not be asked for.
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
		return "", nil // no header could carry it
	}
	return token, nil
}
