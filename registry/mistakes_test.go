package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestClientsMistakes: each mistake of a client is 4xx with its reason in the message, which is all that most clients
// print, and nothing for the log of errors.
func TestClientsMistakes(t *testing.T) {
	var log bytes.Buffer
	s := newPusher(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	layer, config, good := s.parts("team/app", "one")
	here := s.put("team/app", "v1", typeOCIManifest, good)
	absent := digest.FromString("absent").String()
	const uploads, manifests, blobs = "/v2/team/app/blobs/uploads/", "/v2/team/app/manifests/", "/v2/team/app/blobs/"
	const form = "application/x-www-form-urlencoded"
	session := func(more string) string { return s.open("team/app") + more }
	// The address of a session before it got more bytes, and after.
	old := s.open("team/app")
	now := s.expect(202, "PATCH", old, "hello").Header.Get("Location")
	state := func(loc, value string) string {
		path, _, _ := strings.Cut(loc, "?")
		return path + value
	}
	manifest := func(fields string) string { return `{"schemaVersion":2,` + fields + `}` }
	type header = []string
	oci := header{"Content-Type", typeOCIManifest}
	for _, c := range []struct {
		name, method, target, body string
		headers                    header
		status                     int
		code, says                 string
	}{
		// Names and paths.
		{"capitals", "GET", "/v2/Team/app/manifests/v1", "", nil, 400, "NAME_INVALID", "lower-case"},
		{"an empty element", "GET", "/v2/team//app/manifests/v1", "", nil, 400, "NAME_INVALID", "lower-case"},
		{"a long name", "GET", "/v2/" + strings.Repeat("a", 256) + "/manifests/v1", "", nil, 400, "NAME_INVALID",
			"255"},
		{"a long path", "GET", "/v2/" + strings.Repeat("a/", 1500) + "manifests/v1", "", nil, 400, "NAME_INVALID",
			"path"},
		{"no such path", "GET", "/v2/team/app/things/v1", "", nil, 400, "NAME_INVALID", "not one of a registry"},
		{"no name", "GET", "/v2/manifests/v1", "", nil, 400, "NAME_INVALID", "lower-case"},
		{"an encoded separator", "GET", "/v2/team%2fapp/manifests/v1", "", nil, 400, "NAME_INVALID",
			"encoded separator"},
		{"a bad ns", "GET", manifests + "v1?ns=no_host!", "", nil, 400, "NAME_INVALID", `got "no_host!"`},
		{"a query that is none", "GET", manifests + "v1?ns=%zz", "", nil, 400, "UNSUPPORTED", "%zz"},
		{"a digest lost in the query", "POST", uploads + "?digest=" + absent + ";x", "x", nil, 400, "UNSUPPORTED",
			"semicolon"},
		// Methods.
		{"a method for the ping", "POST", "/v2/", "", nil, 405, "UNSUPPORTED", "method"},
		{"a method for a manifest", "PATCH", manifests + "v1", "", nil, 405, "UNSUPPORTED", "method"},
		{"a method for a blob", "PUT", blobs + layer.String(), "", nil, 405, "UNSUPPORTED", "method"},
		{"a method for tags", "DELETE", "/v2/team/app/tags/list", "", nil, 405, "UNSUPPORTED", "method"},
		{"a method for referrers", "PUT", "/v2/team/app/referrers/" + absent, "", nil, 405, "UNSUPPORTED", "method"},
		{"a method for the uploads", "GET", uploads, "", nil, 405, "UNSUPPORTED", "method"},
		{"a method for an upload", "POST", session(""), "", nil, 405, "UNSUPPORTED", "method"},
		{"a method for the token", "PUT", "/token", "", nil, 405, "UNSUPPORTED", "method"},
		// Lists.
		{"n is no number", "GET", "/v2/team/app/tags/list?n=many", "", nil, 400, "PAGINATION_NUMBER_INVALID",
			`got "many"`},
		{"n is negative", "GET", "/v2/_catalog?n=-1", "", nil, 400, "PAGINATION_NUMBER_INVALID", `got "-1"`},
		{"no such repository", "GET", "/v2/team/none/tags/list", "", nil, 404, "NAME_UNKNOWN", "team/none is not here"},
		{"referrers of no digest", "GET", "/v2/team/app/referrers/v1", "", nil, 400, "DIGEST_INVALID", "64"},
		// Reads.
		{"no such tag", "GET", manifests + "v2", "", nil, 404, "MANIFEST_UNKNOWN", "team/app:v2 is not here"},
		{"no such manifest", "GET", manifests + absent, "", nil, 404, "MANIFEST_UNKNOWN", absent},
		{"a tag that can be none", "GET", manifests + ".x", "", nil, 404, "MANIFEST_UNKNOWN",
			"no tag can be called that"},
		{"a digest of a manifest that is none", "GET", manifests + "sha256:x", "", nil, 400, "DIGEST_INVALID", "64"},
		{"no such blob", "GET", blobs + absent, "", nil, 404, "BLOB_UNKNOWN", absent},
		{"a digest of a blob that is none", "GET", blobs + "latest", "", nil, 400, "DIGEST_INVALID", "64"},
		{"another algorithm", "GET", blobs + "md5:00", "", nil, 400, "DIGEST_INVALID", "sha512"},
		{"a range behind the end", "GET", blobs + layer.String(), "", header{"Range", "bytes=1000-"}, 416,
			"RANGE_INVALID", "bytes=1000-"},
		{"a range that is none", "GET", blobs + layer.String(), "", header{"Range", "lines=1"}, 416, "RANGE_INVALID",
			"lines=1"},
		{"a range of a manifest", "GET", manifests + "v1", "", header{"Range", "bytes=x"}, 416, "RANGE_INVALID",
			"bytes=x"},
		// Whole blobs.
		{"other bytes", "POST", uploads + "?digest=" + absent, "other", nil, 400, "DIGEST_INVALID",
			"do not have the digest"},
		{"a digest that is none", "POST", uploads + "?digest=sha256:short", "x", nil, 400, "DIGEST_INVALID",
			`got "sha256:short"`},
		{"an empty digest", "POST", uploads + "?digest=", "x", nil, 400, "DIGEST_INVALID", `got ""`},
		{"a mount of no digest", "POST", uploads + "?mount=latest&from=team/app", "", nil, 400, "DIGEST_INVALID",
			`got "latest"`},
		{"an unknown algorithm", "POST", uploads + "?digest-algorithm=md5", "", nil, 400, "DIGEST_INVALID",
			`got "md5"`},
		{"deleting what is not there", "DELETE", blobs + absent, "", nil, 404, "BLOB_UNKNOWN", "unknown"},
		// Sessions.
		{"no such session", "PATCH", uploads + "00000000-0000-0000-0000-000000000000?_state=x", "x", nil, 404,
			"BLOB_UPLOAD_UNKNOWN", "unknown"},
		{"an id that is none", "GET", uploads + "x;y", "", nil, 404, "BLOB_UPLOAD_UNKNOWN", "Location"},
		{"no state", "PATCH", state(session(""), ""), "x", nil, 404, "BLOB_UPLOAD_INVALID", "_state"},
		{"a state that is none", "PATCH", state(session(""), "?_state=x"), "x", nil, 404, "BLOB_UPLOAD_INVALID",
			"_state"},
		{"a state of another session", "PATCH", state(session(""), "?"+strings.SplitN(session(""), "?", 2)[1]), "x",
			nil, 404, "BLOB_UPLOAD_INVALID", "_state"},
		{"cancelling without a state", "DELETE", state(session(""), ""), "", nil, 404, "BLOB_UPLOAD_INVALID", "_state"},
		{"an old state", "PATCH", old, "more", nil, 416, "", "Location"},
		{"the type of a form", "PATCH", session(""), "a=b", header{"Content-Type", form}, 400, "BLOB_UPLOAD_INVALID",
			form},
		{"another type", "PATCH", session(""), "x", header{"Content-Type", "text/plain"}, 400, "BLOB_UPLOAD_INVALID",
			"text/plain"},
		{"no type", "PATCH", session(""), "x", header{"Content-Type", ";"}, 400, "BLOB_UPLOAD_INVALID", "octet-stream"},
		{"RFC 9110's range", "PATCH", session(""), strings.Repeat("x", 100), header{"Content-Range", "bytes 0-99/100"},
			400, "BLOB_UPLOAD_INVALID", `got "bytes 0-99/100"`},
		{"the same at the end", "PUT", session("&digest=" + absent), strings.Repeat("x", 100), header{"Content-Range",
			"bytes 0-99/100"}, 400, "BLOB_UPLOAD_INVALID", "0-99"},
		{"a range in words", "PATCH", session(""), "x", header{"Content-Range", "all"}, 400, "BLOB_UPLOAD_INVALID",
			`got "all"`},
		{"half a range", "PATCH", session(""), "x", header{"Content-Range", "0-"}, 400, "BLOB_UPLOAD_INVALID",
			"START-END"},
		{"a negative range", "PATCH", session(""), "x", header{"Content-Range", "-1-5"}, 400, "BLOB_UPLOAD_INVALID",
			"START-END"},
		{"a huge range", "PATCH", session(""), "x", header{"Content-Range", "0-99999999999999999999"}, 400,
			"BLOB_UPLOAD_INVALID", "START-END"},
		{"a range backwards", "PATCH", session(""), "x", header{"Content-Range", "0--1"}, 400, "BLOB_UPLOAD_INVALID",
			"before it begins"},
		{"a range of other length", "PATCH", session(""), "x", header{"Content-Range", "0-9"}, 400, "SIZE_INVALID",
			"10 bytes and Content-Length 1"},
		{"a gap", "PATCH", session(""), "x", header{"Content-Range", "5-5"}, 416, "BLOB_UPLOAD_INVALID", "has 0 bytes"},
		{"no digest at the end", "PUT", session(""), "x", nil, 400, "DIGEST_INVALID", `got ""`},
		{"a bad digest at the end", "PUT", session("&digest=x"), "x", nil, 400, "DIGEST_INVALID", `got "x"`},
		{"other bytes at the end", "PUT", session("&digest=" + absent), "x", nil, 400, "DIGEST_INVALID",
			"do not have the digest"},
		// Manifests.
		{"no JSON", "PUT", manifests + "v2", "<html>", oci, 400, "MANIFEST_INVALID", "not JSON"},
		{"nothing", "PUT", manifests + "v2", "", oci, 400, "MANIFEST_INVALID", "not JSON"},
		{"half of it", "PUT", manifests + "v2", good[:20], oci, 400, "MANIFEST_INVALID", "not JSON"},
		{"other fields", "PUT", manifests + "v2", manifest(`"config":7`), oci, 400, "MANIFEST_INVALID", "config"},
		{"schema 1", "PUT", manifests + "v2", good, header{"Content-Type",
			"application/vnd.docker.distribution.manifest.v1+prettyjws"}, 400, "MANIFEST_INVALID", "schema 1"},
		{"no type of a manifest", "PUT", manifests + "v2", good, header{"Content-Type", "text/plain"}, 400,
			"MANIFEST_INVALID", "text/plain"},
		{"a type that is none", "PUT", manifests + "v2", good, header{"Content-Type", "///"}, 400, "MANIFEST_INVALID",
			"content type"},
		{"types that differ", "PUT", manifests + "v2", good, header{"Content-Type", typeDockerManifest}, 400,
			"MANIFEST_INVALID", typeDockerManifest},
		{"no version", "PUT", manifests + "v2", `{"config":{}}`, oci, 400, "MANIFEST_INVALID", "schemaVersion"},
		{"no config", "PUT", manifests + "v2", manifest(`"layers":[]`), oci, 400, "MANIFEST_INVALID",
			"config is missing"},
		{"an artifact manifest with layers", "PUT", manifests + "v2", `{"mediaType":"` + typeArtifact +
			`","layers":[]}`, nil, 400, "MANIFEST_INVALID", "has blobs"},
		{"an artifact manifest with other blobs", "PUT", manifests + "v2", `{"mediaType":"` + typeArtifact +
			`","blobs":7}`, nil, 400, "MANIFEST_INVALID", "blobs"},
		{"an artifact manifest without its blob", "PUT", manifests + "v2", `{"mediaType":"` + typeArtifact +
			`","blobs":[{"digest":"` + absent + `"}]}`, nil, 400, "MANIFEST_BLOB_UNKNOWN", absent},
		{"an index with layers", "PUT", manifests + "v2", manifest(`"mediaType":"` + typeOCIIndex +
			`","manifests":[],"layers":[]`), nil, 400, "MANIFEST_INVALID", "no layers"},
		{"a digest in it that is none", "PUT", manifests + "v2", manifest(`"config":{"digest":"sha256:x"}`), oci, 400,
			"MANIFEST_INVALID", "sha256:x"},
		{"a negative size", "PUT", manifests + "v2", manifest(fmt.Sprintf(`"config":{"digest":"%s","size":-1}`,
			config)), oci, 400, "MANIFEST_INVALID", "negative"},
		{"a layer that is not here", "PUT", manifests + "v2", manifestOf(config, digest.Digest(absent)), oci, 400,
			"MANIFEST_BLOB_UNKNOWN", absent},
		{"a config that is not here", "PUT", manifests + "v2", manifestOf(digest.Digest(absent), layer), oci, 400,
			"MANIFEST_BLOB_UNKNOWN", absent},
		{"another digest", "PUT", manifests + absent, good, oci, 400, "DIGEST_INVALID", here.String()},
		{"another digest of a tag", "PUT", manifests + "v2?digest=" + absent, good, oci, 400, "DIGEST_INVALID",
			here.String()},
		{"a digest parameter that is none", "PUT", manifests + "v2?digest=x", good, oci, 400, "DIGEST_INVALID",
			`got "x"`},
		{"a digest that is none", "PUT", manifests + "sha256:x", good, oci, 400, "DIGEST_INVALID", "64"},
		{"a tag that is none", "PUT", manifests + "-x", good, oci, 400, "TAG_INVALID", "128 characters"},
		{"a tag parameter that is none", "PUT", manifests + here.String() + "?tag=a&tag=-x", good, oci, 400,
			"TAG_INVALID", "128 characters"},
		{"too many tags", "PUT", manifests + here.String() + "?tag=a" + strings.Repeat("&tag=a", maxTags), good, oci,
			414, "TAG_INVALID", "at most 64"},
		{"too large", "PUT", manifests + "v2", strings.Repeat(" ", maxManifest+1), oci, 413, "SIZE_INVALID", "4194304"},
		{"deleting no tag", "DELETE", manifests + "none", "", nil, 404, "MANIFEST_UNKNOWN", "unknown"},
		{"deleting no manifest", "DELETE", manifests + absent, "", nil, 404, "MANIFEST_UNKNOWN", "unknown"},
		{"deleting a tag that is none", "DELETE", manifests + "-x", "", nil, 400, "TAG_INVALID", "128 characters"},
		// Where nothing may be pushed to, and by whom.
		{"an origin that is none", "POST", "/v2/unknown.example/app/blobs/uploads/", "", nil, 403, "DENIED",
			"origin add unknown.example"},
		{"an origin without a path", "POST", "/v2/unknown.example/blobs/uploads/", "", nil, 403, "DENIED",
			"looks like an origin"},
		{"a wrong password", "PUT", manifests + "v2", good, header{"Authorization", basic("ann", "guess")}, 401,
			"UNAUTHORIZED", "wrong user or password"},
		{"credentials that are none", "PUT", manifests + "v2", good, header{"Authorization", "Basic !"}, 401,
			"UNAUTHORIZED", "cannot be read"},
		{"a token that is none", "PUT", manifests + "v2", good, header{"Authorization", "Bearer x"}, 401,
			"UNAUTHORIZED", "token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := s.send(s.own, c.method, c.target, strings.NewReader(c.body), c.headers...)
			mistaken(t, res, c.status, c.code, c.says)
			// The same question by HEAD has the same status and no body.
			if c.method == http.MethodGet {
				head := s.send(s.own, http.MethodHead, c.target, nil, c.headers...)
				if body, err := io.ReadAll(head.Body); head.StatusCode != c.status || len(body) != 0 || err != nil {
					t.Errorf("HEAD: %d %q, %v", head.StatusCode, body, err)
				}
			}
		})
	}
	if strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("mistakes of clients are errors of ours in the log: %s", log.String())
	}
	for _, c := range []struct {
		name   string
		view   View
		method string
		header []string
		status int
		code   string
		says   string
	}{
		{"a push to an origin's host", View{Origin: "quay.io", Host: "quay.io"}, "PUT", nil, 405, "UNSUPPORTED",
			"read-only"},
		{"a push over plain http", View{Host: s.own.Host, Plain: true}, "PUT", []string{"Authorization", ""}, 405,
			"UNSUPPORTED", "https"},
		{"a password over plain http", View{Host: s.own.Host, Plain: true}, "GET", nil, 403, "DENIED", "plain http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mistaken(t, s.send(c.view, c.method, manifests+"v1", strings.NewReader(good), c.header...), c.status,
				c.code, c.says)
		})
	}
	// After all of it the session that was asked for by an old address, and the image, are as they were.
	s.expect(201, "PUT", withDigest(now, digest.FromString("hello")), "")
	s.want(s.own, manifests+"v1", here)
}

// mistaken checks an answer that refuses: one error, with its reason in the message.
func mistaken(t *testing.T, res *http.Response, status int, code, says string) {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	data, err := io.ReadAll(res.Body)
	if err != nil || json.Unmarshal(data, &body) != nil || len(body.Errors) != 1 {
		t.Fatalf("%d %q: no error of the API", res.StatusCode, data)
	}
	e := body.Errors[0]
	if res.StatusCode != status || code != "" && e.Code != code || !strings.Contains(e.Message, says) {
		t.Errorf("%d %s %q, want %d %s that says %q", res.StatusCode, e.Code, e.Message, status, code, says)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	if strings.Contains(e.Message, "internal error") || strings.Contains(e.Message, "bad message") {
		t.Errorf("the message is ours: %q", e.Message)
	}
}

// TestRangesStillWork: a satisfiable range is answered as before.
func TestRangesStillWork(t *testing.T) {
	s := newPusher(t)
	d := s.push("team/app", "hello, world")
	for asked, want := range map[string]string{"bytes=0-4": "hello", "bytes=7-": "world", "bytes=-5": "world"} {
		res := s.ask(s.own, "GET", "/v2/team/app/blobs/"+d.String(), "Range", asked)
		if body, err := io.ReadAll(res.Body); res.StatusCode != 206 || string(body) != want || err != nil {
			t.Errorf("%s: %d %q, %v", asked, res.StatusCode, body, err)
		}
	}
}
