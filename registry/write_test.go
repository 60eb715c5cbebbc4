package registry

import (
	"casemate/cluster/tree"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// mayAll is an account that may do everything.
func mayAll(name string) *Account {
	return &Account{
		Actor: tree.Actor{Name: name, How: "password"}, ID: name, Version: "1",
		May:   func(string, string) bool { return true },
		Allow: func(string, string) error { return nil },
	}
}

// onlyAnn knows one user, who may do everything.
func onlyAnn(_ context.Context, user, password string) (*Account, error) {
	if user != "ann" || password != "secret" {
		return nil, errors.New("wrong password")
	}
	return mayAll("ann"), nil
}

func annsAccount(_ context.Context, id string) (*Account, error) {
	if id != "ann" {
		return nil, errors.New("no such user")
	}
	return mayAll(id), nil
}

// pusher is a shelf with a user, and the verbs of a client that pushes on an own name.
type pusher struct{ *shelf }

func newPusher(tb testing.TB, with ...func(*Config)) *pusher {
	users := func(c *Config) { c.Authenticate, c.Account = onlyAnn, annsAccount }
	return &pusher{newShelf(tb, append([]func(*Config){users}, with...)...)}
}

// send sends a request with a body as the user ann; headers are pairs.
func (s *pusher) send(v View, method, target string, body io.Reader, headers ...string) *http.Response {
	s.tb.Helper()
	req := httptest.NewRequest(method, target, body)
	req.Host = v.Host
	req.SetBasicAuth("ann", "secret")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	s.reg.Serve(rec, req, v)
	return rec.Result()
}

// expect is send, and a failure unless the status is as wanted.
func (s *pusher) expect(status int, method, target, body string, headers ...string) *http.Response {
	s.tb.Helper()
	res := s.send(s.own, method, target, strings.NewReader(body), headers...)
	if res.StatusCode != status {
		text, _ := io.ReadAll(res.Body)
		s.tb.Fatalf("%s %s: %d %s, want %d", method, target, res.StatusCode, text, status)
	}
	return res
}

// push uploads a blob in one request.
func (s *pusher) push(repo, content string) digest.Digest {
	s.tb.Helper()
	d := digest.FromString(content)
	s.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), content)
	return d
}

// parts pushes a layer and a config and returns the manifest that they make.
func (s *pusher) parts(repo, what string) (layer, config digest.Digest, text string) {
	s.tb.Helper()
	layer, config = s.push(repo, "layer "+what), s.push(repo, "{}")
	return layer, config, manifestOf(config, layer)
}

// put pushes a manifest.
func (s *pusher) put(repo, reference, mediaType, text string) digest.Digest {
	s.tb.Helper()
	res := s.expect(201, "PUT", "/v2/"+repo+"/manifests/"+reference, text, "Content-Type", mediaType)
	return digest.Digest(res.Header.Get("Docker-Content-Digest"))
}

func manifestOf(config digest.Digest, layers ...digest.Digest) string {
	list := []string{}
	for _, l := range layers {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":1}`,
			l))
	}
	return fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":2},"layers":[%s]}`,
		typeOCIManifest, config, strings.Join(list, ","))
}
