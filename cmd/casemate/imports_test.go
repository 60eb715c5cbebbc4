package main

import (
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
		{"casemate", []string{"casemate/registry"}, "github.com/distribution/distribution", "distribution is 60 % of the binary and full of globals: one room knows it"},
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

func within(pkg, prefix string) bool { return pkg == prefix || strings.HasPrefix(pkg, prefix+"/") }

// TestImports holds the house's import rules. Tests are free to import what they need.
func TestImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "casemate/...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dec := json.NewDecoder(out); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		for _, f := range fences() {
			if !within(pkg.ImportPath, f.room) || slices.ContainsFunc(f.except, func(e string) bool { return within(pkg.ImportPath, e) }) {
				continue
			}
			for _, imp := range pkg.Imports {
				if within(imp, f.bars) && !within(imp, f.room) && !within(imp, "casemate/cluster/treetest") {
					t.Errorf("%s imports %s: %s", pkg.ImportPath, imp, f.why)
				}
			}
		}
		if within(pkg.ImportPath, "casemate") && !within(pkg.ImportPath, "casemate/cluster/treetest") && slices.Contains(pkg.Imports, "casemate/cluster/treetest") {
			t.Errorf("%s imports casemate/cluster/treetest: it is for tests", pkg.ImportPath)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if seen < 5 {
		t.Fatalf("go list named only %d packages", seen)
	}
}
