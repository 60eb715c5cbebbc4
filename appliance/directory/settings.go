package directory

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// Settings say which directory is asked, and where in it users and groups are.
type Settings struct {
	// Servers are tried in this order: ldaps://HOST:PORT, or ldap://HOST:PORT with StartTLS.
	Servers []*url.URL
	// CA are the roots that the servers' certificates are verified with, PEM; "": those of the host.
	CA string
	// BindDN is who searches; "": anonymous.
	BindDN string
	Users  Place
	// Groups is where groups are; its Base is empty if there are none.
	Groups Place
	// Member is the attribute of a group with the DNs of its members; memberUid has their names (RFC 2307).
	Member string
}

// A Place is where a search is done (RFC 4516 section 2): entries below Base that match Filter, called by their
// Attribute.
type Place struct {
	Base      string
	Attribute string
	Scope     int // ldap.ScopeWholeSubtree or ldap.ScopeSingleLevel
	Filter    string
}

func (s *Settings) configured() bool { return len(s.Servers) > 0 && s.Users.Base != "" }

// text is equal for equal settings.
func (s *Settings) text() string {
	var b strings.Builder
	for _, u := range s.Servers {
		fmt.Fprintf(&b, "%s ", u)
	}
	fmt.Fprintf(&b, "%q %q %q %q %q", s.CA, s.BindDN, s.Users.String(), s.Groups.String(), s.Member)
	return b.String()
}

// String returns what ParsePlace parses.
func (p Place) String() string {
	if p.Base == "" {
		return ""
	}
	scope := "sub"
	if p.Scope == ldap.ScopeSingleLevel {
		scope = "one"
	}
	return strings.Join([]string{p.Base, p.Attribute, scope, p.Filter}, "?")
}

const maxServers = 4

// ParseServers parses the addresses of servers, separated by white space.
func ParseServers(text string) ([]*url.URL, error) {
	var list []*url.URL
	for _, f := range strings.Fields(text) {
		u, err := url.Parse(f)
		if err != nil || u.Scheme != "ldaps" && u.Scheme != "ldap" || u.Hostname() == "" || u.User != nil ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("must be ldaps://HOST, or ldap://HOST for StartTLS, got %q", f)
		}
		list = append(list, &url.URL{Scheme: u.Scheme, Host: u.Host})
	}
	if len(list) > maxServers {
		return nil, fmt.Errorf("must have at most %d servers, got %d", maxServers, len(list))
	}
	return list, nil
}

// address returns the address that is dialed.
func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"ldap": "389", "ldaps": "636"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// CheckCA returns what is wrong with roots in PEM; "" are those of the host.
func CheckCA(text string) error {
	if strings.TrimSpace(text) != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(text)) {
		return errors.New("must be certificates in PEM")
	}
	return nil
}

// CheckDN returns what is wrong with a distinguished name (RFC 4514); "" is none.
func CheckDN(text string) error {
	if _, err := ldap.ParseDN(text); err != nil {
		return fmt.Errorf("must be a distinguished name like cn=casemate,dc=example,dc=com, got %.200q", text)
	}
	return nil
}

var attribute = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.-]{0,127}(:[0-9.]+:)?$`)

// CheckMember returns what is wrong with the name of an attribute; it may have a matching rule, like that of Active
// Directory for nested groups, member:1.2.840.113556.1.4.1941:.
func CheckMember(text string) error {
	if !attribute.MatchString(text) {
		return fmt.Errorf("must be the name of an attribute, got %.200q", text)
	}
	return nil
}

// ParsePlace parses BASE?ATTRIBUTE?SCOPE?FILTER, the end of an LDAP URL (RFC 4516) without its percent-encoding. What
// is left out is the attribute called name, sub, and (objectClass=*).
func ParsePlace(text, name string) (Place, error) {
	if text == "" {
		return Place{}, nil
	}
	p := Place{Attribute: name, Scope: ldap.ScopeWholeSubtree, Filter: "(objectClass=*)"}
	parts := strings.SplitN(text, "?", 4)
	p.Base = parts[0]
	if err := CheckDN(p.Base); err != nil || p.Base == "" {
		return Place{}, fmt.Errorf("must begin with a distinguished name like ou=people,dc=example,dc=com, got %.200q",
			text)
	}
	if len(parts) > 1 && parts[1] != "" {
		p.Attribute = parts[1]
	}
	if !attribute.MatchString(p.Attribute) || strings.Contains(p.Attribute, ":") {
		return Place{}, fmt.Errorf("must have one attribute after the first question mark, got %.200q", parts[1])
	}
	if len(parts) > 2 {
		switch parts[2] {
		case "", "sub":
		case "one":
			p.Scope = ldap.ScopeSingleLevel
		default:
			return Place{}, fmt.Errorf("must have the scope sub or one after the second question mark, got %.200q",
				parts[2])
		}
	}
	if len(parts) > 3 && parts[3] != "" {
		p.Filter = parts[3]
	}
	if _, err := ldap.CompileFilter(p.Filter); err != nil || p.Filter[0] != '(' {
		return Place{}, fmt.Errorf("must have a filter like (objectClass=person) after the third question mark, "+
			"got %.200q", p.Filter)
	}
	return p, nil
}
