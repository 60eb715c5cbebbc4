package settings

import (
	"casemate/appliance/directory"
	"casemate/appliance/oidc"
)

// directoryDefs are the settings of who vouches for users besides the cluster.
var directoryDefs = []def{
	{"ldap.url", "",
		"servers of an LDAP directory whose users may log in: ldaps://HOST, or ldap://HOST for StartTLS; at most 4",
		func(s *Settings, v string) (err error) {
			s.Directory.Servers, err = directory.ParseServers(v)
			return err
		}},
	{"ldap.ca", "",
		"roots that the directory's certificates are verified with, PEM; empty: those of the bastions' hosts",
		func(s *Settings, v string) error {
			s.Directory.CA = v
			return directory.CheckCA(v)
		}},
	{"ldap.bind_dn", "", "the DN that searches; its password is set with casemate directory login; empty: anonymous",
		func(s *Settings, v string) error {
			s.Directory.BindDN = v
			return directory.CheckDN(v)
		}},
	{"ldap.users", "",
		"where users are: BASE?ATTRIBUTE?SCOPE?FILTER, like ou=people,dc=example,dc=com?uid?sub?(objectClass=person)",
		func(s *Settings, v string) (err error) {
			s.Directory.Users, err = directory.ParsePlace(v, "uid")
			return err
		}},
	{"ldap.groups", "",
		"where groups are, in the form of ldap.users, like ou=groups,dc=example,dc=com?cn; empty: users have no groups",
		func(s *Settings, v string) (err error) {
			s.Directory.Groups, err = directory.ParsePlace(v, "cn")
			return err
		}},
	{"ldap.member", "member",
		"the attribute of a group with its members' DNs, like member or uniqueMember; memberUid has their names",
		func(s *Settings, v string) error {
			s.Directory.Member = v
			return directory.CheckMember(v)
		}},
	{"oidc.issuer", "", "the issuer of an OpenID provider whose users may log in, like https://login.example.com/realm",
		func(s *Settings, v string) error {
			s.OIDC.Issuer = v
			return oidc.CheckIssuer(v)
		}},
	{"oidc.client", "",
		"the client ID at the provider; its secret, if it has one, is set with casemate directory login",
		func(s *Settings, v string) error {
			s.OIDC.Client = v
			return oidc.CheckText(v)
		}},
	{"oidc.ca", "", "roots that the provider's certificate is verified with, PEM; empty: those of the bastions' hosts",
		func(s *Settings, v string) error {
			s.OIDC.CA = v
			return directory.CheckCA(v)
		}},
	{"oidc.scopes", "openid profile", "what is asked of the provider; openid must be among it",
		func(s *Settings, v string) (err error) {
			s.OIDC.Scopes, err = oidc.ParseScopes(v)
			return err
		}},
	{"oidc.user_claim", "preferred_username", "the claim with a user's name",
		func(s *Settings, v string) error {
			s.OIDC.UserClaim = v
			return oidc.CheckClaim(v)
		}},
	{"oidc.groups_claim", "groups", "the claim with the names of a user's groups",
		func(s *Settings, v string) error {
			s.OIDC.GroupsClaim = v
			return oidc.CheckClaim(v)
		}},
}
