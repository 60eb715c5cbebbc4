package appliance

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"casemate/appliance/nodeconf"
	"casemate/appliance/packages"
	"casemate/appliance/setup"
)

// ownDEB is a package.
func ownDEB(t *testing.T, name string) string {
	t.Helper()
	control := "Package: " + name + "\nVersion: 1.0-1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "control", Mode: 0o644, Size: int64(len(control))})
	_, err2 := io.WriteString(w, control)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	deb := "!<arch>\n"
	for _, m := range [][2]string{{"debian-binary", "2.0\n"}, {"control.tar", b.String()}, {"data.tar", ""}} {
		deb += fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", m[0], 0, 0, 0, "100644", len(m[1]), m[1])
	}
	return deb
}

// Packages of one's own are put over https, are served with metadata and key at their own name, and are known to the
// enrol script and to the list of repositories.
func TestOwnPackages(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	n.must("POST", "users", map[string]string{"name": "ci", "password": "correct horse"}, nil)
	n.must("PUT", "repositories/tools", map[string]string{"format": "deb"}, nil)
	const at = "https://packages.casemate.internal/tools/"
	user := func(r *http.Request) { r.SetBasicAuth("ci", "correct horse") }
	if resp, body := n.do("PUT", at, strings.NewReader(ownDEB(t, "first"))); resp.StatusCode != 401 {
		t.Errorf("without a user: %s %s", resp.Status, body)
	}
	if resp, body := n.do("PUT", at, strings.NewReader(ownDEB(t, "first")), user); resp.StatusCode != 201 {
		t.Fatalf("put: %s %s", resp.Status, body)
	}
	var list []packages.Package
	n.must("GET", "packages?repository=tools", nil, &list)
	if len(list) != 1 || list[0].Name != "first" || list[0].Version != "1.0-1" {
		t.Fatalf("%+v", list)
	}
	if resp, body := n.do("GET", list[0].URL, nil); resp.StatusCode != 200 || body != ownDEB(t, "first") {
		t.Errorf("%s: %s", list[0].URL, resp.Status)
	}
	var key struct{ Public string }
	n.must("GET", "repositories/key?repository=tools", nil, &key)
	if _, body := n.do("GET", at+"key.asc", nil); body != key.Public || !strings.Contains(body, "PUBLIC KEY") {
		t.Errorf("key.asc is\n%s", body)
	}
	var files []nodeconf.File
	n.must("GET", "enroll?format=line&repo=tools", nil, &files)
	if len(files) != 1 || !strings.HasSuffix(files[0].Text, " --repo tools\n") {
		t.Errorf("%+v", files)
	}
	if status, sentence := n.admin("GET", "enroll?format=line&repo=none", nil, nil); status != 404 {
		t.Errorf("a source of no repository: %d %s", status, sentence)
	}
	if _, script := n.do("GET", "http://casemate.internal/enroll", nil); !strings.Contains(script, key.Public) {
		t.Error("the script does not have the key")
	}
	if status, sentence := n.admin("DELETE", "files?url="+at+"key.asc", nil, nil); status != 400 {
		t.Errorf("a file of a repository was deleted: %d %s", status, sentence)
	}
	if status, sentence := n.admin("DELETE", "repositories/tools", nil, nil); status != 409 {
		t.Errorf("a repository with packages was removed: %d %s", status, sentence)
	}
	n.must("DELETE", "packages/tools?package=first", nil, &list)
	n.must("DELETE", "repositories/tools", nil, nil)
	if resp, _ := n.do("GET", at+"dists/stable/InRelease", nil); resp.StatusCode != 404 {
		t.Errorf("after the removal: %s", resp.Status)
	}
}
