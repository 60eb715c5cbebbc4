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

// fence forbids an import to a package and those below it.
type fence struct {
	room   string   // import path prefix of the importing packages
	except []string // import path prefixes that may
	bars   string   // import path prefix that is forbidden
	why    string
}

// leaves are packages that every room may import; bundle, which is built without any other room, only its own. They
// need the standard library alone.
var leaves = []string{
	"casemate/cluster/tree",       // the types of the tree are the same in all rooms, and do not depend on its storage
	"casemate/cluster/byterange",  // a Range header has the same rules for every content
	"casemate/cluster/stall",      // a transfer without progress is the same between nodes and with clients
	"casemate/cluster/share",      // who is one client, and what it may take, is the same for every service
	"casemate/bundle/credentials", // what of a URL is a credential is the same for who stores it and who records it
}

var services = []string{"casemate/registry", "casemate/fileserver", "casemate/dnssrv", "casemate/pki",
	"casemate/bundle"}

func fences() []fence {
	f := []fence{
		{"casemate", []string{"casemate/registry/session"}, "github.com/distribution/distribution",
			"distribution is the largest dependency and full of globals: one package knows it"},
		{"casemate", []string{"casemate/registry/session"}, "github.com/sirupsen/logrus",
			"it is distribution's log, which that package turns into ours"},
		{"casemate", []string{"casemate/registry"}, "casemate/registry/session", "it is the registry's own door"},
		{"casemate", []string{"casemate/dnssrv"}, "github.com/miekg/dns", "one room knows the wire format of DNS"},
		{"casemate", []string{"casemate/pki"}, "github.com/caddyserver/certmagic",
			"only the CA's room knows how certificates are stored and renewed"},
		{"casemate", []string{"casemate/cluster"}, "github.com/hashicorp/raft",
			"nothing above the tree may notice how it is replicated"},
		{"casemate", []string{"casemate/cluster/raftlog"}, "github.com/hashicorp/raft-wal",
			"one room works around missing features of the log library"},
		{"casemate", []string{"casemate/cluster/archive"}, "filippo.io/age",
			"the sealing key leaves a node in a backup only"},
		{"casemate", []string{"casemate/bundle", "casemate/cmd/casemate/demo"},
			"github.com/google/go-containerregistry",
			"a client library; the daemon is a server (the demo is a client)"},
		{"casemate", []string{"casemate/bundle/ospackages/openpgp", "casemate/appliance/repositories",
			"casemate/appliance/packages"}, "github.com/ProtonMail/go-crypto",
			"one room decides which signatures of publishers count, one shows who has signed, and one signs"},
		{"casemate", []string{"casemate/bundle/ospackages/deb"}, "pault.ag/go/debian",
			"one room knows Debian's versions and dependencies"},
		{"casemate", []string{"casemate/bundle/ospackages/rpm"}, "github.com/knqyf263/go-rpm-version",
			"one room knows the versions of RPM packages"},
		{"casemate", []string{"casemate/cmd"}, "github.com/spf13/cobra", "flags are parsed in cmd and nowhere else"},
		{"casemate", []string{"casemate/cmd/casemate"}, "github.com/vbauerster/mpb",
			"rooms report progress; only the command line knows whether the output is a terminal"},
		{"casemate/bundle", nil, "casemate", "it runs on the connected side, on macOS too, where there is nothing of " +
			"the daemon"},
		{"casemate/appliance/nodeconf", nil, "casemate", "nodes' configuration is a pure function of its arguments"},
		{"casemate/appliance/doctor", nil, "casemate/cluster", "it runs on a node, where there is no tree"},
		{"casemate/appliance/doctor", nil, "casemate/pki", "it trusts only what the node trusts"},
		{"casemate/appliance/doctor", nil, "casemate/registry",
			"it is a client of the bastions, as a node's programs are"},
		{"casemate/dnssrv", []string{"casemate/dnssrv/process"}, "os/exec", "what answers starts nothing"},
		{"casemate/cluster/state", nil, "os", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster/state", nil, "net", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster/state", nil, "math/rand", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster/state", nil, "crypto/rand", "promise 2: the state is a pure function of the log"},
		{"casemate/cluster/replica", nil, "github.com/hashicorp/raft",
			"copies of bytes do not depend on how the log is replicated"},
		{"casemate/cluster/peer", nil, "github.com/hashicorp/raft", "to the port raft is a user of streams"},
		{"casemate/cluster/member", nil, "github.com/hashicorp/raft",
			"who votes is asked, not looked up in raft's configuration"},
		{"casemate/cluster/archive", nil, "github.com/hashicorp/raft", "a backup holds a state, not a log"},
		{"casemate/cluster/archive", nil, "net", "a backup is written to and read from whatever the caller gives"},
		{"casemate/cluster", nil, "casemate/appliance", "the tree knows no service and no room above it"},
	}
	for _, s := range services {
		f = append(f,
			fence{s, nil, "casemate/cluster", "a service sees its own subtree through its own interface"},
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

// layer is a package inside a room, and the packages of that room that it may import.
type layer struct {
	pkg     string
	imports []string
	why     string
}

// layers lists every package of bundle and of cluster, the lowest first: a package imports only packages before it.
func layers() []layer {
	const (
		b = "casemate/bundle"
		c = "casemate/cluster"
	)
	return []layer{
		{b + "/digests", nil, "one check of digests for the whole room"},
		{b + "/canonical", nil, "a JSON form does not depend on the content"},
		{b + "/signing", nil, "a signature does not depend on what is signed"},
		{b + "/oci", []string{b + "/digests"}, "manifests are the same wherever they come from"},
		{b, []string{b + "/canonical", b + "/digests", b + "/oci", b + "/signing"},
			"the documents that all parts of the room share depend on none of these parts"},
		{b + "/lists", []string{b + "/digests"}, "lists select content, they do not fetch it"},
		{b + "/lists/jinja", nil, "a template language knows nothing of Kubespray"},
		{b + "/lists/kubespray", []string{b + "/lists", b + "/lists/jinja"}, "it reads a checkout and fetches nothing"},
		{b + "/ospackages/openpgp", nil, "a signature is verified in the same way whatever was signed"},
		{b + "/ospackages/closure", nil, "what packages need is found in the same way whatever their format is"},
		{b + "/ospackages/unpack", nil, "indices are decompressed in the same way whatever they list"},
		{b + "/ospackages", []string{b + "/lists", b + "/ospackages/openpgp"},
			"what is collected is described in the same way whatever its format is"},
		{b + "/ospackages/deb", []string{b + "/digests", b + "/lists", b + "/ospackages", b + "/ospackages/closure",
			b + "/ospackages/openpgp", b + "/ospackages/unpack"},
			"it reads repositories through an interface and fetches nothing itself"},
		{b + "/ospackages/rpm", []string{b + "/digests", b + "/lists", b + "/ospackages", b + "/ospackages/closure",
			b + "/ospackages/openpgp", b + "/ospackages/unpack"},
			"it reads repositories through an interface and fetches nothing itself"},
		{b + "/python", []string{b + "/lists"}, "it reads indices through a function and fetches nothing itself"},
		{b + "/collect/cache", []string{b + "/digests"}, "content on a disk, wherever it comes from"},
		{b + "/collect/diagnose", nil, "it examines bytes from any source"},
		{b + "/collect/transport", []string{b + "/collect/diagnose"}, "HTTP requests and retries, for any content"},
		{b + "/collect/download", []string{b + "/digests", b + "/collect/cache", b + "/collect/diagnose",
			b + "/collect/transport"}, "who changes how a file is downloaded never opens the format or the lists"},
		{b + "/collect/remote", []string{b + "/digests", b + "/oci", b + "/collect/diagnose",
			b + "/collect/transport"}, "a registry is asked in the same way whatever is done with its content"},
		{b + "/collect", []string{b, b + "/digests", b + "/oci", b + "/lists", b + "/collect/cache",
			b + "/collect/diagnose", b + "/collect/transport", b + "/collect/download", b + "/collect/remote"},
			"the collector returns an index; format writes the bundle"},
		{b + "/format", []string{b, b + "/canonical", b + "/digests", b + "/lists", b + "/signing"},
			"the bytes of a bundle depend on no network and on no other tool's archives"},
		{b + "/foreign", []string{b, b + "/digests", b + "/lists", b + "/oci", b + "/python"},
			"who adds a foreign format never opens the collector or the bundle format"},
		{b + "/input", []string{b, b + "/format", b + "/foreign"}, "it only selects the reader of an input"},

		{c + "/merkle", nil, "a tree of hashes is the same in the state and where it is verified"},
		{c + "/state", []string{c + "/merkle"}, "promise 2: the state is a pure function of the log"},
		{c + "/blob", nil, "blobs are a directory, independent of the names that refer to them"},
		{c + "/blob/blobtest", []string{c + "/blob"}, "a file system for tests"},
		{c + "/lograte", nil, "it counts log lines and needs no other package"},
		{c + "/wake", nil, "a channel that is closed is the same for everybody"},
		{c + "/watch", nil, "it notifies about names of any kind"},
		{c + "/disk", []string{c + "/blob"}, "small files of any package"},
		{c + "/raftlog", []string{c + "/blob", c + "/disk"},
			"the log on the disk; who changes it opens neither blobs of the tree nor the network"},
		{c + "/peer", []string{c + "/blob", c + "/disk", c + "/wake", c + "/watch"},
			"the port carries messages, and knows neither raft nor the state"},
		{c + "/replica", []string{c + "/blob", c + "/disk", c + "/peer", c + "/state", c + "/wake"},
			"who changes how blobs are copied or fetched never opens raft or what makes a member"},
		{c + "/member", []string{c + "/blob", c + "/disk", c + "/peer", c + "/state"},
			"who changes how a node joins never opens raft or what is done with blobs (blob is the file system's " +
				"interface)"},
		{c + "/archive", []string{c + "/blob", c + "/state"},
			"a backup's bytes depend on no log and no data directory"},
		{c + "/treetest", nil, "the contract of the tree, in types of the standard library"},
		{c + "/waittest", nil, "for tests: a condition is waited for the same way whatever it is"},
		{c, []string{c + "/state", c + "/merkle", c + "/blob", c + "/lograte", c + "/wake", c + "/watch", c + "/disk",
			c + "/raftlog",
			c + "/peer", c + "/replica", c + "/member", c + "/archive"}, "it composes the rooms below it"},
		{c + "/clustertest", []string{c, c + "/blob/blobtest"}, "clusters of several nodes, for tests"},
	}
}

func within(pkg, prefix string) bool { return pkg == prefix || strings.HasPrefix(pkg, prefix+"/") }

// checkLayers reports imports that leave a package's layer.
func checkLayers(t *testing.T, room, pkg string, imports []string) {
	t.Helper()
	if slices.Contains(leaves, pkg) {
		return
	}
	all := append(layers(), applianceLayers()...)
	i := slices.IndexFunc(all, func(l layer) bool { return l.pkg == pkg })
	if i < 0 {
		t.Errorf("%s has no line in the table of layers", pkg)
		return
	}
	for _, imp := range all[i].imports {
		if !slices.ContainsFunc(all[:i], func(l layer) bool { return l.pkg == imp }) {
			t.Errorf("the table lets %s import %s, which is not before it", pkg, imp)
		}
	}
	for _, imp := range imports {
		if within(imp, room) && !slices.Contains(leaves, imp) && !slices.Contains(all[i].imports, imp) {
			t.Errorf("%s imports %s: %s", pkg, imp, all[i].why)
		}
	}
}

// packages returns those of the module, without tests, each with its imports.
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

// TestImports checks the import rules. Tests may import any package.
func TestImports(t *testing.T) {
	const treetest = "casemate/cluster/treetest"
	for pkg, imports := range packages(t) {
		for _, room := range []string{"casemate/bundle", "casemate/cluster"} {
			if within(pkg, room) {
				checkLayers(t, room, pkg, imports)
			}
		}
		if within(pkg, "casemate/appliance") && pkg != "casemate/appliance" {
			checkLayers(t, "casemate/appliance", pkg, imports)
		}
		for _, f := range append(fences(), applianceFences()...) {
			excepted := func(e string) bool { return within(pkg, e) }
			if !within(pkg, f.room) || slices.ContainsFunc(f.except, excepted) {
				continue
			}
			for _, imp := range imports {
				shared := slices.Contains(leaves, imp) && f.bars != "casemate"
				if within(imp, f.bars) && !within(imp, f.room) && !within(imp, treetest) && !shared {
					t.Errorf("%s imports %s: %s", pkg, imp, f.why)
				}
			}
		}
		if slices.Contains(leaves, pkg) {
			for _, imp := range imports {
				if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") || first == "casemate" {
					t.Errorf("%s imports %s: a leaf needs the standard library alone", pkg, imp)
				}
			}
		}
		if within(pkg, "casemate") && !within(pkg, treetest) && slices.Contains(imports, treetest) {
			t.Errorf("%s imports %s: it is for tests", pkg, treetest)
		}
	}
}
