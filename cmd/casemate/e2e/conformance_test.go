//go:build e2e

package e2e

import (
	"context"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestConformance runs the OCI distribution-spec's own suite, every API of 1.1 turned on, against the real binary over
// https, flat and below an origin.
func TestConformance(t *testing.T) {
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	c := l.host("client", b.ip)
	c.trust(b.casemate(t, "ca"))
	if out, err := b.tryIn("correct horse\n", b.bin(), "--socket", b.socket, "user", "add", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	suite := filepath.Join(t.TempDir(), "conformance")
	build := exec.Command("go", "build", "-o", suite, "github.com/opencontainers/distribution-spec/conformance")
	build.Dir = filepath.Join(repo(t), "packaging", "tools")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the suite: %v\n%s", err, out)
	}
	for name, repos := range map[string][2]string{
		"flat":   {"conformance/repo1", "conformance/repo2"},
		"origin": {"registry.k8s.io/conformance/repo1", "docker.io/library/repo2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.path("tmp/" + name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			cmd := c.command(ctx, suite)
			cmd.Dir = dir
			cmd.Env = append(cmd.Env, "OCI_REGISTRY=registry.casemate.internal", "OCI_TLS=enabled",
				"OCI_REPO1="+repos[0], "OCI_REPO2="+repos[1],
				"OCI_USERNAME=ops", "OCI_PASSWORD=correct horse", "OCI_RESULTS_DIR="+dir, "OCI_LOG=error",
				"OCI_VERSION=1.1",
				// What the suite leaves out by default is turned on too.
				"OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true",
				"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true")
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
			t.Logf("%d cases, %d failed, %d errors, %d skipped, %d disabled", report.Tests, report.Failures,
				report.Errors, report.Skipped, report.Disabled)
			if err != nil || report.Tests < 800 || report.Failures+report.Errors+report.Skipped+report.Disabled != 0 {
				lines := strings.Split(string(out), "\n")
				t.Errorf("%v\n%s", err, strings.Join(lines[:min(len(lines), 400)], "\n"))
			}
		})
	}
}
