package bundle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// CASEMATE_KUBESPRAY is a checkout of Kubespray, CASEMATE_KUBESPRAY_LISTS a directory with the images.list and files.list that its own script made, for
// CASEMATE_KUBESPRAY_ARCH (amd64) and with the variables in the file CASEMATE_KUBESPRAY_VARS.
func TestKubesprayCheckout(t *testing.T) {
	dir := os.Getenv("CASEMATE_KUBESPRAY")
	if dir == "" {
		t.Skip("CASEMATE_KUBESPRAY names no checkout")
	}
	opt := KubesprayOptions{Arch: os.Getenv("CASEMATE_KUBESPRAY_ARCH")}
	if name := os.Getenv("CASEMATE_KUBESPRAY_VARS"); name != "" {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		opt.Vars = append(opt.Vars, KubesprayVars{name, f})
	}
	k, err := Kubespray(os.DirFS(dir), opt)
	if err != nil {
		t.Fatal(err)
	}
	digests := 0
	for _, f := range k.Files {
		if f.Digest != "" {
			digests++
		}
	}
	t.Logf("%s: %d images, %d files (%d with digests), %d forgotten", k.Release, len(k.Images), len(k.Files), digests, len(k.Forgotten))
	for _, n := range k.Notes {
		t.Log(n)
	}
	for _, f := range k.Forgotten {
		t.Logf("forgotten %s: %s: %s", f.Name(), f.Where, f.Variable)
	}
	lists := os.Getenv("CASEMATE_KUBESPRAY_LISTS")
	if lists == "" {
		t.Skip("CASEMATE_KUBESPRAY_LISTS names no directory to compare with")
	}
	var images, files []string
	for _, i := range k.Images {
		images = append(images, i.Ref())
	}
	for _, f := range k.Files {
		files = append(files, f.URL)
	}
	compareList(t, filepath.Join(lists, "images.list"), images)
	compareList(t, filepath.Join(lists, "files.list"), files)
}

func compareList(t *testing.T, name string, got []string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(string(b))
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s: %s is missing", name, w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("%s: %s is too much", name, g)
		}
	}
	if !t.Failed() && !slices.Equal(got, want) {
		t.Errorf("%s: the order differs", name)
	}
}
