//go:build e2e

package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"
)

// TestDemo runs the program of `make run` to the end of its tour, twice: without and with data of the first run.
func TestDemo(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", "run", "./cmd/casemate/demo", "-casemate", "bin/casemate", "-dir",
			dir, "-once")
		cmd.Dir = repo(t)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"DNS    registry.k8s.io is 127.0.0.1", "TLS    registry.k8s.io, issued by",
			"pull   registry.k8s.io/casemate/sample:1", "GET    https://dl.k8s.io/"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("the tour does not show %q:\n%s", want, out)
			}
		}
	}
}
