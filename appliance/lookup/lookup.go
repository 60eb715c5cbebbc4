// Package lookup determines what clients would get now, for `casemate check` and for the missing book, where it tells
// which entries are solved.
package lookup

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"casemate/appliance/content"
	"casemate/appliance/current"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/reply"
	"casemate/appliance/routing"
	"casemate/cluster"
	"casemate/fileserver"
	"casemate/registry"
)

// Lookup calls the services without a client.
type Lookup struct {
	Tree    *cluster.Tree
	Current *current.Reader
	Images  *registry.Registry
	Files   *fileserver.Server
	// NotPermitted returns why names that the root does not permit are not enabled, and what changes that.
	NotPermitted func(names ...string) string
	// DNSHolds returns a function that reports whether DNS resolves a name from the tree.
	DNSHolds func(v *current.State) func(name string) bool
}

// Check reports which items of req clients do not get here.
func (l *Lookup) Check(ctx context.Context, req content.CheckRequest) (*content.Report, error) {
	return l.checker().Check(ctx, req)
}

func (l *Lookup) checker() *content.Checker {
	return &content.Checker{
		Images: l.Images, Files: filesAsAsked{l.Files, l.Current.State().Hosts}, Open: l.Tree.OpenBlob,
		Has:       l.Tree.HasBlob,
		Tags:      func(repository string) []string { return slices.Collect(l.Images.Tags(repository)) },
		Unreached: l.unreached,
	}
}

func (l *Lookup) hasTags(repository string) bool {
	for range l.Images.Tags(repository) {
		return true
	}
	return false
}

// filesAsAsked resolves URLs like clients request them, including the bastions' own names:
// https://files.DOMAIN/HOST/PATH is https://HOST/PATH. (The registry resolves its own names itself.)
type filesAsAsked struct {
	*fileserver.Server
	hosts *routing.Hosts
}

func (f filesAsAsked) Resolve(ctx context.Context, rawURL string) (fileserver.Info, string, error) {
	if u, err := url.Parse(rawURL); err == nil && u.Host != "" {
		path := u.RequestURI()
		at, _ := f.hosts.Find(u.Host)
		below, isFile := strings.CutPrefix(path, "/files/")
		switch {
		case at == routing.Files:
			return f.Server.Resolve(ctx, path)
		case at == routing.Self && isFile:
			return f.Server.Resolve(ctx, "/"+below)
		}
	}
	return f.Server.Resolve(ctx, rawURL)
}

// unreached returns why clients of host are not served here and what changes that; "" if they are.
func (l *Lookup) unreached(host string) string {
	v := l.Current.State()
	if at, _ := v.Hosts.Find(host); at != routing.Unknown {
		return ""
	}
	o, known := v.Origins.Get(host)
	switch {
	case !known:
		return fmt.Sprintf("%s is not an origin: to add it: casemate origin add %s", reply.Clip(origin.Fold(host)),
			reply.Clip(origin.Fold(host)))
	case o.Disabled == origin.NotPermitted:
		return fmt.Sprintf("origin %s is not enabled: %s", o.Host, l.NotPermitted(o.Names()...))
	}
	return fmt.Sprintf("origin %s is not enabled: %s; to enable it again: casemate origin add %s", o.Host, o.Disabled,
		o.Host)
}

// Enabling returns what makes clients of host be served here, "" if they are.
func (l *Lookup) Enabling(host string) string {
	if l.unreached(host) == "" {
		return ""
	}
	if o, known := l.Current.State().Origins.Get(host); known && o.Disabled == origin.NotPermitted {
		return "none while it is " + l.NotPermitted(o.Names()...)
	}
	return "origin add " + origin.Fold(host)
}

// Answered returns a function that reports whether a miss is available now, and what brought it.
func (l *Lookup) Answered(ctx context.Context) func(missing.Entry) (by string, ok bool) {
	v := l.Current.State()
	holds := sync.OnceValue(func() func(string) bool { return l.DNSHolds(v) })
	return func(e missing.Entry) (string, bool) {
		switch e.Kind {
		case missing.Image:
			return l.imageAnswered(ctx, e.Name)
		case missing.Blob:
			_, digest, _ := strings.Cut(e.Name, "@")
			_, err := l.Tree.HasBlob(ctx, digest)
			return missing.ByHand, err == nil
		case missing.File:
			info, _, err := l.Files.Resolve(ctx, e.Name)
			if err != nil {
				return "", false
			}
			key, err := l.Files.Key(info.URL)
			if err != nil {
				return missing.ByHand, true // generated, or an origin that was removed
			}
			return l.broughtBy("files/" + key), true
		case missing.DNS:
			return l.hostBroughtBy(v, e.Name), holds()(e.Name)
		case missing.TLS:
			return l.hostBroughtBy(v, e.Name), v.CertNames[origin.Fold(e.Name)]
		case missing.Host:
			at, _ := v.Hosts.Find(e.Name)
			return l.hostBroughtBy(v, e.Name), at != routing.Unknown
		}
		return "", false
	}
}

// imageAnswered is Answered for repository:tag and repository@digest. Most misses that are available now have exactly
// the requested name, which is checked without reading a manifest: a book may have ten thousand entries.
func (l *Lookup) imageAnswered(ctx context.Context, name string) (by string, ok bool) {
	repository, digest, byDigest := strings.Cut(name, "@")
	tag := ""
	if i := strings.LastIndexByte(repository, ':'); !byDigest && i > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:i], repository[i+1:]
	} else if !byDigest {
		return missing.ByHand, l.hasTags(repository) // its tags were listed
	}
	at, err := l.Images.TreeName(repository, tag, digest)
	if err != nil {
		return "", false // no content can have that name
	}
	linked := []string{at}
	if byDigest {
		if layer, err := l.Images.LayerName(repository, digest); err == nil {
			linked = append(linked, layer)
		}
	}
	for _, at := range linked {
		if info, err := l.Tree.Stat("registry/" + at); err == nil && !info.IsDir() {
			return l.broughtBy("registry/" + at), true
		}
	}
	found, err := l.Images.ResolveRepository(ctx, repository, tag, digest)
	if err != nil {
		return "", false
	}
	at, err = l.Images.TreeName(found, tag, digest)
	return l.broughtBy("registry/" + at), err == nil
}

// broughtBy returns the import whose claim is visible for a name of the tree, or missing.ByHand.
func (l *Lookup) broughtBy(name string) string {
	if claims := l.Tree.ClaimsOf(name); len(claims) > 0 && claims[0].Claim != "" {
		return claims[0].Claim
	}
	return missing.ByHand
}

// hostBroughtBy is broughtBy for a host name: an import enables the origins of its content.
func (l *Lookup) hostBroughtBy(v *current.State, host string) string {
	if o, ok := v.Origins.Get(host); ok {
		return l.broughtBy("origins/" + o.Host)
	}
	return missing.ByHand
}
