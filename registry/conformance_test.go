package registry

import (
	"encoding/pem"
	"encoding/xml"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"casemate/cluster/treetest"
)

var conformance = flag.Bool("conformance", os.Getenv("CASEMATE_CONFORMANCE") != "",
	"build the OCI distribution-spec conformance suite from packaging/tools and run it (also by "+
		"CASEMATE_CONFORMANCE=1)")

// everything turns on what the suite leaves out by default, so that nothing is disabled.
//
// One data set stays off, as it is by default: "sparse" pushes an image whose layer is nowhere and expects 201. This
// registry refuses it with MANIFEST_BLOB_UNKNOWN, because no client inside the gap could ever pull that image;
// TestSparse shows what is accepted, an index whose children are absent.
var everything = []string{
	"OCI_VERSION=1.1",
	"OCI_API_PING=true", "OCI_API_PULL=true", "OCI_API_PUSH=true", "OCI_API_REFERRER=true",
	"OCI_API_BLOBS_ATOMIC=true", "OCI_API_BLOBS_DELETE=true", "OCI_API_BLOBS_DIGEST_HEADER=true",
	"OCI_API_BLOBS_MOUNT_ANONYMOUS=true",
	"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_MANIFESTS_ATOMIC=true", "OCI_API_MANIFESTS_DELETE=true",
	"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true",
	"OCI_API_TAGS_ATOMIC=true", "OCI_API_TAGS_DELETE=true", "OCI_API_TAGS_LIST=true",
	"OCI_DATA_IMAGE=true", "OCI_DATA_INDEX=true", "OCI_DATA_INDEX_LIST=true", "OCI_DATA_ARTIFACT=true",
	"OCI_DATA_SUBJECT=true", "OCI_DATA_SUBJECT_MISSING=true", "OCI_DATA_ARTIFACT_LIST=true",
	"OCI_DATA_SUBJECT_LIST=true",
	"OCI_DATA_DATA_FIELD=true", "OCI_DATA_NONDISTRIBUTABLE=true", "OCI_DATA_CUSTOM_FIELDS=true",
	"OCI_DATA_NO_LAYERS=true",
	"OCI_DATA_EMPTY_BLOB=true", "OCI_DATA_SHA512=true",
}

// TestConformance runs the distribution-spec's own suite against a registry on the strict tree: as a client with a user
// on one of the appliance's names, flat and below an origin, over http and https.
func TestConformance(t *testing.T) {
	if !*conformance {
		t.Skip("not asked for: go test -run Conformance ./registry -conformance")
	}
	suite := filepath.Join(t.TempDir(), "conformance")
	build := exec.Command("go", "build", "-o", suite, "github.com/opencontainers/distribution-spec/conformance")
	build.Dir = filepath.Join("..", "packaging", "tools")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the suite: %v\n%s", err, out)
	}
	for _, c := range []struct {
		name, repo1, repo2 string
		tls                bool
	}{
		{"flat", "conformance/repo1", "conformance/repo2", false},
		{"origin", "registry.k8s.io/conformance/repo1", "docker.io/library/repo2", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Open(Config{
				Tree:    treetest.New(t),
				Origins: func() []string { return []string{"docker.io", "registry.k8s.io"} },
				Canonical: func(h string) (string, bool) {
					return h, h == "docker.io" || h == "registry.k8s.io"
				},
				Authenticate: onlyAnn, Account: annsAccount,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				r.Serve(w, req, View{Host: req.Host})
			})
			srv, tls := httptest.NewUnstartedServer(handler), "disabled"
			env := slices.Clone(everything)
			if c.tls {
				srv.StartTLS()
				tls = "enabled"
				ca := filepath.Join(t.TempDir(), "ca.pem")
				block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
				if err := os.WriteFile(ca, block, 0o600); err != nil {
					t.Fatal(err)
				}
				env = append(env, "SSL_CERT_FILE="+ca)
			} else {
				srv.Start()
			}
			t.Cleanup(srv.Close)
			runSuite(t, suite, append(env,
				"OCI_REGISTRY="+srv.Listener.Addr().String(), "OCI_TLS="+tls, "OCI_REPO1="+c.repo1,
				"OCI_REPO2="+c.repo2,
				"OCI_USERNAME=ann", "OCI_PASSWORD=secret"))
		})
	}
}

// runSuite runs the suite and fails unless every case passed.
func runSuite(t *testing.T, suite string, env []string) {
	dir := t.TempDir()
	cmd := exec.Command(suite)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(env, "OCI_RESULTS_DIR="+dir, "OCI_LOG=error")...)
	out, err := cmd.CombinedOutput()
	data, readErr := os.ReadFile(filepath.Join(dir, "junit.xml"))
	if readErr != nil {
		t.Fatalf("%v: %v\n%s", err, readErr, out)
	}
	var report struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
		Disabled int `xml:"disabled,attr"`
	}
	if err := xml.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	count := fmt.Sprintf("%d cases, %d failed, %d errors, %d skipped, %d disabled", report.Tests, report.Failures,
		report.Errors, report.Skipped, report.Disabled)
	t.Log(count)
	if report.Tests < 800 || report.Failures+report.Errors+report.Skipped+report.Disabled != 0 || err != nil {
		if keep := os.Getenv("CASEMATE_CONFORMANCE_RESULTS"); keep != "" {
			os.CopyFS(filepath.Join(keep, filepath.Base(t.Name())), os.DirFS(dir))
		}
		lines := strings.Split(string(out), "\n")
		t.Errorf("%s (%v)\n%s", count, err, strings.Join(lines[:min(len(lines), 2500)], "\n"))
	}
}
