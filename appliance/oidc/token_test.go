package oidc

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
	"golang.org/x/oauth2"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

type claims = map[string]any

// TestIDTokens: of all tokens that somebody could send, those that this provider has signed for this client and this
// login, and that are valid now, say who somebody is.
func TestIDTokens(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var server *httptest.Server
	answers := map[string]func() any{
		"/.well-known/openid-configuration": func() any {
			return claims{"issuer": server.URL, "authorization_endpoint": server.URL + "/auth",
				"token_endpoint": server.URL + "/token", "jwks_uri": server.URL + "/keys",
				// A provider that is mistaken about what is safe.
				"id_token_signing_alg_values_supported": []string{"none", "HS256", "RS256"}}
		},
		"/keys": func() any {
			return claims{"keys": []claims{{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k",
				"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
				"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())}}}
		},
	}
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := answers[r.URL.Path]
		if answer == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(answer())
	}))
	defer server.Close()
	signed := func(header claims, c claims, sign func(text string) []byte) string {
		text := encode(header) + "." + encode(c)
		return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
	}
	by := func(k *rsa.PrivateKey) func(string) []byte {
		return func(text string) []byte {
			sum := sha256.Sum256([]byte(text))
			sig, err := rsa.SignPKCS1v15(nil, k, crypto.SHA256, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}
	}
	with := func(secret []byte) func(string) []byte {
		return func(text string) []byte {
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(text))
			return mac.Sum(nil)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	rs, hs, none := claims{"alg": "RS256", "kid": "k"}, claims{"alg": "HS256", "kid": "k"}, claims{"alg": "none"}
	now := time.Now().Truncate(time.Second)
	for name, c := range map[string]struct {
		change claims
		token  func(c claims) string // nil: signed as it should be
		claim  string
		want   *User // nil: refused
	}{
		"right":               {want: &User{"ada", []string{"builders", "/site"}}},
		"one group as a text": {change: claims{"groups": "builders"}, want: &User{"ada", []string{"builders"}}},
		"no groups":           {change: claims{"groups": nil}, want: &User{Name: "ada"}},
		"several audiences": {change: claims{"aud": []string{"x", "casemate"}},
			want: &User{"ada", []string{"builders", "/site"}}},
		"names that are none": {change: claims{"groups": []string{"", "a\n", "b", strings.Repeat("c", 200)}},
			want: &User{"ada", []string{"b"}}},
		"groups of several types":         {change: claims{"groups": []any{"builders", 7}}},
		"groups in an object":             {change: claims{"groups": claims{"builders": true}}},
		"a group in a group":              {change: claims{"groups": [][]string{{"builders"}}}},
		"an invisible name":               {change: claims{"preferred_username": "ad\u200ba"}},
		"a name written backwards":        {change: claims{"preferred_username": "\u202eada"}},
		"another audience":                {change: claims{"aud": "other"}},
		"another issuer":                  {change: claims{"iss": "https://evil.example"}},
		"expired":                         {change: claims{"exp": now.Add(-time.Minute).Unix()}},
		"no expiry":                       {change: claims{"exp": nil}},
		"not yet":                         {change: claims{"nbf": now.Add(time.Hour).Unix()}},
		"another nonce":                   {change: claims{"nonce": "other"}},
		"no nonce":                        {change: claims{"nonce": nil}},
		"another access token":            {change: claims{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
		"no name":                         {change: claims{"preferred_username": nil}},
		"a name with a line break":        {change: claims{"preferred_username": "ada\nroot"}},
		"a name that is a number":         {change: claims{"preferred_username": 7}},
		"groups that are none":            {change: claims{"groups": 7}},
		"an address that is not verified": {change: claims{"email": "ada@example.com"}, claim: "email"},
		"an address": {change: claims{"email": "ada@example.com", "email_verified": true}, claim: "email",
			want: &User{"ada@example.com", []string{"builders", "/site"}}},
		"signed by another key":       {token: func(c claims) string { return signed(rs, c, by(other)) }},
		"alg none":                    {token: func(c claims) string { return encode(none) + "." + encode(c) + "." }},
		"alg none, signed":            {token: func(c claims) string { return signed(none, c, by(key)) }},
		"HMAC with the public key":    {token: func(c claims) string { return signed(hs, c, with(public)) }},
		"HMAC with the client secret": {token: func(c claims) string { return signed(hs, c, with([]byte("secret"))) }},
		"key in the header": {token: func(c claims) string {
			return signed(claims{"alg": "RS256", "jwk": claims{"kty": "RSA",
				"n": base64.RawURLEncoding.EncodeToString(other.N.Bytes()), "e": "AQAB"}}, c, by(other))
		}},
		"no token":    {token: func(claims) string { return "" }},
		"not a token": {token: func(claims) string { return "a.b.c" }},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, server.URL, pemOf(server), "casemate", "secret")
			b.now = now
			if c.claim != "" {
				b.settings.UserClaim = c.claim
			}
			says := claims{"iss": server.URL, "aud": "casemate", "sub": "1", "exp": now.Add(time.Minute).Unix(),
				"iat": now.Unix(), "nonce": "n", "preferred_username": "ada", "groups": []string{"builders", "/site"}}
			for k, v := range c.change {
				if says[k] = v; v == nil {
					delete(says, k)
				}
			}
			raw := signed(rs, says, by(key))
			if c.token != nil {
				raw = c.token(says)
			}
			s, err := b.open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			token := (&oauth2.Token{AccessToken: "access"}).WithExtra(claims{"id_token": raw})
			u, err := s.user(t.Context(), token, "n")
			switch {
			case c.want == nil && !errors.Is(err, ErrRefused):
				t.Errorf("%+v, %v", u, err)
			case c.want != nil && (err != nil || u.Name != c.want.Name || !slices.Equal(u.Groups, c.want.Groups)):
				t.Errorf("%+v, %v, want %+v", u, err, c.want)
			}
		})
	}
	// Of a user with very many groups the first ones count; more than an answer may have is no answer.
	t.Run("many groups", func(t *testing.T) {
		b := open(t, server.URL, pemOf(server), "casemate", "secret")
		s, err := b.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		groups := make([]string, 20*maxGroups)
		for i := range groups {
			groups[i] = fmt.Sprint("group ", i)
		}
		says := claims{"iss": server.URL, "aud": "casemate", "sub": "1", "exp": now.Add(time.Hour).Unix(),
			"preferred_username": "ada", "groups": groups}
		u, err := s.user(t.Context(), (&oauth2.Token{}).WithExtra(claims{"id_token": signed(rs, says, by(key))}), "")
		if err != nil || !slices.Equal(u.Groups, groups[:maxGroups]) {
			t.Errorf("%d groups, %v", len(u.Groups), err)
		}
	})
	// The provider changes its key: tokens by the new one count at once, also without a new discovery; those by the old
	// one do not any more as soon as its keys have been read again, and another key of the old name never does.
	t.Run("the provider's key changes", func(t *testing.T) {
		fresh, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		b := open(t, server.URL, pemOf(server), "casemate", "secret")
		try := func(kid string, k *rsa.PrivateKey) error {
			s, err := b.open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			says := claims{"iss": server.URL, "aud": "casemate", "sub": "1", "exp": now.Add(time.Hour).Unix(),
				"preferred_username": "ada"}
			raw := signed(claims{"alg": "RS256", "kid": kid}, says, by(k))
			_, err = s.user(t.Context(), (&oauth2.Token{}).WithExtra(claims{"id_token": raw}), "")
			return err
		}
		if err := try("k", key); err != nil {
			t.Fatal(err)
		}
		right := answers["/keys"]
		defer func() { answers["/keys"] = right }()
		answers["/keys"] = func() any {
			return claims{"keys": []claims{{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k2",
				"n": base64.RawURLEncoding.EncodeToString(fresh.N.Bytes()),
				"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(fresh.E)).Bytes())}}}
		}
		if err := try("k2", fresh); err != nil {
			t.Errorf("the new key: %v", err)
		}
		if err := try("k", key); !errors.Is(err, ErrRefused) {
			t.Errorf("the old key: %v", err)
		}
		if err := try("k2", key); !errors.Is(err, ErrRefused) {
			t.Errorf("the old key under the new name: %v", err)
		}
	})
	// What a provider says of itself is not believed where it leads out of TLS, and neither is another's word.
	for name, change := range map[string]func(claims){
		"endpoint without TLS": func(c claims) {
			c["jwks_uri"] = strings.Replace(server.URL, "https", "http", 1) + "/keys"
		},
		"another issuer": func(c claims) { c["issuer"] = "https://evil.example" },
	} {
		t.Run(name, func(t *testing.T) {
			right := answers["/.well-known/openid-configuration"]
			defer func() { answers["/.well-known/openid-configuration"] = right }()
			answers["/.well-known/openid-configuration"] = func() any {
				c := right().(claims)
				change(c)
				return c
			}
			b := open(t, server.URL, pemOf(server), "casemate", "secret")
			s, err := b.open(t.Context())
			if err == nil {
				raw := signed(rs, claims{"iss": server.URL, "aud": "casemate", "exp": now.Add(time.Minute).Unix(),
					"preferred_username": "ada"}, by(key))
				_, err = s.user(t.Context(), (&oauth2.Token{}).WithExtra(claims{"id_token": raw}), "")
			}
			if err == nil {
				t.Error("it is believed")
			}
		})
	}
}
