package upstream

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"casemate/bundle/collect/download"
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/oci"
	"casemate/cluster/share"
	"casemate/cluster/tree"
	"casemate/registry"
)

// Registry returns what the registry fetches by.
func (u *Upstream) Registry() registry.Upstream { return images{u} }

type images struct{ *Upstream }

func hostOf(repo string) string {
	host, _, _ := strings.Cut(repo, "/")
	return host
}

// Manifest implements registry.Upstream.
func (u images) Manifest(req *http.Request, repo, reference, held string) (asked bool, err error) {
	name := repo + ":" + reference
	tag := !tree.ValidDigest(reference)
	if !tag {
		name = repo + "@" + reference
	}
	known, _ := u.record(name)
	if held != "" {
		var ours bool
		if known, ours = known.of(held); !ours || u.fresh(known) {
			return false, nil
		}
	}
	key := "manifest " + name
	if held == "" {
		if err := u.known(key); err != nil {
			return true, err
		}
	}
	of := Event{Kind: "manifest", Name: name, Host: hostOf(repo)}
	f, err := u.fly(key, share.OfText(req.RemoteAddr), of, nil, func(ctx context.Context, f *flight) error {
		ctx = from(ctx, f.event.Host)
		defer u.take("manifests of "+f.event.Host, f.client)()
		digest, err := u.manifest(ctx, f, repo, reference, held)
		if err != nil {
			err = told(f.event.Host, err)
			if held != "" {
				u.cannotCompare(known, err)
			} else {
				u.remember(key, err)
			}
			return err
		}
		if tag && held != "" {
			u.note(ctx, record{Name: name, Digest: digest})
		}
		return nil
	})
	if err != nil {
		return true, err
	}
	return true, f.wait(req.Context())
}

// manifest makes sure that a manifest is here, and returns its digest.
func (u images) manifest(ctx context.Context, f *flight, repo, reference, held string) (string, error) {
	link, err := u.current()
	if err != nil {
		return "", err
	}
	at, err := link.remote.Repository(ctx, repo)
	if err != nil {
		return "", err
	}
	if held != "" {
		now, err := digestNow(ctx, at, reference)
		if err != nil || now == held {
			return now, err
		}
	}
	digest, data, err := at.Manifest(ctx, reference)
	if err != nil {
		return "", err
	}
	m, err := oci.Parse(digest, "", data)
	if err != nil {
		return "", err
	}
	f.event.Digest = digest
	f.mu.Lock()
	f.n = int64(len(data))
	f.mu.Unlock()
	keep, cancel := keeping(ctx)
	defer cancel()
	recorded := tree.ValidDigest(reference)
	return digest, u.patiently(keep, func() error {
		if !recorded {
			if err := u.put(keep, record{Name: repo + ":" + reference, Digest: digest, Before: held}); err != nil {
				return err
			}
			recorded = true
		}
		return u.cfg.Images().KeepManifest(keep, repo, reference, m.MediaType, data)
	})
}

// digestNow asks for the digest of a tag by HEAD, which registries that limit pulls do not count. "" if the registry
// does not tell.
func digestNow(ctx context.Context, at *remote.Repository, tag string) (string, error) {
	digest, err := at.DigestOf(ctx, tag)
	if transport.HasStatus(err, http.StatusMethodNotAllowed, http.StatusNotImplemented) {
		return "", nil
	}
	return digest, err
}

// TagNow returns the digest that a tag has at its origin now, and stores nothing. fs.ErrNotExist: the origin does not
// have it, or content of this origin is not fetched.
func (u *Upstream) TagNow(ctx context.Context, repo, tag string) (digest string, err error) {
	host := hostOf(repo)
	if !u.For(host) {
		return "", fmt.Errorf("content of %s is not fetched: %w", host, fs.ErrNotExist)
	}
	if origin, ok := u.cfg.Canonical(host); ok {
		repo, host = origin+strings.TrimPrefix(repo, host), origin
	}
	link, err := u.current()
	if err != nil {
		return "", err
	}
	defer u.take("manifests of "+host, "")()
	ctx = from(ctx, host)
	at, err := link.remote.Repository(ctx, repo)
	if err == nil {
		digest, err = digestNow(ctx, at, tag)
	}
	if err == nil && digest == "" {
		digest, _, err = at.Manifest(ctx, tag)
	}
	return digest, told(host, err)
}

// Blob implements registry.Upstream.
func (u images) Blob(req *http.Request, repo, digest string) (registry.Incoming, error) {
	f, err := u.flyBlob(share.OfText(req.RemoteAddr), repo, digest)
	if err != nil {
		return nil, err
	}
	return incoming[registry.Incoming](f, req)
}

// FetchBlob makes sure that a blob of a canonical repository is here. fs.ErrNotExist: the origin does not have it, or
// content of this origin is not fetched.
func (u *Upstream) FetchBlob(ctx context.Context, repo, digest string) error {
	if !u.For(hostOf(repo)) {
		return fmt.Errorf("content of %s is not fetched: %w", hostOf(repo), fs.ErrNotExist)
	}
	f, err := images{u}.flyBlob("", repo, digest)
	if err != nil {
		return err
	}
	return f.wait(ctx)
}

// flyBlob joins the fetch of a blob, or begins it.
func (u images) flyBlob(client, repo, digest string) (*flight, error) {
	name := repo + "@" + digest
	key := "blob " + name
	if err := u.known(key); err != nil {
		return nil, err
	}
	of := Event{Kind: "blob", Name: name, Host: hostOf(repo)}
	return u.fly(key, client, of, nil, func(ctx context.Context, f *flight) error {
		ctx = from(ctx, f.event.Host)
		defer u.take(f.event.Host, f.client)()
		err := told(f.event.Host, u.blob(ctx, f, repo, digest))
		u.remember(key, err)
		return err
	})
}

// incoming opens what a fetch brings; nil if it is here by now.
func incoming[T any](f *flight, req *http.Request) (none T, err error) {
	r, err := f.open(req.Context(), req.Header.Get("Range") != "") // a range needs the size
	if r == nil || err != nil {
		return none, err
	}
	return any(r).(T), nil
}

func (u images) blob(ctx context.Context, f *flight, repo, digest string) error {
	link, err := u.current()
	if err != nil {
		return err
	}
	at, err := link.remote.Repository(ctx, repo)
	if err != nil {
		return err
	}
	f.create = u.cfg.Images().NewBlob
	_, err = download.Stream(ctx, download.Request{
		Client: at.Client, URL: at.Base + "blobs/" + digest, Name: f.event.Name, Digest: digest, Size: -1, Blob: true,
	}, u.retry(), f)
	if err != nil {
		return err
	}
	f.event.Digest = digest
	return f.keep(ctx, func(ctx context.Context, w tree.BlobWriter) error {
		return u.cfg.Images().KeepBlob(ctx, w, repo, digest)
	})
}

// BlobSize implements registry.Upstream.
func (u images) BlobSize(req *http.Request, repo, digest string) (int64, error) {
	key := "blob " + repo + "@" + digest
	if err := u.known(key); err != nil {
		return 0, err
	}
	link, err := u.current()
	if err != nil {
		return 0, err
	}
	host := hostOf(repo)
	defer u.take("manifests of "+host, share.OfText(req.RemoteAddr))()
	ctx := from(req.Context(), host)
	at, err := link.remote.Repository(ctx, repo)
	var resp *http.Response
	if err == nil {
		resp, err = at.Send(ctx, http.MethodHead, "blobs/"+digest, "")
	}
	if err != nil {
		err = told(host, err)
		u.remember(key, err)
		return 0, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return 0, &refusal{status: http.StatusBadGateway, text: host + " does not say how large " + digest + " is"}
	}
	return resp.ContentLength, nil
}
