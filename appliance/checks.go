package appliance

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"casemate/appliance/content"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/fileserver"
)

// maxCheckBody bounds what a check may ask, in bytes: about half a million names.
const maxCheckBody = 64 << 20

func (a *Appliance) postCheck(r *http.Request) (any, error) {
	var req content.CheckRequest
	if err := readUpTo(r, &req, maxCheckBody); err != nil {
		return nil, err
	}
	c := content.Checker{
		Images: a.registry, Files: filesAsAsked{a.files, a.now.Load().hosts}, Open: a.tree.OpenBlob, Has: a.tree.HasBlob,
		Tags: a.tagsOf, Unreached: a.unreached,
	}
	return c.Check(r.Context(), req)
}

// filesAsAsked resolves URLs as clients ask them, at the bastions' own names too: https://files.DOMAIN/HOST/PATH is
// https://HOST/PATH. (The registry takes its own names apart itself.)
type filesAsAsked struct {
	*fileserver.Server
	hosts *hosts
}

func (f filesAsAsked) Resolve(ctx context.Context, rawURL string) (fileserver.Info, string, error) {
	if u, err := url.Parse(rawURL); err == nil && u.Host != "" {
		path := u.RequestURI()
		at, _ := f.hosts.find(u.Host)
		below, isFile := strings.CutPrefix(path, "/files/")
		switch {
		case at == placeFiles:
			return f.Server.Resolve(ctx, path)
		case at == placeSelf && isFile:
			return f.Server.Resolve(ctx, "/"+below)
		}
	}
	return f.Server.Resolve(ctx, rawURL)
}

// tagsDir is where the tags of a repository stand in the tree; !ok if it can have none.
func (a *Appliance) tagsDir(repository string) (dir string, ok bool) {
	const some = "x"
	name, err := a.registry.TreeName(repository, some, "")
	return "registry/" + strings.TrimSuffix(name, "/"+some+"/current/link"), err == nil
}

// hasTags reports whether a repository has a tag.
func (a *Appliance) hasTags(repository string) bool {
	if dir, ok := a.tagsDir(repository); ok {
		for range a.tree.Walk(dir, "") {
			return true
		}
	}
	return false
}

// tagsOf returns the tags of a repository, sorted; none if there is no such repository.
func (a *Appliance) tagsOf(repository string) []string {
	dir, ok := a.tagsDir(repository)
	if !ok {
		return nil
	}
	entries, err := a.tree.ReadDir(dir)
	if err != nil {
		return nil
	}
	tags := make([]string, len(entries))
	for i, e := range entries {
		tags[i] = e.Name()
	}
	return tags
}

// unreached says why clients that ask host are not answered here and what changes that; "" if they are.
func (a *Appliance) unreached(host string) string {
	v := a.now.Load()
	if at, _ := v.hosts.find(host); at != placeUnknown {
		return ""
	}
	o, known := v.origins.Get(host)
	switch {
	case !known:
		return fmt.Sprintf("%s is not an origin: casemate origin add %s changes that", clip(origin.Fold(host)), clip(origin.Fold(host)))
	case o.Disabled == origin.NotPermitted:
		return fmt.Sprintf("origin %s is not enabled: %s", o.Host, o.Disabled)
	}
	return fmt.Sprintf("origin %s is not enabled: %s; casemate origin add %s enables it again", o.Host, o.Disabled, o.Host)
}

func (a *Appliance) getMissing(r *http.Request) (any, error) {
	entries, err := a.book.List()
	if err != nil {
		return nil, err
	}
	return missing.Solve(entries, a.answered(r.Context())), r.Context().Err()
}

// answered returns a function that says whether what was missed is answered now, and what brought it.
func (a *Appliance) answered(ctx context.Context) func(missing.Entry) (by string, ok bool) {
	v := a.now.Load()
	holds := sync.OnceValue(func() func(string) bool { return a.dnsHolds(v) })
	return func(e missing.Entry) (string, bool) {
		switch e.Kind {
		case missing.Image:
			return a.imageAnswered(ctx, e.Name)
		case missing.Blob:
			_, digest, _ := strings.Cut(e.Name, "@")
			_, err := a.tree.HasBlob(ctx, digest)
			return missing.ByHand, err == nil
		case missing.File:
			info, _, err := a.files.Resolve(ctx, e.Name)
			if err != nil {
				return "", false
			}
			key, err := a.files.Key(info.URL)
			if err != nil {
				return missing.ByHand, true // made, or an origin that is no more
			}
			return a.broughtBy("files/" + key), true
		case missing.DNS:
			return a.hostBroughtBy(v, e.Name), holds()(e.Name)
		case missing.TLS:
			return a.hostBroughtBy(v, e.Name), v.known[origin.Fold(e.Name)]
		case missing.Host:
			at, _ := v.hosts.find(e.Name)
			return a.hostBroughtBy(v, e.Name), at != placeUnknown
		}
		return "", false
	}
}

// imageAnswered is answered for repository:tag and repository@digest. Most of what was missed and is here now has the
// very name that was asked for, and then no manifest is read to see it: a book may have ten thousand entries.
func (a *Appliance) imageAnswered(ctx context.Context, name string) (by string, ok bool) {
	repository, digest, byDigest := strings.Cut(name, "@")
	tag := ""
	if i := strings.LastIndexByte(repository, ':'); !byDigest && i > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:i], repository[i+1:]
	} else if !byDigest {
		return missing.ByHand, a.hasTags(repository) // its tags were to be listed
	}
	at, err := a.registry.TreeName(repository, tag, digest)
	if err != nil {
		return "", false // nothing can ever have that name
	}
	layer := strings.Replace(at, "/_manifests/revisions/", "/_layers/", 1) // the same for a tag
	for _, at := range []string{at, layer} {
		if info, err := a.tree.Stat("registry/" + at); err == nil && !info.IsDir() {
			return a.broughtBy("registry/" + at), true
		}
	}
	found, err := a.registry.ResolveRepository(ctx, repository, tag, digest)
	if err != nil {
		return "", false
	}
	at, err = a.registry.TreeName(found, tag, digest)
	return a.broughtBy("registry/" + at), err == nil
}

// broughtBy is the import whose claim shows under a name of the tree, or missing.ByHand.
func (a *Appliance) broughtBy(name string) string {
	if claims := a.tree.ClaimsOf(name); len(claims) > 0 && claims[0].Claim != "" {
		return claims[0].Claim
	}
	return missing.ByHand
}

// hostBroughtBy is broughtBy for a host name: an import enables the origins that it brings.
func (a *Appliance) hostBroughtBy(v *view, host string) string {
	if o, ok := v.origins.Get(host); ok {
		return a.broughtBy("origins/" + o.Host)
	}
	return missing.ByHand
}
