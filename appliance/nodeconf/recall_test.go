package nodeconf

import (
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// resolverFiles are the files of the tree that configure the resolver: everything but the trust store and our own
// state. A directory that the run made stays until undo.
func (tr *tree) resolverFiles() map[string]string {
	tr.t.Helper()
	list := tr.all()
	maps.DeleteFunc(list, func(name, text string) bool {
		return text[0] == 'd' || strings.HasPrefix(name, "var/lib/") || strings.HasPrefix(name, "etc/casemate/") ||
			strings.HasSuffix(name, ".crt")
	})
	return list
}

func (tr *tree) sameResolver(was map[string]string, when string) {
	tr.t.Helper()
	is := tr.resolverFiles()
	for name := range maps.Keys(is) {
		if was[name] == "" {
			tr.t.Errorf("%s: %s is new: %q", when, name, is[name])
		}
	}
	for name := range was {
		if is[name] != was[name] {
			tr.t.Errorf("%s: %s was %q, is %q", when, name, was[name], is[name])
		}
	}
}

const putBack = "casemate.internal does not resolve: the bastions (fd00::"

// TestOldResolverIsPutBack: if no name resolves through the new resolver, the node has the one that it had before the
// run: its own, or that of an earlier run. Undo still restores every byte.
func TestOldResolverIsPutBack(t *testing.T) {
	site := dualSite(t, true)
	moved := dualSite(t, true)
	for i := range moved.Nodes {
		moved.Nodes[i].Addrs = []netip.Addr{netip.MustParseAddr("fd00::2" + moved.Nodes[i].Name[1:])}
	}
	moved.Roots = site.Roots
	good := network{routes: append(slices.Clone(both), "fd00::21", "fd00::22", "fd00::23")}
	bad := good
	bad.nameless = true
	list := map[string][]string{"busybox": quick(t)}
	for name, shell := range shells(t) {
		list[name] = shell
	}
	for name, shell := range list {
		for i, way := range setups() {
			if !soak && (name != "busybox" && i%9 != 0 || i%3 != 0) {
				continue // each kind of file once
			}
			t.Run(name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				tr := newTree(t, shell, way.files)
				was, own := tr.all(), tr.resolverFiles()
				out := tr.live(site, bad, 1)
				if !strings.Contains(out, putBack) || strings.Count(out, "the old resolver was put back") != 1 {
					t.Errorf("it said:\n%s", out)
				}
				tr.sameResolver(own, "after a run without names")
				if tr.read("etc/casemate/ca.crt") != site.Roots {
					t.Error("the CA is not there")
				}
				out = tr.live(site, good, 0)
				if !strings.Contains(out, "done: ") {
					t.Errorf("the run with names said:\n%s", out)
				}
				enrolled := tr.resolverFiles()

				tr.live(moved, bad, 1)
				tr.sameResolver(enrolled, "after a second run without names")
				if out := tr.live(site, good, 0); strings.Contains(out, "was changed by others") {
					t.Errorf("the run after it said:\n%s", out)
				}
				tr.sameResolver(enrolled, "after a run with names")
				tr.run(site, 0, "--undo")
				tr.same(was, "after undo")
			})
		}
	}
}

// TestOldResolverAfterAKill: a run that was killed before it verified anything is completed by the next one, which also
// puts back what was there before the first.
func TestOldResolverAfterAKill(t *testing.T) {
	t.Parallel()
	site := dualSite(t, true)
	fewer := dualSite(t, true)
	fewer.Nodes, fewer.Roots = fewer.Nodes[1:], site.Roots
	bad := network{routes: both, nameless: true}
	shell := quick(t)
	tr := newTree(t, shell, map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n",
		"etc/dhcp/dhclient.conf": "# mine\n"})
	was, own := tr.all(), tr.resolverFiles()
	script, err := site.Script()
	if err != nil {
		t.Fatal(err)
	}
	// At each place: before the names are tried, and while the old resolver is being put back.
	for _, place := range []string{"verify() { kill -9 $$; }\n", "refreshResolver() { [ ! -d \"$STATE/before\" ] || " +
		"[ -z \"${v_which-}\" ] || kill -9 $$; }\n", "follow() { [ -z \"${v_which-}\" ] || kill -9 $$; }\n"} {
		file := filepath.Join(t.TempDir(), "enroll")
		text := strings.TrimSuffix(script, mainLine) + bad.functions() + place + mainLine
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), file, "--root", tr.dir)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // killed, it leaves its own behind
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() >= 0 {
			t.Fatalf("it was not killed: %v\n%s", err, out)
		}
		// The bastions have moved meanwhile, so this run changes the files once more.
		if out := tr.live(fewer, bad, 1); !strings.Contains(out, "the old resolver was put back") {
			t.Errorf("the run after the kill said:\n%s", out)
		}
		tr.sameResolver(own, "after "+place)
	}
	tr.live(site, network{routes: both}, 0)
	if _, err := os.Stat(filepath.Join(tr.dir, "var/lib/casemate-enroll/before")); err == nil {
		t.Error("the resolver before the run is kept although names resolve")
	}
	tr.run(site, 0, "--undo")
	tr.same(was, "after undo")
}

// A resolver that answers with other addresses works: it stays, and so does one that a run did not touch.
func TestResolverThatStays(t *testing.T) {
	t.Parallel()
	site := dualSite(t, true)
	n := network{routes: both}
	tr := newTree(t, quick(t), map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n"})
	old := tr.read("etc/resolv.conf")
	lying := "resolve() { echo 192.0.2.7; }\n"
	out := tr.liveWith(site, n.functions()+lying, 1)
	if !strings.Contains(out, "casemate.internal resolves to 192.0.2.7, which is not a bastion") ||
		strings.Contains(out, "put back") || tr.read("etc/resolv.conf") == old {
		t.Errorf("it said:\n%s\n%s", out, tr.read("etc/resolv.conf"))
	}
	// One name of two is known.
	half := "resolve() { [ $1 = registry.k8s.io ] || printf '%s\\n' \"$SERVERS\"; }\n"
	if out := tr.liveWith(site, n.functions()+half, 1); !strings.Contains(out, "registry.k8s.io does not resolve") ||
		strings.Contains(out, "put back") {
		t.Errorf("it said:\n%s", out)
	}
	if out := tr.live(site, network{routes: both, nameless: true}, 1, "--no-resolver"); strings.Contains(out,
		"put back") || !strings.Contains(out, "casemate.internal does not resolve") {
		t.Errorf("it said:\n%s", out)
	}
}
