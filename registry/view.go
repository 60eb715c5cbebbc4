package registry

import (
	"fmt"
	"strings"
)

// place is the meaning of a name in a view: one repository when the name is taken literally, and other places where a
// read may look.
type place struct {
	// origin is the canonical origin, "" where the name does not include one (the flat view).
	origin string
	// known reports whether origin is enabled. Content of an origin that was disabled can still be read.
	known bool
	// path is the repository below the origin.
	path string
	// also is the repository that may have been meant instead, or "": a prefix takes precedence over ns, but may only
	// look like a host.
	also string
}

// canonical is the one repository that the name denotes: the target of writes, and the name in the missing book.
func (p place) canonical() string {
	switch {
	case p.origin == "":
		return p.path
	case p.origin == "docker.io" && !strings.Contains(p.path, "/"):
		return "docker.io/library/" + p.path // as every client writes it
	}
	return p.origin + "/" + p.path
}

// exactRepository is the literal repository below the origin, or "" where there can be none: a host without a dot that
// is no origin of ours ("harbor:5000") would collide with a local repository.
func (p place) exactRepository() string {
	if p.origin == "" || !p.known && !strings.Contains(p.origin, ".") {
		return ""
	}
	return p.origin + "/" + p.path
}

// fold returns the canonical origin of a host and whether it is one of ours.
func (r *Registry) fold(host string) (string, bool) {
	host = bareHost(host)
	if origin, ok := r.cfg.Canonical(host); ok {
		return origin, true
	}
	return host, false
}

// own reports whether host is a name of the appliance itself, which does not identify an origin. The host of the
// request counts too: an address, or a name that only the site's own DNS knows.
func (r *Registry) own(host string, v View) bool {
	host = bareHost(host)
	domain := r.cfg.Domain
	return host == domain || strings.HasSuffix(host, "."+domain) || host == bareHost(v.Host)
}

// hostPart splits off a first element that is a host: one with a dot or a port that is followed by something.
func hostPart(name string) (host, rest string, ok bool) {
	host, rest, ok = strings.Cut(name, "/")
	return host, rest, ok && strings.ContainsAny(host, ".:")
}

// locate interprets a valid name as the client wrote it in view v, with the value of ns ("" without). On an origin's
// host the name belongs to the origin. On our own names a first element that is a host takes precedence (ns may repeat
// it), then ns; with neither the name is flat.
func (r *Registry) locate(asked, ns string, v View) (place, *apiError) {
	if v.Origin != "" {
		p := place{origin: v.Origin, known: true, path: asked}
		if host, rest, ok := hostPart(asked); ok {
			port := strings.Contains(host, ":")
			if origin, _ := r.fold(host); origin != v.Origin {
				if port {
					return p, errNameInvalid.with("a name on the host of an origin has no other host in it")
				}
			} else if port {
				p.path = rest
			} else {
				p.also = v.Origin + "/" + rest
			}
		}
		return p, r.bound(p)
	}
	host, rest, prefixed := hostPart(asked)
	for prefixed && r.own(host, v) { // the host says it already, and some mirrors' configurations repeat it
		asked = rest
		host, rest, prefixed = hostPart(asked)
	}
	var p, named place
	if ns != "" && !r.own(ns, v) {
		named.origin, named.known = r.fold(ns)
		named.path = asked
	}
	switch {
	case prefixed:
		p.origin, p.known = r.fold(host)
		p.path = rest
		if named.origin != "" && named.origin != p.origin && !p.known && !strings.Contains(host, ":") {
			p.also = named.exactRepository()
		}
	case named.origin != "":
		p = named
	default:
		p.path = asked
	}
	return p, r.bound(p)
}

// bound refuses a name that is too long or invalid together with its origin.
func (r *Registry) bound(p place) *apiError {
	if strings.Contains(p.origin, ":") {
		return errNameInvalid.with("an IPv6 address is no origin")
	}
	if len(p.canonical()) > maxName {
		return errNameInvalid.with("a repository name has at most 255 characters, its origin included")
	}
	return nil
}

// checkWritable refuses a push or a delete of a name that the tree does not accept. Permissions are checked elsewhere.
func (r *Registry) checkWritable(rt route) *apiError {
	p := rt.place
	switch {
	case rt.view.Origin != "":
		return errUnsupported.with(fmt.Sprintf("%s is read-only here: push to registry.%s/%s", rt.view.Origin,
			r.cfg.Domain, p.canonical()))
	case p.origin != "" && !p.known:
		return errDenied.with(fmt.Sprintf("%s is not an origin here: run casemate origin add %s, or push to a name "+
			"without a host", p.origin, p.origin))
	case p.origin == "" && strings.ContainsAny(strings.SplitN(p.path, "/", 2)[0], "."):
		return errDenied.with(fmt.Sprintf("%s looks like an origin: a name whose first element has a dot needs a path "+
			"below it (casemate origin add), other names have no dot there", p.path))
	}
	return nil
}
