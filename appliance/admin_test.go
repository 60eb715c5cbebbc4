package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"casemate/appliance/admin"
	"casemate/appliance/origin"
	"casemate/appliance/settings"
	"casemate/appliance/setup"
	"casemate/cluster"
	"casemate/pki"
)

func freshNode(t testing.TB, opt setup.InitOptions) *node {
	t.Helper()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, opt)
	return serveNode(t, cfg)
}

// resolves and handshakes say whether DNS and TLS know a name.
func (n *node) resolves(name string) bool {
	_, err := n.resolver().LookupHost(context.Background(), name+".")
	return err == nil
}

func (n *node) handshakes(name string) bool {
	c, err := tls.Dial("tcp", n.Addrs().HTTPS[0].String(),
		&tls.Config{ServerName: name, RootCAs: n.client.Transport.(*http.Transport).TLSClientConfig.RootCAs})
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Enabling an origin is one step: its name, its address and its certificate; removing it takes all of them away.
func TestAnOriginIsEnabledWhole(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{Permit: []string{"bank.example"}})
	const host, alias = "registry.bank.example", "r.bank.example"
	if n.resolves(host) || n.handshakes(host) {
		t.Fatal("it is known before")
	}
	var made admin.Origin
	n.must("PUT", "origins/Registry.Bank.example:443", map[string][]string{"aliases": {alias}}, &made)
	if !made.Enabled || made.Host != host || !slices.Equal(made.Aliases, []string{alias}) {
		t.Errorf("got %+v", made)
	}
	for _, name := range []string{host, alias} {
		if !n.resolves(name) || !n.handshakes(name) {
			t.Errorf("%s: resolves %v, handshakes %v", name, n.resolves(name), n.handshakes(name))
		}
	}
	if resp, _ := n.do("GET", "https://"+alias+"/v2/", nil); resp.StatusCode != 200 {
		t.Errorf("got %s", resp.Status)
	}
	n.must("DELETE", "origins/"+host, nil, nil)
	for _, name := range []string{host, alias} {
		if n.resolves(name) || n.handshakes(name) {
			t.Errorf("%s is known after it was removed", name)
		}
	}

	// An origin that the root does not permit is refused, with the command that changes that, and leaves nothing
	// behind.
	status, says := n.admin("PUT", "origins/www.other.example", map[string][]string{"aliases": {"x.third.example"}},
		nil)
	for _, want := range []string{
		"www.other.example is not permitted by the root certificate",
		"casemate ca rotate --permit other.example --permit third.example", "casemate origin add www.other.example",
	} {
		if status != 409 || !strings.Contains(says, want) {
			t.Errorf("got %d %s, want %q", status, says, want)
		}
	}
	var all []admin.Origin
	n.must("GET", "origins", nil, &all)
	if slices.ContainsFunc(all, func(o admin.Origin) bool { return o.Host == "www.other.example" }) ||
		n.resolves("www.other.example") {
		t.Errorf("it is stored: %+v", all)
	}

	// A built-in origin can be removed, and is added again with its aliases.
	n.must("DELETE", "origins/docker.io", nil, nil)
	if n.resolves("registry-1.docker.io") || n.handshakes("registry-1.docker.io") {
		t.Error("docker.io is known after it was removed")
	}
	n.must("PUT", "origins/docker.io", nil, &made)
	if !made.Enabled || !made.Builtin || !n.resolves("registry-1.docker.io") || !n.handshakes("registry-1.docker.io") {
		t.Errorf("docker.io does not come back: %+v", made)
	}
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"PUT", "origins/registry-1.docker.io", 409, "is an alias of the origin docker.io already"},
		{"PUT", "origins/10.0.0.1", 400, "got the address 10.0.0.1"},
		{"PUT", "origins/nodot", 400, `got "nodot"`},
		{"PUT", "origins/x.casemate.internal", 400, "not overlap the own zone casemate.internal"},
		{"DELETE", "origins/nowhere.example", 404, "there is no origin nowhere.example"},
		{"DELETE", "origins/index.docker.io", 400, "is an alias of the origin docker.io"},
	} {
		if status, says := n.admin(c.method, c.path, map[string]any{}, nil); c.method == "PUT" &&
			(status != c.status || !strings.Contains(says, c.says)) {
			t.Errorf("%s %s: %d %s, want %d %q", c.method, c.path, status, says, c.status, c.says)
		}
	}
}

// Origins that are enabled at the same time are all enabled, each with its certificate: what one computed from is what
// it changes.
func TestOriginsEnabledAtOnceDoNotUndoEachOther(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{Permit: []string{"bank.example"}})
	var wg sync.WaitGroup
	var names []string
	for i := range 5 {
		name := fmt.Sprintf("r%d.bank.example", i)
		names = append(names, name)
		wg.Go(func() {
			if _, err := n.changes.AddOrigin(context.Background(), name, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		wg.Go(func() { // as another node does: without our lock, through the CA's own change
			if _, err := n.ca.Issue(context.Background(),
				pki.Request{Names: []string{fmt.Sprintf("c%d.bank.example", i)}}); err != nil &&
				!errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, name := range names {
		if !n.resolves(name) || !n.handshakes(name) {
			t.Errorf("%s is not enabled whole", name)
		}
	}
}

// A change of the CA between the plan and the batch makes the whole batch fail, and the change is planned again:
// nothing is half enabled.
func TestAConflictIsPlannedAgain(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{Permit: []string{"bank.example"}})
	ctx := context.Background()
	plans := 0
	err := n.changes.Commit(ctx, func() (*origin.Set, func(cluster.Batch) error, error) {
		plans++
		o := origin.Origin{Host: "r.bank.example"}
		set, err := n.current.State().Origins.With(o)
		if err != nil {
			return nil, nil, err
		}
		return set, func(b cluster.Batch) error {
			if plans == 1 { // behind Constrain, before the batch
				if err := n.ca.Rotate(ctx); err != nil {
					return err
				}
			}
			data, err := origin.Record(o)
			b.Put("origins/r.bank.example", data)
			return err
		}, nil
	})
	if err != nil || plans != 2 {
		t.Errorf("%d plans, %v", plans, err)
	}
	if !n.resolves("r.bank.example") || !n.handshakes("r.bank.example") {
		t.Error("it is not enabled whole")
	}
}

func TestSettingsChangeWhileServing(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{Set: map[string]string{"files.alias_arch": "arm64"}})
	get := func(key string) (s settings.Setting) {
		t.Helper()
		n.must("GET", "settings/"+key, nil, &s)
		return s
	}
	if s := get("files.alias_arch"); s.Value != "arm64" || !s.Set || s.Default != "" {
		t.Errorf("what init was given: %+v", s)
	}
	n.must("PUT", "settings/dns.ttl", map[string]string{"value": "1m"}, nil)
	if s := get("dns.ttl"); s.Value != "1m" || s.Default != "15s" || !s.Set {
		t.Errorf("got %+v", s)
	}
	n.must("DELETE", "settings/dns.ttl", nil, nil)
	if s := get("dns.ttl"); s.Value != "15s" || s.Set {
		t.Errorf("got %+v", s)
	}
	n.must("PUT", "settings/registry.anonymous", map[string]string{"value": "none"}, nil)
	if resp, _ := n.do("GET", "https://registry.k8s.io/v2/", nil); resp.StatusCode != 401 {
		t.Errorf("registry.anonymous none: %s", resp.Status)
	}
	n.must("PUT", "settings/origins", map[string]string{"value": "quay.io ghcr.io"}, nil)
	if n.resolves("registry.k8s.io") || n.handshakes("registry.k8s.io") || !n.resolves("quay.io") ||
		!n.handshakes("quay.io") {
		t.Error("origins are not what they were set to")
	}
	var list []settings.Setting
	n.must("GET", "settings", nil, &list)
	if len(list) != len(settings.Keys()) {
		t.Errorf("%d settings are listed", len(list))
	}
	own := n.Addrs().DNS[0].String()
	for _, c := range []struct {
		key, value string
		status     int
		says       string
	}{
		{"dns.ttl", "0s", 400, `must be between 1s and 1h, got "0s"`},
		{"domain", "other.example", 400, "fixed at init"},
		{"pki.issuer", "no PEM", 400, "must be PEM with the CA certificate"},
		{"nonsense", "1", 404, `there is no setting "nonsense"`},
		{"dns.forward", own, 400, "must not have this node's own address " + own},
		{"origins", "registry.bank.example", 400, "not permitted by the root certificate"},
	} {
		if status, says := n.admin("PUT", "settings/"+c.key, map[string]string{"value": c.value},
			nil); status != c.status || !strings.Contains(says, c.says) {
			t.Errorf("%s=%s: %d %s, want %d %q", c.key, c.value, status, says, c.status, c.says)
		}
	}
	if n.resolves("registry.bank.example") || !n.resolves("quay.io") {
		t.Error("a refused setting changed something")
	}
}

func TestNamesThatTheOperatorSets(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	n.must("PUT", "names/Git.Bank.example/a", map[string]any{"values": []string{"10.9.8.7"}, "ttl": "1m"}, nil)
	n.must("PUT", "names/*.apps.bank.example/CNAME", map[string]any{"values": []string{"git.bank.example"}}, nil)
	if got, err := n.resolver().LookupHost(context.Background(), "git.bank.example."); err != nil ||
		!slices.Equal(got, []string{"10.9.8.7"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := n.resolver().LookupHost(context.Background(), "x.apps.bank.example."); err != nil ||
		!slices.Equal(got, []string{"10.9.8.7"}) {
		t.Errorf("got %v, %v", got, err)
	}
	var list []admin.Name
	n.must("GET", "names", nil, &list)
	if fmt.Sprint(list) != "[{*.apps.bank.example CNAME [git.bank.example] } {git.bank.example A [10.9.8.7] 1m0s}]" {
		t.Errorf("got %v", list)
	}
	for _, c := range []struct {
		method, path string
		in           map[string]any
		status       int
		says         string
	}{
		{"PUT", "names/git.bank.example/A", map[string]any{"values": []string{"ten"}}, 400, `got "ten"`},
		{"PUT", "names/git.bank.example/MX", map[string]any{"values": []string{"1 x"}}, 400, "MX"},
		{"PUT", "names/git.bank.example/A", map[string]any{"values": []string{"10.0.0.1"}, "ttl": "soon"}, 400,
			`got "soon"`},
		{"PUT", "names/git.bank.example/A", map[string]any{"value": "10.0.0.1"}, 400, "unknown field"},
		{"DELETE", "names/none.bank.example", nil, 404, "name none.bank.example is not set"},
		{"DELETE", "names/git.bank.example/TXT", nil, 404, "name git.bank.example TXT is not set"},
	} {
		if status, says := n.admin(c.method, c.path, c.in, nil); status != c.status || !strings.Contains(says, c.says) {
			t.Errorf("%s %s: %d %s, want %d %q", c.method, c.path, status, says, c.status, c.says)
		}
	}
	n.must("DELETE", "names/git.bank.example/A", nil, nil)
	n.must("DELETE", "names/*.apps.bank.example", nil, nil)
	if n.resolves("git.bank.example") || n.resolves("x.apps.bank.example") {
		t.Error("deleted names are answered")
	}
}

func TestCertificatesUsersImagesAndFilesByHand(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{Permit: []string{"bank.example"}})

	var issued struct{ Serial, Certificate, Chain, Key string }
	n.must("POST", "certs", map[string]any{"names": []string{"harbor.bank.example"}}, &issued)
	if _, err := tls.X509KeyPair([]byte(issued.Certificate+issued.Chain), []byte(issued.Key)); err != nil {
		t.Error(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	csr, _ := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{DNSNames: []string{"git.bank.example"}}, key)
	var signed struct{ Serial, Certificate, Chain, Key string }
	n.must("POST", "certs", map[string]any{"csr": string(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))}, &signed)
	if signed.Key != "" || signed.Certificate == "" {
		t.Errorf("got %+v", signed)
	}
	n.must("POST", "certs/"+issued.Serial+"/revoke", nil, nil)
	var certs []admin.Cert
	n.must("GET", "certs", nil, &certs)
	if len(certs) != 2 {
		t.Fatalf("got %+v", certs)
	}
	for _, c := range certs {
		if (c.Serial == issued.Serial) != !c.Revoked.IsZero() {
			t.Errorf("got %+v", c)
		}
	}
	block, _ := pem.Decode([]byte(issued.Certificate))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(leaf.CRLDistributionPoints) != 1 || !strings.HasPrefix(leaf.CRLDistributionPoints[0],
		"http://casemate.internal/crl/") {
		t.Fatalf("%v: %v", err, leaf.CRLDistributionPoints)
	}
	resp, body := n.do("GET", leaf.CRLDistributionPoints[0], nil)
	crl, err := x509.ParseRevocationList([]byte(body))
	if err != nil || resp.Header.Get("Content-Type") != "application/pkix-crl" ||
		!slices.ContainsFunc(crl.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
			return e.SerialNumber.Cmp(leaf.SerialNumber) == 0
		}) {
		t.Errorf("revocation list: %v %s", err, resp.Status)
	}
	if status, says := n.admin("POST", "certs", map[string]any{"names": []string{"www.other.example"}},
		nil); status != 400 || !strings.Contains(says, "not permitted by the root") {
		t.Errorf("got %d %s", status, says)
	}

	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)
	if status, says := n.admin("POST", "users", map[string]string{"name": "ada", "password": "correct horse"},
		nil); status != 409 || !strings.Contains(says, "casemate user passwd ada") {
		t.Errorf("got %d %s", status, says)
	}
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"quay.io/a/b:1", "quay.io/a/b:2", "team/app:1"} {
		if err := remote.Write(ref(t, "registry.casemate.internal/"+to), img, remote.WithTransport(n.client.Transport),
			remote.WithAuth(&authn.Basic{Username: "ada", Password: "correct horse"})); err != nil {
			t.Fatal(err)
		}
	}
	list := func(prefix string) (refs []string) {
		t.Helper()
		var images []admin.Image
		n.must("GET", "images?prefix="+prefix, nil, &images)
		for _, i := range images {
			refs = append(refs, i.Reference)
		}
		return refs
	}
	if got := list("quay.io/"); !slices.Equal(got, []string{"quay.io/a/b:1", "quay.io/a/b:2"}) {
		t.Errorf("got %v", got)
	}
	n.must("DELETE", "images?ref=quay.io/a/b:1", nil, nil)
	if got := list(""); !slices.Equal(got, []string{"quay.io/a/b:2", "team/app:1"}) {
		t.Errorf("got %v", got)
	}
	n.must("DELETE", "images?ref=quay.io/a/b", nil, nil)
	if got := list(""); !slices.Equal(got, []string{"team/app:1"}) {
		t.Errorf("got %v", got)
	}
	if status, says := n.admin("DELETE", "images?ref=quay.io/a/b", nil, nil); status != 404 ||
		!strings.Contains(says, "there is no image quay.io/a/b") {
		t.Errorf("got %d %s", status, says)
	}
	n.must("DELETE", "users/ada", nil, nil)
	if status, _ := n.admin("DELETE", "users/ada", nil, nil); status != 404 {
		t.Errorf("got %d", status)
	}

	var f admin.File
	n.must("PUT", "files?url=https://DL.k8s.io/a//b", "hello", &f)
	if f.URL != "https://dl.k8s.io/a/b" || f.Size != 5 {
		t.Errorf("got %+v", f)
	}
	if status, says := n.admin("PUT", "files?url=https://nowhere.example/x", "hello", nil); status != 400 ||
		!strings.Contains(says, "casemate origin add nowhere.example") {
		t.Errorf("got %d %s", status, says)
	}
	var all []admin.File
	n.must("GET", "files?prefix=https://dl.k8s.io/", nil, &all)
	if len(all) != 1 || all[0].URL != f.URL {
		t.Errorf("got %+v", all)
	}
	n.must("DELETE", "files?url="+f.URL, nil, nil)
	if resp, _ := n.do("GET", f.URL, nil); resp.StatusCode != 404 {
		t.Errorf("a deleted file: %s", resp.Status)
	}
	var gc struct {
		DryRun bool `json:"dry_run"`
		Kept   int
	}
	n.must("POST", "gc?dry_run=true", nil, &gc)
	if !gc.DryRun || gc.Kept == 0 {
		t.Errorf("got %+v", gc)
	}
	n.must("POST", "gc", nil, nil)
	var scrub struct {
		Checked int
		Damaged []string
	}
	n.must("POST", "scrub", nil, &scrub)
	if scrub.Checked == 0 || len(scrub.Damaged) != 0 {
		t.Errorf("got %+v", scrub)
	}
	if status, says := n.admin("GET", "nonsense", nil, nil); status != 404 ||
		!strings.Contains(says, "GET /v1/nonsense") {
		t.Errorf("got %d %s", status, says)
	}
	var roots string
	n.must("POST", "ca/rotate", map[string]bool{}, nil)
	n.must("GET", "ca", nil, &roots)
	if strings.Count(roots, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("after ca rotate: %s", roots)
	}
	if status, _ := n.admin("POST", "ca/rotate", map[string]bool{}, nil); status != 409 {
		t.Errorf("a second rotation: %d", status)
	}
	if resp, _ := n.do("GET", "https://quay.io/v2/", nil); resp.StatusCode != 200 {
		t.Errorf("a client with the old root during the overlap: %s", resp.Status)
	}
	if status, says := n.admin("POST", "ca/rotate", map[string]bool{"finish": true}, nil); status != 409 ||
		!strings.Contains(says, "the overlap lasts until") || !strings.Contains(says, "--finish --yes") {
		t.Errorf("a rotation is finished at once: %d %s", status, says)
	}
	n.must("POST", "ca/rotate", map[string]bool{"finish": true, "yes": true}, nil)
	n.must("GET", "ca", nil, &roots)
	if strings.Count(roots, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("after ca rotate --finish: %s", roots)
	}
}
