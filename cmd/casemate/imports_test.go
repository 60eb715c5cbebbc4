package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// fence forbids a room, and what is below it, an import.
type fence struct {
	room   string   // import path prefix of the importing packages
	except []string // import path prefixes that may
	bars   string   // import path prefix that is forbidden
	why    string
}

var services = []string{"casemate/registry", "casemate/fileserver", "casemate/dnssrv", "casemate/pki", "casemate/bundle"}

func fences() []fence {
	f := []fence{
		{"casemate", []string{"casemate/registry"}, "github.com/distribution/distribution", "distribution is the largest dependency and full of globals: one room knows it"},
		{"casemate", []string{"casemate/dnssrv"}, "github.com/miekg/dns", "the wire format of DNS is one room's matter"},
		{"casemate", []string{"casemate/pki"}, "github.com/caddyserver/certmagic", "only the CA's room knows how certificates are kept and renewed"},
		{"casemate", []string{"casemate/cluster"}, "github.com/hashicorp/raft", "nothing above the tree may notice how it is replicated"},
		{"casemate", []string{"casemate/cluster"}, "filippo.io/age", "the sealing key is wrapped and unwrapped where it lies and nowhere else"},
		{"casemate", []string{"casemate/bundle", "casemate/cmd/casemate/demo"}, "github.com/google/go-containerregistry", "a client library; the daemon is a server (the demo is a client)"},
		{"casemate", []string{"casemate/cmd"}, "github.com/spf13/cobra", "flags are parsed in cmd and nowhere else"},
		{"casemate", []string{"casemate/cmd/casemate"}, "github.com/vbauerster/mpb", "who works tells how far it is; only the command line knows whether somebody looks at a terminal"},
		{"casemate/bundle", nil, "casemate", "it runs on the connected side, on macOS too, where there is nothing of the daemon"},
		{"casemate/appliance/nodeconf", nil, "casemate", "what nodes get is a pure function of what it is given"},
		{"casemate/appliance/doctor", nil, "casemate/cluster", "it runs on a node, where there is no tree"},
		{"casemate/appliance/doctor", nil, "casemate/pki", "it trusts what the node trusts and nothing else"},
		{"casemate/appliance/doctor", nil, "casemate/registry", "it is a client of the bastions, as a node's programs are"},
		{"casemate/dnssrv", []string{"casemate/dnssrv/process"}, "os/exec", "what answers starts nothing"},
		{"casemate/cluster/state", nil, "os", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster/state", nil, "net", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster/state", nil, "math/rand", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster/state", nil, "crypto/rand", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster", nil, "casemate/appliance", "the tree knows no service and nobody above it"},
		{"casemate/cluster/share", nil, "casemate", "it divides places between clients and needs nobody for that"},
		{"casemate/cluster/lograte", nil, "casemate", "it counts log lines and needs nobody for that"},
		{"casemate/cluster/blob", nil, "casemate/cluster/state", "blobs are a directory; who names them is not their matter"},
	}
	for _, s := range services {
		f = append(f,
			fence{s, nil, "casemate/cluster", "a service sees its own subtree through an interface of its own"},
			fence{s, nil, "casemate/appliance", "wiring points downwards"},
			fence{"casemate/cluster", nil, s, "the tree knows no service"},
		)
		for _, o := range services {
			if s != o {
				f = append(f, fence{s, nil, o, "services meet only in the appliance"})
			}
		}
	}
	return f
}

// layer is a package inside a room, and what it may import of that room.
type layer struct {
	pkg     string
	imports []string
	why     string
}

// layers lists every package of bundle, the lowest first: a package imports only packages that stand before it.
func layers() []layer {
	const b = "casemate/bundle"
	return []layer{
		{b + "/digests", nil, "one check of digests for the whole room"},
		{b + "/canonical", nil, "a JSON form knows nothing of what is written in it"},
		{b + "/signing", nil, "a signature does not depend on what is signed"},
		{b + "/oci", []string{b + "/digests"}, "manifests are the same wherever they come from"},
		{b, []string{b + "/canonical", b + "/digests", b + "/oci", b + "/signing"},
			"the documents that all parts of the room share depend on none of these parts"},
		{b + "/lists", []string{b + "/digests"}, "lists say what is wanted, not how it is fetched"},
		{b + "/lists/jinja", nil, "a template language knows nothing of Kubespray"},
		{b + "/lists/kubespray", []string{b + "/lists", b + "/lists/jinja"}, "it reads a checkout and fetches nothing"},
		{b + "/collect/cache", []string{b + "/digests"}, "content on a disk, wherever it comes from"},
		{b + "/collect/diagnose", nil, "it looks at bytes, whoever fetched them"},
		{b + "/collect/transport", []string{b + "/collect/diagnose"}, "HTTP requests and retries, for any content"},
		{b + "/collect/download", []string{b + "/digests", b + "/collect/cache", b + "/collect/diagnose",
			b + "/collect/transport"}, "who changes how a file is downloaded never opens the format or the lists"},
		{b + "/collect", []string{b, b + "/digests", b + "/oci", b + "/lists", b + "/collect/cache",
			b + "/collect/diagnose", b + "/collect/transport", b + "/collect/download"},
			"the collector returns an index; how a bundle is written is not its matter"},
		{b + "/format", []string{b, b + "/canonical", b + "/digests", b + "/lists", b + "/signing"},
			"the bytes of a bundle depend on no network and on no other tool's archives"},
		{b + "/foreign", []string{b, b + "/digests", b + "/lists", b + "/oci"},
			"who adds a foreign format never opens the collector or the bundle format"},
		{b + "/input", []string{b, b + "/format", b + "/foreign"}, "it only finds out who reads an input"},
	}
}

func within(pkg, prefix string) bool { return pkg == prefix || strings.HasPrefix(pkg, prefix+"/") }

// checkLayers reports imports that leave a package's layer.
func checkLayers(t *testing.T, room, pkg string, imports []string) {
	t.Helper()
	all := layers()
	i := slices.IndexFunc(all, func(l layer) bool { return l.pkg == pkg })
	if i < 0 {
		t.Errorf("%s has no line in the table of layers", pkg)
		return
	}
	for _, imp := range all[i].imports {
		if !slices.ContainsFunc(all[:i], func(l layer) bool { return l.pkg == imp }) {
			t.Errorf("the table lets %s import %s, which does not stand before it", pkg, imp)
		}
	}
	for _, imp := range imports {
		if within(imp, room) && !slices.Contains(all[i].imports, imp) {
			t.Errorf("%s imports %s: %s", pkg, imp, all[i].why)
		}
	}
}

// packages are those of the module, without tests, each with what it imports.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "casemate/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[pkg.ImportPath] = pkg.Imports
	}
	if len(all) < 5 {
		t.Fatalf("go list named only %d packages", len(all))
	}
	return all
}

// TestImports holds the import rules. Tests are free to import what they need.
func TestImports(t *testing.T) {
	const treetest = "casemate/cluster/treetest"
	for pkg, imports := range packages(t) {
		if within(pkg, "casemate/bundle") {
			checkLayers(t, "casemate/bundle", pkg, imports)
		}
		for _, f := range fences() {
			excepted := func(e string) bool { return within(pkg, e) }
			if !within(pkg, f.room) || slices.ContainsFunc(f.except, excepted) {
				continue
			}
			for _, imp := range imports {
				if within(imp, f.bars) && !within(imp, f.room) && !within(imp, treetest) {
					t.Errorf("%s imports %s: %s", pkg, imp, f.why)
				}
			}
		}
		if within(pkg, "casemate") && !within(pkg, treetest) && slices.Contains(imports, treetest) {
			t.Errorf("%s imports %s: it is for tests", pkg, treetest)
		}
	}
}
