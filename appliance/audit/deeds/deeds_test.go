package deeds

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	if verb, object := Of("users/alice", true); verb != "user.remove" || object != "alice" {
		t.Errorf("%s %s", verb, object)
	}
	for name, want := range map[string]string{
		"registry/repositories/team/app/_manifests/tags/1.0/current/link":      "image.push team/app:1.0",
		"registry/repositories/team/app/_manifests/tags/1.0":                   "image.push team/app:1.0",
		"registry/repositories/team/app/_manifests/revisions/sha256/00ff/link": "image.push team/app@sha256:00ff",
		"registry/repositories/team/app":                                       "image.push team/app",
		"registry/repositories/team/app/_layers/sha256/00ff/link":              " ",
		"registry/repositories/team/app/_referrers/sha256/00/sha256/01/link":   " ",
		"files/dl.k8s.io/kubeadm":                                              "file.put https://dl.k8s.io/kubeadm",
		"names/web.example/A":                                                  "name.set web.example A",
		"users/alice":                                                          "user.set alice",
		"imports/base/record":                                                  "import.publish base",
		"imports/pending/x/record":                                             " x/record",
		"pki/issued/01":                                                        "certificate.issue 01",
		"pki/root/1/cert":                                                      "ca.set root/1/cert",
		"missing/n1":                                                           " n1",
		"audit/segments/0":                                                     " segments/0",
		"new/thing":                                                            "new.set thing",
		"usersx/alice":                                                         "usersx.set alice",
	} {
		verb, object := Of(name, false)
		if got := verb + " " + object; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestRulesAreThoseOfTheDocumentedDirectories: each directory in docs/architecture.md has a rule, and only bookkeeping
// has a reason to be left out.
func TestRulesAreThoseOfTheDocumentedDirectories(t *testing.T) {
	page, err := os.ReadFile("../../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "Directories of the tree:")
	table, _, _ = strings.Cut(table, "\n## ")
	dirs := regexp.MustCompile("(?m)^\\| `([a-z/-]+)").FindAllStringSubmatch(table, -1)
	if len(dirs) < 15 {
		t.Fatalf("only %d directories are found", len(dirs))
	}
	for _, m := range dirs {
		dir, ruled := strings.TrimSuffix(m[1], "/"), false
		for _, r := range Rules {
			ruled = ruled || r.Dir == dir || strings.HasPrefix(r.Dir, dir+"/") || strings.HasPrefix(dir, r.Dir+"/")
		}
		if !ruled {
			t.Errorf("%s has no rule: add what a change of it means, or why it is no event", dir)
		}
	}
	for _, r := range Rules {
		if (r.Set == "") != (r.Why != "") {
			t.Errorf("%s: verbs %q and %q, why %q", r.Dir, r.Set, r.Remove, r.Why)
		}
	}
}
