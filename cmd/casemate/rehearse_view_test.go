package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance"
)

// TestRehearsalView: traffic is counted by host, within bounds, and logged as lines of JSON.
func TestRehearsalView(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.SetErr(&bytes.Buffer{})
	file := filepath.Join(t.TempDir(), "log")
	v, err := newRehearsalView(cmd, file)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v.watch(appliance.Traffic{Time: at, Host: "dl.k8s.io", Fetch: true, Name: "https://dl.k8s.io/f", Status: 200,
		Bytes: 2048})
	v.watch(appliance.Traffic{Time: at, Host: "dl.k8s.io", Name: "GET https://dl.k8s.io/f", Status: 200, Bytes: 2048})
	v.watch(appliance.Traffic{Time: at, Host: "dl.k8s.io", Fetch: true, Name: "https://dl.k8s.io/g", Error: "refused"})
	got := v.hosts["dl.k8s.io"].line()
	if !strings.HasSuffix(got, "1 request, 2.0 KiB; 2.0 KiB fetched in 2, 1 failed") {
		t.Errorf("got %q", got)
	}
	for i := range 100 {
		v.watch(appliance.Traffic{Time: at, Host: fmt.Sprintf("h%d.example", i)})
	}
	if n := v.hosts[""].requests; len(v.hosts) > maxShown+1 || n != 100-(maxShown-1) {
		t.Errorf("%d hosts, %d requests of others", len(v.hosts), n)
	}
	if err := v.end(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-01-02T03:04:05Z","host":"dl.k8s.io","fetch":true,"name":"https://dl.k8s.io/f",` +
		`"status":200,"bytes":2048}` + "\n"
	if !strings.HasPrefix(string(text), want) || strings.Count(string(text), "\n") != 103 {
		t.Errorf("%s", text)
	}
}
