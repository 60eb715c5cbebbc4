package admin

import (
	"encoding"
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/audit"
	"casemate/appliance/content"
	"casemate/appliance/explain"
	"casemate/appliance/missing"
	"casemate/appliance/oidc"
	"casemate/appliance/packages"
	"casemate/appliance/parts"
	"casemate/appliance/repositories"
	"casemate/appliance/search"
	"casemate/appliance/series"
	"casemate/appliance/settings"
	"casemate/appliance/status"
	"casemate/appliance/totals"
	"casemate/appliance/upstream"
)

// answers are the types of answers in JSON, by route. A route that is not here answers with bytes, with nothing, or
// with a document that docs/admin-api.md describes.
var answers = map[string]any{
	"GET /v1/whoami":                          Whoami{},
	"GET /v1/users":                           []User{},
	"GET /v1/roles":                           []Role{},
	"GET /v1/accounts":                        []access.Account{},
	"POST /v1/accounts/{name}/roles":          []access.Grant{},
	"DELETE /v1/accounts/{name}/roles/{role}": []access.Grant{},
	"GET /v1/apikeys":                         []access.Key{},
	"POST /v1/apikeys":                        NewKey{},
	"POST /v1/login":                          NewKey{},
	"POST /v1/login/oidc":                     oidc.Device{},
	"POST /v1/login/oidc/finish":              LoginStep{},
	"GET /v1/directory":                       []Source{},
	"GET /v1/directory/users/{name}":          DirectoryUser{},
	"GET /v1/settings":                        []settings.Setting{},
	"GET /v1/settings/{key}":                  settings.Setting{},
	"GET /v1/certs":                           []Cert{},
	"GET /v1/status":                          status.Document{},
	"POST /v1/certs":                          NewCert{},
	"POST /v1/tokens":                         Token{},
	"GET /v1/audit":                           audit.Page{},
	"GET /v1/audit/checkpoint":                audit.Checkpoint{},
	"GET /v1/audit/forward":                   audit.ForwardStatus{},
	"GET /v1/members":                         []status.Member{},
	"GET /v1/series":                          series.Report{},
	"GET /v1/content":                         []totals.Origin{},
	"GET /v1/images":                          []Image{},
	"GET /v1/images/show":                     ImageDetails{},
	"GET /v1/images/manifest":                 ImageManifest{},
	"GET /v1/files":                           []File{},
	"GET /v1/files/stat":                      File{},
	"GET /v1/files/show":                      FileDetails{},
	"GET /v1/browse":                          Browse{},
	"GET /v1/search":                          []search.Hit{},
	"PUT /v1/files":                           File{},
	"GET /v1/names":                           []Name{},
	"GET /v1/explain":                         explain.Answer{},
	"GET /v1/forwarders":                      []explain.Forwarder{},
	"GET /v1/origins":                         []Origin{},
	"GET /v1/missing":                         []missing.Listed{},
	"GET /v1/missing/lists":                   MissingList{},
	"GET /v1/missing/clients":                 []MissingClient{},
	"GET /v1/clients":                         []Client{},
	"GET /v1/clients/show":                    ClientDetails{},
	"GET /v1/egress":                          Egress{},
	"GET /v1/imports":                         []content.Import{},
	"GET /v1/imports/{name}":                  content.Details{},
	"GET /v1/approvals":                       []content.Import{},
	"GET /v1/approvals/{name}":                content.Effect{},
	"POST /v1/approvals/{name}":               content.Result{},
	"POST /v1/imports/{name}/publish":         content.Result{},
	"DELETE /v1/imports/{name}":               content.Removed{},
	"POST /v1/imports/parts":                  parts.State{},
	"GET /v1/imports/parts":                   []parts.Listed{},
	"POST /v1/imports/form":                   []FormImport{},
	"GET /v1/imports/parts/{id}":              parts.State{},
	"PATCH /v1/imports/parts/{id}":            parts.State{},
	"GET /v1/repositories":                    []repositories.Repository{},
	"GET /v1/repositories/key":                RepositoryKey{},
	"POST /v1/repositories/key":               RepositoryKey{},
	"GET /v1/packages":                        []packages.Package{},
	"GET /v1/packages/repositories":           []packages.Repository{},
	"POST /v1/packages/{repository}":          []packages.Package{},
	"DELETE /v1/packages/{repository}":        []packages.Package{},
	"GET /v1/upstream/logins":                 []upstream.Login{},
}

// openapiRoutes serves the description of the API.
func (a *API) openapiRoutes(on *routes) {
	on.json("GET /v1/openapi.json", anyAccount, func(*http.Request) (any, error) { return a.OpenAPI(), nil })
}

type object = map[string]any

var pathParameter = regexp.MustCompile(`\{([a-z]+)\}`)

// OpenAPI returns the description of the API (OpenAPI 3.1), made from the routes: what each asks for, and the form of
// its body and of its answer. docs/admin-api.md has the queries.
func (a *API) OpenAPI() any {
	schemas := object{"Error": object{"type": "object", "required": []string{"error"},
		"properties": object{"error": object{"type": "string", "description": "one sentence"}}}}
	paths := map[string]object{}
	for _, r := range a.Routes() {
		if paths[r.Path] == nil {
			paths[r.Path] = object{}
		}
		paths[r.Path][strings.ToLower(r.Method)] = r.operation(schemas)
	}
	return object{
		"openapi": "3.1.0",
		"info": object{"title": "Casemate admin API", "version": "1",
			"description": "Within v1 fields and routes are only added. See docs/admin-api.md."},
		"paths":    paths,
		"security": []object{{"basic": []string{}}, {"key": []string{}}},
		"components": object{"schemas": schemas, "securitySchemes": object{
			"basic": object{"type": "http", "scheme": "basic", "description": "a user and the password, or any name " +
				"and an API key"},
			"key": object{"type": "http", "scheme": "bearer", "description": "an API key"},
		}},
	}
}

func (r Route) operation(schemas object) object {
	var says string
	switch {
	case r.Local != "":
		says = "Answered on the admin socket only: " + r.Local + "."
	case r.Public != "":
		says = "Needs no account: " + r.Public + "."
	case r.Open:
		says = "Needs no account where registry.anonymous is pull, else a role that may " + string(r.Verb) + "."
	case r.Verb == "":
		says = "Every account may."
	default:
		var able []string
		for _, role := range access.Roles() {
			if slices.Contains(role.Verbs, r.Verb) {
				able = append(able, role.Name)
			}
		}
		says = "Needs a role that may " + string(r.Verb) + ": " + strings.Join(able, ", ") + "."
	}
	failure := object{"description": "one sentence says why not", "content": object{
		"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}}
	done := object{"description": "done"}
	if v := answers[r.Method+" "+r.Path]; v != nil {
		done["content"] = object{"application/json": object{"schema": schemaOf(reflect.TypeOf(v), schemas)}}
	}
	op := object{
		"operationId": operationID(r), "description": says,
		"responses": object{"2XX": done, "401": failure, "403": failure, "default": failure},
	}
	if body := r.body(schemas); body != nil {
		op["requestBody"] = body
	}
	if r.Verb != "" {
		op["x-casemate-verb"] = r.Verb
	}
	if r.Public != "" {
		op["security"] = []object{}
	}
	if r.Open {
		op["security"] = []object{{}, {"basic": []string{}}, {"key": []string{}}}
	}
	var list []object
	if r.Paged {
		list = append(list, object{"name": "limit", "in": "query", "schema": object{"type": "integer", "minimum": 1,
			"maximum": maxPage}}, object{"name": "after", "in": "query", "schema": object{"type": "string"},
			"description": "the cursor in the header Link of the answer before"})
	}
	for _, m := range pathParameter.FindAllStringSubmatch(r.Path, -1) {
		list = append(list, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	if list != nil {
		op["parameters"] = list
	}
	return op
}

// operationID returns a name for a program's method: putNamesNameType.
func operationID(r Route) string {
	id := strings.ToLower(r.Method)
	for _, part := range strings.FieldsFunc(strings.TrimPrefix(r.Path, "/v1"), func(c rune) bool {
		return strings.ContainsRune("/{}.", c)
	}) {
		id += strings.ToUpper(part[:1]) + part[1:]
	}
	return id
}

// schemaOf returns the JSON schema of a type as encoding/json writes it. Named structs are added to schemas.
func schemaOf(t reflect.Type, schemas object) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), schemas)
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": schemaOf(t.Elem(), schemas)}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Struct:
		if t.Name() == "" {
			return object{"type": "object", "properties": propertiesOf(t, schemas)}
		}
		name := schemaName(t)
		if schemas[name] == nil {
			schemas[name] = object{} // a type may contain itself
			schemas[name] = object{"type": "object", "properties": propertiesOf(t, schemas)}
		}
		return object{"$ref": "#/components/schemas/" + name}
	case reflect.Interface:
		return object{}
	}
	return object{"type": "integer"}
}

// schemaName is the name of a struct's schema: those of its room and of itself.
func schemaName(t reflect.Type) string {
	return t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:] + "." + t.Name()
}

// propertiesOf returns the fields of a struct, those of embedded structs included.
func propertiesOf(t reflect.Type, schemas object) object {
	list := object{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-", !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "":
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			for k, v := range propertiesOf(embedded, schemas) {
				list[k] = v
			}
		case name == "":
			list[f.Name] = schemaOf(f.Type, schemas)
		default:
			list[name] = schemaOf(f.Type, schemas)
		}
	}
	return list
}
