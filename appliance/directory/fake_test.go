package directory

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// entry is an entry of the fake directory; attributes are in lower case.
type entry struct {
	dn         string
	attributes map[string][]string
}

// fake is an LDAP server (RFC 4511) that is strict: it fails the test if a password arrives without TLS, if somebody
// binds with a DN and no password, or if an alias would be followed.
type fake struct {
	t        *testing.T
	cert     tls.Certificate
	CA       string // PEM
	listener net.Listener
	secure   bool // ldaps
	wg       sync.WaitGroup

	mu        sync.Mutex
	entries   []entry
	passwords map[string]string // by DN
	answer    func(op ber.Tag) (code int, handled bool)
	binds     int
	searches  []string
}

func newFake(t *testing.T, secure bool) *fake {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true,
		BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, listener: l, secure: secure, passwords: map[string]string{},
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		CA:   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
	f.wg.Go(f.accept)
	t.Cleanup(func() { l.Close(); f.wg.Wait() })
	return f
}

func (f *fake) url() string {
	scheme := "ldap://"
	if f.secure {
		scheme = "ldaps://"
	}
	return scheme + f.listener.Addr().String()
}

func (f *fake) accept() {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.wg.Go(func() {
			defer c.Close()
			f.serve(c)
		})
	}
}

func (f *fake) serve(c net.Conn) {
	safe := f.secure
	config := &tls.Config{Certificates: []tls.Certificate{f.cert}}
	if safe {
		c = tls.Server(c, config)
	}
	for {
		p, err := ber.ReadPacket(c)
		if err != nil || len(p.Children) < 2 {
			return
		}
		id, op := p.Children[0].Value.(int64), p.Children[1]
		say := func(tag ber.Tag, code int, children ...*ber.Packet) {
			m := ber.NewSequence("message")
			m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
			r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
			if children == nil {
				r.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(code), ""))
				r.AppendChild(text(""))
				r.AppendChild(text("fake"))
			}
			for _, child := range children {
				r.AppendChild(child)
			}
			m.AppendChild(r)
			c.Write(m.Bytes())
		}
		f.mu.Lock()
		answer := f.answer
		f.mu.Unlock()
		if answer != nil {
			if code, handled := answer(op.Tag); handled {
				if code == hangUp {
					return
				}
				if code == nonsense {
					say(ldap.ApplicationSearchResultEntry, 0)
					continue
				}
				say(map[ber.Tag]ber.Tag{
					ldap.ApplicationBindRequest:     ldap.ApplicationBindResponse,
					ldap.ApplicationSearchRequest:   ldap.ApplicationSearchResultDone,
					ldap.ApplicationExtendedRequest: ldap.ApplicationExtendedResponse,
				}[op.Tag], code)
				continue
			}
		}
		switch op.Tag {
		case ldap.ApplicationBindRequest:
			dn := op.Children[1].Value.(string)
			password := op.Children[2].Data.String()
			if !safe && password != "" {
				f.t.Errorf("the password of %s comes without TLS", dn)
			}
			if dn != "" && password == "" {
				f.t.Errorf("%s binds without a password", dn)
			}
			code := ldap.LDAPResultSuccess
			f.mu.Lock()
			f.binds++
			if want, ok := f.passwords[strings.ToLower(dn)]; dn != "" && (!ok || want != password) {
				code = ldap.LDAPResultInvalidCredentials
			}
			f.mu.Unlock()
			say(ldap.ApplicationBindResponse, code)
		case ldap.ApplicationSearchRequest:
			f.search(op, say)
		case ldap.ApplicationExtendedRequest:
			say(ldap.ApplicationExtendedResponse, 0)
			c, safe = tls.Server(c, config), true
		default:
			return
		}
	}
}

func text(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func (f *fake) search(op *ber.Packet, say func(ber.Tag, int, ...*ber.Packet)) {
	base, limit := strings.ToLower(op.Children[0].Value.(string)), op.Children[3].Value.(int64)
	if op.Children[2].Value.(int64) != ldap.NeverDerefAliases {
		f.t.Error("aliases would be followed")
	}
	filter, err := ldap.DecompileFilter(op.Children[6])
	if err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.searches = append(f.searches, filter)
	var found int64
	for _, e := range f.entries {
		if !strings.HasSuffix(strings.ToLower(e.dn), base) || !f.matches(e, op.Children[6]) {
			continue
		}
		if found++; limit > 0 && found > limit {
			say(ldap.ApplicationSearchResultDone, ldap.LDAPResultSizeLimitExceeded)
			return
		}
		list := ber.NewSequence("attributes")
		for _, want := range op.Children[7].Children {
			name := want.Value.(string)
			values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
			for _, v := range e.attributes[strings.ToLower(name)] {
				values.AppendChild(text(v))
			}
			a := ber.NewSequence("attribute")
			a.AppendChild(text(name))
			a.AppendChild(values)
			list.AppendChild(a)
		}
		say(ldap.ApplicationSearchResultEntry, 0, text(e.dn), list)
	}
	// Somewhere else there may be more; nobody goes there.
	say(ldap.ApplicationSearchResultReference, 0, text("ldap://elsewhere.example/"+base))
	say(ldap.ApplicationSearchResultDone, ldap.LDAPResultSuccess)
}

// matches evaluates a filter (RFC 4511 section 4.5.1.7): and, or, not, equality, presence, and the two matching rules
// of Active Directory that administrators use: all bits, and members of members.
func (f *fake) matches(e entry, p *ber.Packet) bool {
	one := func(c *ber.Packet) bool { return f.matches(e, c) }
	switch p.Tag {
	case ldap.FilterAnd:
		return !slices.ContainsFunc(p.Children, func(c *ber.Packet) bool { return !one(c) })
	case ldap.FilterOr:
		return slices.ContainsFunc(p.Children, one)
	case ldap.FilterNot:
		return !one(p.Children[0])
	case ldap.FilterExtensibleMatch:
		parts := map[ber.Tag]string{}
		for _, c := range p.Children {
			parts[c.Tag] = c.Data.String()
		}
		attribute, value := parts[ldap.MatchingRuleAssertionType], parts[ldap.MatchingRuleAssertionMatchValue]
		switch rule := parts[ldap.MatchingRuleAssertionMatchingRule]; rule {
		case "1.2.840.113556.1.4.803":
			want, _ := strconv.Atoi(value)
			for _, v := range e.attributes[strings.ToLower(attribute)] {
				if n, err := strconv.Atoi(v); err == nil && n&want == want {
					return true
				}
			}
			return false
		case inChain:
			return f.chained(e, strings.ToLower(attribute), value, map[string]bool{})
		default:
			f.t.Errorf("the matching rule %s is not one that Active Directory has", rule)
		}
		return false
	case ldap.FilterPresent:
		return len(e.attributes[strings.ToLower(p.Data.String())]) > 0
	case ldap.FilterEqualityMatch:
		want := p.Children[1].Data.String()
		return slices.ContainsFunc(e.attributes[strings.ToLower(p.Children[0].Data.String())],
			func(v string) bool { return strings.EqualFold(v, want) })
	}
	return false
}

// chained reports whether dn is a member of the entry, or of one of its members.
func (f *fake) chained(e entry, attribute, dn string, seen map[string]bool) bool {
	if seen[e.dn] {
		return false
	}
	seen[e.dn] = true
	return slices.ContainsFunc(e.attributes[attribute], func(member string) bool {
		return strings.EqualFold(member, dn) || slices.ContainsFunc(f.entries, func(inner entry) bool {
			return strings.EqualFold(inner.dn, member) && f.chained(inner, attribute, dn, seen)
		})
	})
}

// Answers besides result codes.
const (
	hangUp   = -1
	nonsense = -2 // an entry without its parts
)

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

const (
	userBase = "ou=people,dc=example,dc=com"
	inGroup  = "ou=groups,dc=example,dc=com"
	reader   = "cn=reader,dc=example,dc=com"
)

// user and group add entries.
func (f *fake) user(name, password string) string {
	dn := "uid=" + name + "," + userBase
	f.set(func() {
		f.entries = append(f.entries, entry{dn, map[string][]string{"uid": {name}, "objectclass": {"person"}}})
		f.passwords[strings.ToLower(dn)] = password
	})
	return dn
}

func (f *fake) group(name string, members ...string) string {
	dn := "cn=" + name + "," + inGroup
	f.set(func() {
		f.entries = append(f.entries, entry{dn, map[string][]string{"cn": {name}, "objectclass": {"groupOfNames"},
			"member": members}})
	})
	return dn
}

// quiet is a log that fails nothing and remembers everything.
type quiet struct {
	mu sync.Mutex
	bytes.Buffer
}

func (q *quiet) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.Buffer.Write(p)
}
