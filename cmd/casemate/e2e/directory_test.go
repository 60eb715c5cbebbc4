//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const slapdConf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile DIR/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile DIR/dir.crt
TLSCertificateKeyFile DIR/dir.key
security tls=1
database mdb
suffix "dc=example,dc=com"
directory DIR/db
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=reader,dc=example,dc=com" read by * none
`

const directoryContent = `dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=com
objectClass: organizationalUnit
ou: groups

dn: cn=reader,dc=example,dc=com
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: reader
userPassword: bind secret

dn: uid=ada,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: ada
cn: Ada
sn: L
userPassword: correct horse

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
userPassword: correct battery

dn: cn=juniors,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: juniors
member: uid=ada,ou=people,dc=example,dc=com

dn: cn=site builders,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: site builders
member: cn=juniors,ou=groups,dc=example,dc=com
`

// checkDirectory: users of OpenLDAP's slapd log in with docker and skopeo and may do what their groups may; StartTLS is
// required on both sides. When the directory is gone, local users and pulls do not notice.
func checkDirectory(t *testing.T, b *bastion, n *host, docker, auth []string) {
	t.Helper()
	d := b.lab.host("dir", "")
	d.write("slapd.conf", strings.ReplaceAll(slapdConf, "DIR", d.dir))
	d.write("content.ldif", directoryContent)
	if err := os.Mkdir(d.path("db"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.must(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
		"-subj", "/CN=dir", "-addext", "subjectAltName=IP:"+d.ip, "-keyout", d.path("dir.key"),
		"-out", d.path("dir.crt"))
	d.must(t, "/usr/sbin/slapadd", "-f", d.path("slapd.conf"), "-l", d.path("content.ldif"))
	slapd := d.daemon(t, "slapd", "/usr/sbin/slapd", "-d", "0", "-f", d.path("slapd.conf"), "-h",
		"ldap://"+d.at("389")+"/")
	ca, err := os.ReadFile(d.path("dir.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"ldap.url": "ldap://" + d.ip, "ldap.ca": string(ca), "ldap.bind_dn": "cn=reader,dc=example,dc=com",
		"ldap.users":  "ou=people,dc=example,dc=com?uid?sub?(objectClass=inetOrgPerson)",
		"ldap.groups": "ou=groups,dc=example,dc=com?cn",
	} {
		b.casemate(t, "config", "set", "--", key, value)
	}
	if out, err := b.tryIn("bind secret\n", b.bin(), "--socket", b.socket, "directory", "login", "ldap",
		"--password-stdin"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	until(t, "the directory answers", func() error {
		if out := b.casemate(t, "directory", "show"); !strings.Contains(out, "answers") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	b.casemate(t, "role", "grant", "group:site builders", "pusher", "--images-below", "team")
	out := b.casemate(t, "directory", "test", "ada")
	if !strings.Contains(out, "uid=ada,ou=people,") ||
		!strings.Contains(out, "juniors: none") ||
		!strings.Contains(out, "site builders: pusher (images team), through another group") {
		t.Errorf("directory test:\n%s", out)
	}
	b.fails(t, "does not have this user", b.bin(), "--socket", b.socket, "directory", "test", "*")

	const own = "registry.casemate.internal"
	with := func(command []string, more ...string) []string {
		return append(append([]string{}, command...), more...)
	}
	login := func(user, password string, command ...string) (string, error) {
		return n.tryIn(password, append(command, "-u", user, "--password-stdin", own)...)
	}
	dockerLogin, skopeoLogin := with(docker, "login"), with([]string{"skopeo", "login"}, auth...)
	for _, command := range [][]string{dockerLogin, skopeoLogin} {
		if out, err := login("ada", "wrong horse", command...); err == nil {
			t.Errorf("%s: a wrong password logs in:\n%s", command[0], out)
		}
		if out, err := login("ada", "correct horse", command...); err != nil {
			t.Errorf("%s: %v\n%s", command[0], err, out)
		}
	}
	push := func(repo string) map[string]error {
		n.must(t, with(docker, "tag", "registry.k8s.io/pause:3.10", own+"/"+repo+":docker")...)
		results := map[string]error{}
		for name, command := range map[string][]string{
			"docker": with(docker, "push", own+"/"+repo+":docker"),
			"skopeo": with(with([]string{"skopeo", "copy"}, auth...), "docker://registry.k8s.io/pause:3.10",
				"docker://"+own+"/"+repo+":skopeo"),
		} {
			if out, err := n.try(command...); err != nil {
				results[name] = fmt.Errorf("%w: %s", err, out)
			}
		}
		return results
	}
	if failed := push("team/directory"); len(failed) > 0 {
		t.Errorf("a member of the group does not push: %v", failed)
	}
	if failed := push("other/directory"); len(failed) != 2 || !strings.Contains(failed["docker"].Error(), "denied") {
		t.Errorf("a member of the group pushes elsewhere: %v", failed)
	}
	if out := b.casemate(t, "audit", "list", "--actor", "ldap/ada"); !strings.Contains(out, "team/directory") {
		t.Errorf("the audit log does not name the user:\n%s", out)
	}
	for _, command := range [][]string{dockerLogin, skopeoLogin} {
		if out, err := login("bob", "correct battery", command...); err != nil {
			t.Errorf("%s: %v\n%s", command[0], err, out)
		}
	}
	if failed := push("team/bob"); len(failed) != 2 {
		t.Errorf("a user whose groups have no role pushes: %v", failed)
	}

	checkOIDC(t, b, n, d, string(ca))

	slapd.Process.Signal(syscall.SIGTERM)
	until(t, "the directory is gone", func() error {
		if out := b.casemate(t, "directory", "show"); strings.Contains(out, "answers") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if out, err := b.tryIn("local horse\n", b.bin(), "--socket", b.socket, "user", "add", "night",
		"--password-stdin"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := login("night", "local horse", skopeoLogin...); err != nil {
		t.Errorf("a local user without the directory: %v\n%s", err, out)
	}
	if out, err := n.try(with([]string{"skopeo", "inspect"}, "docker://registry.k8s.io/pause:3.10")...); err != nil {
		t.Errorf("a pull without the directory: %v\n%s", err, out)
	}
}

// groupStore is the storage of an OpenID provider that knows groups.
type groupStore struct{ *storage.Storage }

func (s groupStore) SetUserinfoFromToken(ctx context.Context, u *oidc.UserInfo, token, subject, origin string) error {
	err := s.Storage.SetUserinfoFromToken(ctx, u, token, subject, origin)
	u.AppendClaims("groups", []string{"/site/auditors"})
	return err
}

// checkOIDC: a user logs in on the command line of a node, at a provider inside the gap with a CA of its own.
func checkOIDC(t *testing.T, b *bastion, n, d *host, ca string) {
	t.Helper()
	issuer := "https://" + d.at("8443")
	s := groupStore{storage.NewStorageWithClients(storage.NewUserStore(issuer), map[string]*storage.Client{
		"casemate": storage.DeviceClient("casemate", "client secret")})}
	provider, err := op.NewProvider(&op.Config{AuthMethodPost: true, CryptoKey: [32]byte{1}, CryptoKeyId: "1",
		DeviceAuthorization: op.DeviceAuthorizationConfig{Lifetime: time.Hour, PollInterval: time.Second,
			UserFormPath: "/device", UserCode: op.UserCodeDigits}}, s, op.StaticIssuer(issuer))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: provider}
	l := d.listenOn(t, d.at("8443"))
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(l, d.path("dir.crt"), d.path("dir.key")) }()
	defer func() {
		server.Close()
		<-served
	}()
	for key, value := range map[string]string{"oidc.issuer": issuer, "oidc.client": "casemate", "oidc.ca": ca} {
		b.casemate(t, "config", "set", "--", key, value)
	}
	if out, err := b.tryIn("client secret\n", b.bin(), "--socket", b.socket, "directory", "login", "oidc",
		"--password-stdin"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	login := []string{b.bin(), "login", "--oidc", "--server", "https://n1.casemate.internal"}
	// run begins a login, and the user finishes it where the provider says.
	run := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := n.command(ctx, login...)
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		for lines := bufio.NewScanner(out); lines.Scan(); {
			line := lines.Text()
			said.WriteString(line + "\n")
			if _, code, ok := strings.Cut(line, " and enter the code "); ok {
				if err := s.CompleteDeviceAuthorization(ctx, code, "id1"); err != nil {
					t.Error(err)
				}
			}
		}
		return said.String(), cmd.Wait()
	}
	if out, err := run(); err == nil || !strings.Contains(out, "has no role: give one to one of its groups") {
		t.Errorf("a user without a role logs in: %v\n%s", err, out)
	}
	b.casemate(t, "role", "grant", "group:/site/auditors", "auditor")
	if out, err := run(); err != nil || !strings.Contains(out, "as oidc/test-user@10.") {
		t.Fatalf("%v\n%s", err, out)
	}
	whoami := n.must(t, b.bin(), "whoami", "--server", "https://n1.casemate.internal")
	if !strings.Contains(whoami, "oidc/test-user@10.") || !strings.Contains(whoami, "auditor") ||
		!strings.Contains(whoami, "/site/auditors") {
		t.Errorf("%s", whoami)
	}
	n.must(t, b.bin(), "user", "list", "--server", "https://n1.casemate.internal")
	n.fails(t, "may not manage", b.bin(), "user", "remove", "--yes", "ops", "--server",
		"https://n1.casemate.internal")
	n.must(t, b.bin(), "logout", "--server", "https://n1.casemate.internal")
	n.fails(t, "needs an account", b.bin(), "whoami", "--server", "https://n1.casemate.internal")
}
