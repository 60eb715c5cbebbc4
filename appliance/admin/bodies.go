package admin

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"casemate/appliance/access"
	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/names"
	"casemate/appliance/nodeconf"
)

// bodies are the types of the bodies of requests in JSON, by route. A handler reads its body (read) into this type and
// no other, so the description of the API cannot differ from what is read. Fields without omitempty are required.
var bodies = map[string]any{
	"POST /v1/users":                    newUserBody{},
	"PUT /v1/users/{name}":              passwordBody{},
	"POST /v1/accounts/{name}/roles":    roleBody{},
	"POST /v1/apikeys":                  newKeyBody{},
	"POST /v1/login":                    loginBody{},
	"POST /v1/login/oidc/finish":        handleBody{},
	"PUT /v1/directory/{source}/secret": secretBody{},
	"PUT /v1/settings/{key}":            settingBody{},
	"POST /v1/ca/rotate":                rotateRequest{},
	"POST /v1/certs":                    newCertBody{},
	"POST /v1/bundle":                   BundleRequest{},
	"POST /v1/check":                    content.CheckRequest{},
	"POST /v1/kubespray":                nodeconf.KubesprayRelease{},
	"POST /v1/imports/parts":            handover.Request{},
	"POST /v1/imports/{name}/publish":   diffBody{},
	"POST /v1/approvals/{name}":         diffBody{},
	"POST /v1/tokens":                   newTokenBody{},
	"PUT /v1/members/{name}/address":    addressBody{},
	"PUT /v1/missing/marks":             markBody{},
	"PUT /v1/names/{name}/{type}":       names.Record{},
	"PUT /v1/origins/{host}":            originBody{},
	"PUT /v1/repositories/{name}":       repositoryBody{},
	"POST /v1/repositories/key":         repositoryKeyBody{},
	"POST /v1/backup":                   backupBody{},
	"PUT /v1/upstream/logins/{host}":    upstreamLoginBody{},
}

// otherBodies are the media types of the bodies that are not JSON, by route.
var otherBodies = map[string]string{
	"PUT /v1/files":                  "application/octet-stream",
	"PATCH /v1/imports/parts/{id}":   "application/octet-stream",
	"POST /v1/imports/form":          "multipart/form-data",
	"POST /v1/packages/{repository}": "multipart/form-data",
}

// mayBeEmpty are the routes that may be sent without a body: all fields are optional.
func mayBeEmpty(body any) bool { return len(requiredOf(reflect.TypeOf(body))) == 0 }

type newUserBody struct {
	Name     string         `json:"name"`
	Password string         `json:"password"`
	Roles    []access.Grant `json:"roles,omitempty"`
}

type passwordBody struct {
	Password string `json:"password"`
}

// roleBody is a role to be granted. It is a type of its own because the same in answers gets further fields in time.
type roleBody struct{ access.Grant }

type newKeyBody struct {
	Name  string         `json:"name"`
	Roles []access.Grant `json:"roles"`
	TTL   string         `json:"ttl,omitempty"` // a duration; "": the key does not expire
}

type loginBody struct {
	TTL string `json:"ttl,omitempty"` // a duration, at most 12 hours
}

type handleBody struct {
	Handle string `json:"handle"` // of the answer to POST /v1/login/oidc
}

type secretBody struct {
	Secret string `json:"secret"`
}

type settingBody struct {
	Value *string `json:"value"`
}

type newCertBody struct {
	Names []string `json:"names,omitempty"`
	CSR   string   `json:"csr,omitempty"` // PEM
}

type diffBody struct {
	Diff string `json:"diff"` // of the answer to GET /v1/approvals/NAME
}

type newTokenBody struct {
	TTL string `json:"ttl,omitempty"` // a duration; "": an hour
}

type addressBody struct {
	Addr string `json:"addr"`
}

type markBody struct {
	Name string `json:"name"`
	Note string `json:"note,omitempty"` // "" removes the mark
}

type originBody struct {
	Aliases []string `json:"aliases,omitempty"`
}

type repositoryBody struct {
	Format string `json:"format"`
}

type repositoryKeyBody struct {
	Finish bool `json:"finish,omitempty"`
}

type backupBody struct {
	NoBlobs    bool   `json:"no_blobs,omitempty"`
	Passphrase string `json:"passphrase,omitempty"`
	Recipients string `json:"recipients,omitempty"`
}

type upstreamLoginBody struct {
	User     string `json:"user"`
	Password string `json:"password"`
}

// declared returns an error if a route's body is not described as what its handler reads.
func declared(r *http.Request, into any) error {
	if want := reflect.TypeOf(bodies[r.Pattern]); want != reflect.TypeOf(into).Elem() {
		return fmt.Errorf("the body of %q is described as %v, and read as %T", r.Pattern, want, into)
	}
	return nil
}

// body returns the description of a request's body, nil if it has none.
func (r Route) body(schemas object) object {
	pattern := r.Method + " " + r.Path
	if body := bodies[pattern]; body != nil {
		schema := schemaOf(reflect.TypeOf(body), schemas)
		strict(reflect.TypeOf(body), schemas)
		return object{"required": !mayBeEmpty(body), "content": object{"application/json": object{"schema": schema}}}
	}
	if media := otherBodies[pattern]; media != "" {
		schema := object{}
		if media == "multipart/form-data" {
			schema = object{"type": "object"}
		}
		return object{"required": true, "content": object{media: object{"schema": schema}}}
	}
	return nil
}

// strict completes the schema of a body: requests are refused with fields that are not known, and without those that
// are required.
func strict(t reflect.Type, schemas object) {
	s := schemas[schemaName(t)].(object)
	s["additionalProperties"] = false
	if list := requiredOf(t); len(list) > 0 {
		s["required"] = list
	}
}

// requiredOf returns the fields of a body that must be there: those of this room's types without omitempty. Bodies of
// other rooms' types say in docs/admin-api.md which are.
func requiredOf(t reflect.Type) []string {
	var list []string
	if t.PkgPath() != reflect.TypeFor[newUserBody]().PkgPath() {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if name, options, _ := strings.Cut(f.Tag.Get("json"), ","); !f.Anonymous && options == "" {
			list = append(list, name)
		}
	}
	return list
}
