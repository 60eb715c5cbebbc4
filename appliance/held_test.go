package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"casemate/appliance/admin"
	"casemate/appliance/setup"
)

// Damage is a problem in status, numbers in the metrics, and out of the inventory and the samples, until its bytes
// come.
func TestDamageIsShown(t *testing.T) {
	n := freshNode(t, setup.InitOptions{Set: map[string]string{"scrub.interval": "10d"}})
	img := imageFor(t, "amd64")
	push := n.pusher()
	push("quay.io/team/app:1", img)
	const url = "https://dl.k8s.io/release/file"
	n.must("PUT", "files?url="+url, "some bytes", nil)
	type state struct {
		Problems []string
		Scrub    struct {
			Interval         string
			Faults, Repaired uint64
			Oldest           time.Time
			Lost             []struct{ Digest, Why string }
			All              int `json:"lost_total"`
		}
	}
	status := func() (s state) {
		t.Helper()
		n.must("GET", "status", nil, &s)
		return s
	}
	metric := func(name string) string {
		t.Helper()
		_, text := n.do("GET", "https://casemate.internal/metrics", nil)
		for line := range strings.Lines(text) {
			if v, ok := strings.CutPrefix(line, "casemate_"+name+" "); ok {
				return strings.TrimSpace(v)
			}
		}
		return "none"
	}
	var inventory string
	n.must("GET", "inventory", nil, &inventory)
	held := strings.Count(inventory, "sha256:")
	s := status()
	if held == 0 || len(s.Problems) != 0 || s.Scrub.Interval != (240*time.Hour).String() ||
		metric("blobs_lost") != "0" {
		t.Fatalf("%d held, %+v", held, s)
	}
	hurt := 0
	dir := filepath.Join(n.cfg.Data, "cluster", "blobs", "sha256")
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		hurt++
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("~")
		return errors.Join(err, f.Close())
	})
	if err != nil || hurt == 0 {
		t.Fatal(hurt, err)
	}
	n.must("GET", "inventory", nil, &inventory)
	if strings.Contains(inventory, "sha256:") {
		t.Errorf("the inventory promises what is damaged: %s", inventory)
	}
	s = status()
	want := fmt.Sprintf("%d blobs are damaged or lost here", hurt)
	said := len(s.Problems) == 1 && strings.HasPrefix(s.Problems[0], want)
	if !said || s.Scrub.All != hurt || len(s.Scrub.Lost) == 0 || s.Scrub.Faults == 0 {
		t.Errorf("%+v, want %s", s, want)
	}
	for name, want := range map[string]string{
		"blobs_lost": fmt.Sprint(hurt), "blobs_damaged": fmt.Sprint(hurt), "scrub_repaired_total": "0",
	} {
		if got := metric(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	var images []admin.Image
	n.must("GET", "images", nil, &images)
	if len(images) != 1 || images[0].Reference != "quay.io/team/app:1" || !images[0].Damaged {
		t.Errorf("%+v", images)
	}
	if s := n.samples.Find(t.Context()); s.Image != "" {
		t.Errorf("nodes are told to try with %s", s.Image)
	}
	push("quay.io/team/app:1", img)
	n.must("PUT", "files?url="+url, "some bytes", nil)
	s = status()
	if len(s.Problems) != 0 || s.Scrub.All != 0 || s.Scrub.Repaired != uint64(hurt) || metric("blobs_lost") != "0" {
		t.Errorf("after all was pushed again: %+v", s)
	}
	n.must("GET", "inventory", nil, &inventory)
	if got := strings.Count(inventory, "sha256:"); got != held {
		t.Errorf("the inventory has %d blobs, want %d", got, held)
	}
	var r struct{ Damaged, Missing []string }
	n.must("POST", "scrub", nil, &r)
	if len(r.Damaged)+len(r.Missing) != 0 {
		t.Errorf("scrub: %+v", r)
	}
}
