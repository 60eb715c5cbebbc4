package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/bcrypt"

	"casemate/appliance/admin"
	"casemate/appliance/setup"
	"casemate/cluster"
	"casemate/cluster/waittest"
)

// adminStream sends a request whose response is streamed.
func (n *node) adminStream(method, path, body string) *http.Response {
	n.t.Helper()
	r, err := http.NewRequest(method, "http://admin/v1/"+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.Addrs().Admin)
		}}}
	resp, err := c.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// A pair of keys of these tests only; a passphrase takes seconds under the race detector.
const (
	backupRequest  = `{"recipients": "age1xwuwurcfxxc2s5p6kdznapec5melpq4tgvcmeg5y8eu3k0m3ketquvj6tk"}`
	backupIdentity = "AGE-SECRET-KEY-1T0E47V08MGNGJF5T2T7GL8NVSHV2NJJR45N9PU2V3L34XRN4NHDSM8J0P0"
)

// A node with another name and address that was restored from a backup, under the same CA, serves what was pushed and
// put: clients only notice that the resolver is another one. The backup's node is not a member of the new cluster.
func TestARestoredNodeServesWhatWasBackedUp(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{Permit: []string{"bank.example"}})
	n := serveNode(t, cfg)
	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)
	n.must("PUT", "origins/charts.bank.example", map[string]any{}, nil)
	img, err := random.Image(50_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.Digest()
	login := remote.WithAuth(&authn.Basic{Username: "ada", Password: "correct horse"})
	if err := remote.Write(ref(t, "registry.casemate.internal/registry.k8s.io/pause:3.10"), img,
		remote.WithTransport(n.client.Transport), login); err != nil {
		t.Fatal(err)
	}
	const url = "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"
	n.must("PUT", "files?url="+url, "kubeadm", nil)
	resp := n.adminStream("POST", "backup", backupRequest)
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var rep cluster.BackupReport
	if err := json.Unmarshal([]byte(resp.Trailer.Get(admin.ReportTrailer)), &rep); err != nil || rep.Faults != 0 ||
		rep.Blobs != 5 {
		t.Fatalf("trailer %q: %+v, %v", resp.Trailer, rep, err)
	}
	if bytes.Contains(data, []byte("$2a$")) {
		t.Error("the backup holds a password's hash in clear")
	}
	roots := n.Roots()
	client := n.client
	n.stop()

	to := testConfig(t, t.TempDir())
	to.Node, to.Advertise = "bastion-b", []netip.Addr{netip.MustParseAddr("127.0.0.3")}
	file := filepath.Join(t.TempDir(), "casemate.yaml")
	got, p, err := setup.Restore(context.Background(), to, bytes.NewReader(data),
		setup.RestoreOptions{Identities: backupIdentity, ConfigFile: file, Log: testLog(t)})
	if err != nil || p.ConfigFile != file || !there(file) || got.Missing != 0 {
		t.Fatalf("%+v, %v, %v", got, p, err)
	}
	// Both count the content of the backup; the old cluster's records of its nodes are not part of the new one.
	if got.Names != rep.Names || got.Blobs != rep.Blobs || got.Bytes != rep.Bytes || got.Kept >= got.Names {
		t.Errorf("backed up %+v, restored %+v", rep, got)
	}
	n = serveNode(t, to)
	if !bytes.Equal(n.Roots(), roots) {
		t.Error("the CA is another one")
	}
	// what the clients trust since before
	n.client.Transport.(*http.Transport).TLSClientConfig = client.Transport.(*http.Transport).TLSClientConfig
	// The DNS responses have the new node's addresses only.
	addrs, err := n.resolver().LookupHost(context.Background(), "registry.k8s.io.")
	if err != nil || strings.Join(addrs, " ") != "127.0.0.3" {
		t.Errorf("registry.k8s.io has %q, %v", addrs, err)
	}
	if addrs, err := n.resolver().LookupHost(context.Background(), "n1.casemate.internal."); err == nil {
		t.Errorf("the old node has %q", addrs)
	}
	// Its HTTP ports listen on 127.0.0.1, which the test's client does not learn from these answers.
	n.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn,
		error) {
		return (&net.Dialer{}).DialContext(ctx, network, n.Addrs().HTTPS[0].String())
	}
	pulled, err := remote.Image(ref(t, "registry.k8s.io/pause:3.10"), remote.WithTransport(n.client.Transport))
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := pulled.Digest(); d != want {
		t.Errorf("%s, want %s", d, want)
	}
	checkLayers(t, pulled)
	for _, u := range []string{url, "https://bastion-b.casemate.internal/files/" + url[8:]} {
		if resp, body := n.do("GET", u, nil); resp.StatusCode != 200 || body != "kubeadm" {
			t.Errorf("GET %s: %s, %q", u, resp.Status, body)
		}
	}
	// Users are the same, what is enabled is enabled, and there is room for more.
	if err := remote.Write(ref(t, "registry.casemate.internal/charts.bank.example/pause:3.11"), img,
		remote.WithTransport(n.client.Transport), login); err != nil {
		t.Errorf("push: %v", err)
	}
	n.must("PUT", "origins/more.bank.example", map[string]any{}, nil)
	if !n.handshakes("more.bank.example") {
		t.Error("a new origin gets no certificate")
	}
}

// A backup of an earlier version has unsealed hashes. It is restored, its users push as before, and the restored node
// seals them.
func TestABackupOfBeforeIsRestored(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	hash, err := bcrypt.GenerateFromPassword([]byte("correct horse"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	// The node seals what it finds when it starts, and once a minute: it may be faster than the backup.
	var data []byte
	for !bytes.Contains(data, hash) {
		err = n.tree.Update(context.Background(), func(b cluster.Batch) error {
			b.Put("users/ada", fmt.Appendf(nil, `{"hash":%q,"changed":"2025-01-02T03:04:05Z"}`, hash))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.users.Authenticate(context.Background(), "ada", "correct horse"); err != nil {
			t.Error(err)
		}
		if data, err = io.ReadAll(n.adminStream("POST", "backup", backupRequest).Body); err != nil {
			t.Fatal(err)
		}
	}
	to := testConfig(t, t.TempDir())
	if _, _, err := setup.Restore(context.Background(), to, bytes.NewReader(data),
		setup.RestoreOptions{Identities: backupIdentity, Log: testLog(t)}); err != nil {
		t.Fatal(err)
	}
	n = serveNode(t, to)
	waittest.Until(t, "the hash is sealed", func() bool {
		data, err := n.tree.ReadFile("users/ada")
		return err == nil && !bytes.Contains(data, hash)
	})
	if err := n.users.Authenticate(context.Background(), "ada", "correct horse"); err != nil {
		t.Error(err)
	}
	if data, err = io.ReadAll(n.adminStream("POST", "backup", backupRequest).Body); err != nil || bytes.Contains(data,
		hash) {
		t.Errorf("a new backup holds the hash in clear, %v", err)
	}
}

// An invalid request is refused before the first byte is sent.
func TestBackupRequests(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	for body, want := range map[string]string{
		`{}`: "give either a passphrase or recipients", `{"passphrase": "short"}`: "at least 12 bytes, got 5",
		`{"recipients": "nobody"}`: "age1", `{"nonsense": 1}`: "nonsense",
	} {
		if status, says := n.admin("POST", "backup", body, nil); status != 400 || !strings.Contains(says, want) {
			t.Errorf("%s: %d %q", body, status, says)
		}
	}
}
