package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/parts"
	"casemate/cluster/tree"
)

// An upload is held by one bastion, and a browser or a command may meet another one, whose addresses DNS answers as
// well. That one decides about the request and passes it on to the holder, with the name of the account: members of the
// cluster believe each other.

const (
	partsPath = "/v1/imports/parts"
	// accountHeader has the name of the account, escaped as in a query. The edge removes it from clients' requests.
	accountHeader = "Casemate-Account"
	// listWait is how long the other bastions are waited for when uploads are listed: one that does not answer has
	// nothing to show.
	listWait = 5 * time.Second
	// maxHolder bounds an answer of another bastion, in bytes. The result of an import is the largest part.
	maxHolder = 64 << 20
)

// atHolder answers a request about an upload, or lets the bastion that holds the upload answer it.
func (a *API) atHolder(here func(*http.Request) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		node := parts.Holder(r.PathValue("id"))
		if node == "" || node == a.Node || passed(r) {
			return here(r)
		}
		if !slices.Contains(a.others(), node) {
			return nil, fmt.Errorf("there is no bastion %.100q that could have this upload: %w", node, fs.ErrNotExist)
		}
		if !a.Cluster.Up(node) {
			return nil, errHolder(node)
		}
		var out json.RawMessage
		err := a.askHolder(r, node, r.Body, &out)
		if out == nil || err != nil {
			return nil, err
		}
		return out, nil
	}
}

type passedKey struct{}

// passed reports whether another bastion has passed a request on.
func passed(r *http.Request) bool { return r.Context().Value(passedKey{}) != nil }

// errHolder is the error for an upload whose holder is out of reach.
func errHolder(node string) error {
	return fmt.Errorf("the bastion %s, which holds this upload, does not answer: wait for it, or end this upload and "+
		"import the same files again, which goes on where it has stored them: %w", node, syscall.EAGAIN)
}

// others are the names of the other bastions.
func (a *API) others() (names []string) {
	for _, m := range a.Cluster.Members() {
		if !m.Self {
			names = append(names, m.Node)
		}
	}
	return names
}

// askHolder sends a request to another bastion, and decodes its answer.
func (a *API) askHolder(r *http.Request, node string, body io.Reader, out any) error {
	u := &url.URL{Scheme: "http", Host: node, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	in, err := http.NewRequestWithContext(r.Context(), r.Method, u.String(), body)
	if err != nil {
		return err
	}
	in.ContentLength = r.ContentLength
	if r.Body == nil || r.Body == http.NoBody || body == nil {
		in.Body, in.ContentLength = nil, 0
	}
	for _, name := range []string{"Content-Type", "Content-Digest"} {
		if v := r.Header.Get(name); v != "" {
			in.Header.Set(name, v)
		}
	}
	a.MarkPassed(in, r)
	in.Header.Set(accountHeader, url.QueryEscape(subject(r).Name))
	res, err := a.Cluster.RoundTrip(in)
	if errors.Is(err, fs.ErrInvalid) {
		return err
	}
	if err != nil {
		a.Log.Info("a part of an upload is not passed on", "peer", node, "err", err)
		return errHolder(node)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxHolder))
	switch {
	case err != nil:
		return errHolder(node)
	case res.StatusCode == http.StatusNoContent:
		return nil
	case res.StatusCode >= 400:
		var e struct{ Error string }
		if json.Unmarshal(data, &e) != nil || e.Error == "" {
			return errHolder(node) // it is starting, or of a version that does not know this
		}
		return &answered{res.StatusCode, e.Error}
	}
	return json.Unmarshal(data, out)
}

// answered is an error that another bastion has answered with.
type answered struct {
	status   int
	sentence string
}

func (e *answered) Error() string { return e.sentence }

// listParts returns the account's uploads on all bastions, the oldest first.
func (a *API) listParts(r *http.Request) (any, error) {
	list := a.Parts.List(subject(r).Name)
	if passed(r) {
		return list, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), listWait)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, node := range a.others() {
		if !a.Cluster.Up(node) {
			continue
		}
		wg.Go(func() {
			var more []parts.Listed
			if err := a.askHolder(r.WithContext(ctx), node, nil, &more); err != nil {
				a.Log.Debug("the uploads of another bastion are not listed", "peer", node, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			list = append(list, more...)
		})
	}
	wg.Wait()
	parts.Sort(list)
	return list, nil
}

// PassedParts answers the requests about uploads that other bastions pass on, which have decided about them.
func (a *API) PassedParts() http.Handler {
	on := routes{a, http.NewServeMux(), nil}
	a.partRoutes(&on)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, err := url.QueryUnescape(r.Header.Get(accountHeader))
		if err != nil || name == "" || r.Method == http.MethodPost || !strings.HasPrefix(r.URL.Path, partsPath) {
			a.adminError(w, r, fmt.Errorf("bastions pass on only requests about uploads: %w", fs.ErrInvalid))
			return
		}
		s := access.Subject{Actor: tree.Actor{Name: name, How: "node", From: tree.ActorIn(r.Context()).From},
			Grants: []access.Grant{{Role: "importer"}}}
		ctx := context.WithValue(WithSubject(r.Context(), s), passedKey{}, true)
		on.mux.ServeHTTP(w, r.WithContext(ctx))
	})
}
