package registry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// tokenLife is how long a token is valid. Clients request a new one when it ends, also in the middle of a push.
	tokenLife = 15 * time.Minute
	// clockSkew is how far the clocks of two nodes may differ.
	clockSkew = time.Minute
	// maxToken bounds the length of a token in bytes, maxScopes its number of repositories.
	maxToken  = 8 << 10
	maxScopes = 32
)

// access is one entry of a token's "access" claim, as in the distribution project's token specification.
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// claims are the content of a token (RFC 7519 section 4.1 and the distribution project's "access").
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"` // the user, "" for anonymous
	Audience  string   `json:"aud"`
	Expires   int64    `json:"exp"`
	NotBefore int64    `json:"nbf"`
	IssuedAt  int64    `json:"iat"`
	ID        string   `json:"jti"`
	Access    []access `json:"access"`
	Version   string   `json:"ver,omitempty"` // Account.Version; tokens of earlier versions of this program have none
}

// may reports whether the token allows an action on the repository; name is the client's name for it.
func (c *claims) may(name string, actions ...string) bool {
	for _, a := range c.Access {
		allowed := func(s string) bool { return slices.Contains(actions, s) }
		if a.Type == "repository" && a.Name == name && slices.ContainsFunc(a.Actions, allowed) {
			return true
		}
	}
	return false
}

// tokenHeader is the only JOSE header that is issued and accepted, so that a client cannot choose the algorithm (RFC
// 8725 section 3.1).
var tokenHeader = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

var errToken = errors.New("the token is not ours or has expired")

// signToken makes a compact JWS (RFC 7515) signed with HMAC-SHA256.
func signToken(key []byte, c claims) (string, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := tokenHeader + "." + base64.RawURLEncoding.EncodeToString(body)
	return text + "." + base64.RawURLEncoding.EncodeToString(tokenMAC(key, text)), nil
}

func tokenMAC(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// readToken returns the claims of a token that is signed by key, meant for audience and valid at now; otherwise
// errToken.
func readToken(key []byte, token, audience string, now time.Time) (*claims, error) {
	if len(token) > maxToken {
		return nil, errToken
	}
	rest, ok := strings.CutPrefix(token, tokenHeader+".")
	if !ok {
		return nil, errToken
	}
	body, sig, ok := strings.Cut(rest, ".")
	if !ok {
		return nil, errToken
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(sig)
	if err != nil || !hmac.Equal(mac, tokenMAC(key, tokenHeader+"."+body)) {
		return nil, errToken
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, errToken
	}
	var c claims
	if json.Unmarshal(data, &c) != nil || c.Audience != audience || c.Issuer != audience {
		return nil, errToken
	}
	if now.After(time.Unix(c.Expires, 0)) || now.Add(clockSkew).Before(time.Unix(c.NotBefore, 0)) {
		return nil, errToken
	}
	return &c, nil
}

// scopes parses "repository:NAME:ACTION,ACTION …"; it omits what it does not understand. A name may contain a port's
// colon.
func scopes(values []string) []access {
	var list []access
	for _, v := range values {
		for _, s := range strings.Fields(v) {
			first, last := strings.IndexByte(s, ':'), strings.LastIndexByte(s, ':')
			if first < 0 || first == last || len(list) == maxScopes {
				continue
			}
			kind, _, _ := strings.Cut(s[:first], "(") // "repository(plugin)" counts as repository
			a := access{Type: kind, Name: s[first+1 : last], Actions: strings.Split(s[last+1:], ",")}
			if a.Type == "repository" && validName(a.Name) || a.Type == "registry" && a.Name == "catalog" {
				list = append(list, a)
			}
		}
	}
	return list
}

// grant returns the accesses that an account gets of those requested. Without an account (nil) only reading is granted,
// and only where reading needs none. What is granted is checked again when the token is used, against the account as it
// is then; reading is checked only then, because an origin's names mean other repositories on their own host.
func (r *Registry) grant(asked []access, account *Account, v View) []access {
	anonymous := r.cfg.Anonymous()
	given := []access{}
	for _, a := range asked {
		var repo string
		if a.Type == "repository" {
			if p, fail := r.locate(a.Name, "", v); fail == nil {
				repo = p.canonical()
			}
		}
		may := func(action string) bool { return account != nil && repo != "" && account.May(action, repo) }
		var actions []string
		for _, action := range a.Actions {
			var ok bool
			switch {
			case a.Type == "registry", action == actionPull:
				ok = account != nil || anonymous
			case action == actionPush, action == actionDelete:
				ok = may(action)
			case action == "*":
				ok = may(actionPush) && may(actionDelete)
			}
			if ok && !slices.Contains(actions, action) {
				actions = append(actions, action)
			}
		}
		if len(actions) > 0 {
			a.Actions = actions
			given = append(given, a)
		}
	}
	return given
}

// serveToken answers /token: GET with or without Basic as docker and containerd do, and POST with a form as in OAuth 2
// (RFC 6749 section 4.3), which containerd tries first. Refresh tokens are not issued: clients keep the password then.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request, rt route) {
	w.Header().Set("Cache-Control", "no-store")
	user, password, basic := req.BasicAuth()
	q := req.URL.Query()
	asked := q["scope"]
	switch req.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		req.Body = http.MaxBytesReader(w, req.Body, 64<<10)
		if err := req.ParseForm(); err != nil {
			oauthError(w, "invalid_request", "the form cannot be read")
			return
		}
		asked = req.PostForm["scope"]
		switch req.PostForm.Get("grant_type") {
		case "password":
			user, password, basic = req.PostForm.Get("username"), req.PostForm.Get("password"), true
		case "client_credentials", "":
		default:
			oauthError(w, "unsupported_grant_type", "grant_type must be password here")
			return
		}
	default:
		w.Header().Set("Allow", "GET, POST")
		writeError(w, req, errUnsupported.with(wrongMethod))
		return
	}
	var account *Account
	if basic && user == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="casemate"`)
		writeError(w, req, errUnauthorized.with(wrongPassword))
		return
	}
	if basic {
		var err *apiError
		if account, err = r.authenticate(req, user, password); err != nil {
			w.Header().Set("WWW-Authenticate", `Basic realm="casemate"`)
			writeError(w, req, err)
			return
		}
	} else if !r.cfg.Anonymous() {
		w.Header().Set("WWW-Authenticate", `Basic realm="casemate"`)
		writeError(w, req, errUnauthorized)
		return
	}
	now := r.now()
	life := tokenLife
	c := claims{
		Issuer: r.cfg.Domain, Audience: r.cfg.Domain, ID: rand.Text(), IssuedAt: now.Unix(), NotBefore: now.Unix(),
		Access: r.grant(scopes(asked), account, rt.view),
	}
	if account != nil {
		c.Subject, c.Version = account.ID, account.Version
		if !account.Expires.IsZero() {
			life = min(life, account.Expires.Sub(now))
		}
	}
	c.Expires = now.Add(life).Unix()
	token, err := signToken(r.cfg.TokenKey, c)
	if err != nil || len(token) > maxToken {
		writeError(w, req, errDenied.with("the token would be too long: ask for fewer repositories"))
		return
	}
	body, err := json.Marshal(map[string]any{
		"token": token, "access_token": token, "token_type": "Bearer",
		"expires_in": int(life.Seconds()), "issued_at": now.UTC().Format(time.RFC3339),
	})
	if err != nil {
		writeError(w, req, r.answer(err, errUnauthorized))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}

// oauthError is an answer of RFC 6749 section 5.2.
func oauthError(w http.ResponseWriter, code, description string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
}
