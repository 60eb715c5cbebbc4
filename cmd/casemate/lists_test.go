package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"casemate/bundle/lists"
)

// readLists reads the lists of the flags, in a directory with these files.
func readLists(t *testing.T, files map[string]string, stdin string, args ...string) (w *lists.Wanted,
	sums *lists.Checksums, notes string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var l listFlags
	var stderr bytes.Buffer
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, sums, err = l.wanted(cmd)
			return err
		}}
	l.add(cmd)
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetErr(&stderr)
	if runErr := cmd.Execute(); err == nil {
		err = runErr
	}
	return w, sums, stderr.String(), err
}

func TestListsOfAllKinds(t *testing.T) {
	one, two := strings.Repeat("1", 64), strings.Repeat("2", 64)
	w, sums, notes, err := readLists(t, map[string]string{
		"a":    "nginx\nquay.io/x:1",
		"b":    "quay.io/x:1\nquay.io/y:1",
		"c":    "https://charts.example app 1.0.0\noci://quay.io/charts/app:2.0.0",
		"m":    "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: quay.io/z:1\n",
		"s":    one + "  kubelet\n",
		"more": two + "  amd64/kubeadm\n" + one + "  arm64/kubeadm\n",
	}, "https://dl.k8s.io/kubelet\nhttps://dl.k8s.io/kubeadm\n", "--images", "a", "--images", "b", "--files", "-",
		"--charts", "c", "--manifests", "m", "--checksums", "s", "--checksums", "more")
	if err != nil {
		t.Fatal(err)
	}
	var images []string
	for _, i := range w.Images {
		images = append(images, i.Ref())
	}
	if want := []string{"docker.io/library/nginx:latest", "quay.io/x:1", "quay.io/y:1", "quay.io/charts/app:2.0.0",
		"quay.io/z:1"}; !slices.Equal(images, want) {
		t.Errorf("images %v, want %v", images, want)
	}
	if len(w.Files) != 2 || w.Files[0].Digest != "sha256:"+one || w.Files[0].Known != "s:1: kubelet" ||
		w.Files[0].Where != "stdin:1" || w.Files[1].Digest != "" {
		t.Errorf("files %+v", w.Files)
	}
	if len(w.Charts) != 1 || w.Charts[0].Name != "app" {
		t.Errorf("charts %+v", w.Charts)
	}
	if !strings.Contains(notes, "note: https://dl.k8s.io/kubeadm is not checked, its checksum is ambiguous") {
		t.Errorf("notes: %s", notes)
	}
	if got := sums.Other("sha256:" + two); got != "amd64/kubeadm" {
		t.Errorf("the checksums are not given on: %q", got)
	}
}

func TestListsAreRefusedAsAWhole(t *testing.T) {
	files := map[string]string{"bad": "https://x\n\nquay.io/x:1\n{{ x }}", "url": "x y z", "s": "no checksum",
		"ok": "https://dl.k8s.io/x sha256:" + strings.Repeat("1", 64), "sum": strings.Repeat("2", 64) + "  x"}
	for _, c := range []struct {
		args []string
		says []string
	}{
		{nil, []string{"nothing is selected"}},
		{[]string{"--checksums", "sum"}, []string{"nothing is selected"}},
		{[]string{"--images", "bad", "--files", "url", "--checksums", "s"},
			[]string{"bad:1: ", "bad:4: ", "url:1: ", "s:1: "}},
		{[]string{"--files", "ok", "--checksums", "sum"}, []string{"ok:1", "sum:1: x", "remove the one that is wrong"}},
		{[]string{"--files", "-", "--images", "-"}, []string{"one list only"}},
		{[]string{"--files", "."}, []string{"is a directory"}},
	} {
		_, _, _, err := readLists(t, files, "", c.args...)
		if exitCode(err) != exitUsage {
			t.Errorf("%v: exit code %d of %v", c.args, exitCode(err), err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v: %q is not in %v", c.args, s, err)
			}
		}
	}
	if _, _, _, err := readLists(t, files, "", "--files", "none"); exitCode(err) != exitFailed {
		t.Errorf("a list that is not there: %v", err)
	}
	if _, _, _, err := readLists(t, files, "", "--kubespray", "."); exitCode(err) != exitFailed ||
		!strings.Contains(err.Error(), "checkout of Kubespray") {
		t.Errorf("a checkout that is none: %v", err)
	}
}

func TestProcessorsOfPlatforms(t *testing.T) {
	for _, c := range [][2]string{
		{"", "amd64"}, {"linux/arm64", "arm64"}, {
			"linux/arm64/v8,linux/amd64,linux/aarch64,Linux/x86_64", "arm64 amd64"}, {"linux/arm/v7", "arm"},
	} {
		l := listFlags{}
		if c[0] != "" {
			l.platforms = strings.Split(c[0], ",")
		}
		if got := strings.Join(l.processors(), " "); got != c[1] {
			t.Errorf("%q: %s, want %s", c[0], got, c[1])
		}
	}
}

func TestWantedSetTakesEachNameOnce(t *testing.T) {
	w := &lists.Wanted{Images: []lists.Image{{Repository: "quay.io/x", Tag: "1", Where: "a:1"}},
		Files:  []lists.File{{URL: "https://x/f", Where: "a:2"}},
		Charts: []lists.Chart{{Repo: "https://x", Name: "c", Where: "a:3"}}}
	s := newWantedSet(w)
	for range 2 {
		s.image(lists.Image{Repository: "quay.io/x", Tag: "1"})
		s.image(lists.Image{Repository: "quay.io/x", Tag: "2"})
		s.file(lists.File{URL: "https://x/f"})
		s.file(lists.File{URL: "https://x/g"})
		s.chart(lists.Chart{Repo: "https://x", Name: "c"})
		s.chart(lists.Chart{Repo: "https://x", Name: "c", Version: "1"})
	}
	if len(w.Images) != 2 || len(w.Files) != 2 || len(w.Charts) != 2 || w.Images[0].Where != "a:1" ||
		w.Files[0].Where != "a:2" || w.Charts[0].Where != "a:3" {
		t.Errorf("got %+v", w)
	}
}
