// Command mutants changes the product in ways that break a promise, one at a time, and expects the tests to see it. It
// changes no file: go test gets the changed one by -overlay.
//
//	go run ./cluster/mutants [-run REGEXP]
//
// It ends with 1 if a mutant survives, or if the text that it changes is not there any more exactly once: the list has to
// follow the product.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// mutant is one change.
type mutant struct {
	breaks   string // the promise, in words
	file     string // from the top of the module
	old, new string // old stands there exactly once
	pkg      string // whose tests are to see it
	run      string // which of them, as for go test -run
}

var mutants = []mutant{
	{"an upload is acknowledged when a majority has its bytes", "cluster/spread.go",
		"\tdelete(voters, c.cfg.Node)\n\tif need == 0 {", "\tdelete(voters, c.cfg.Node)\n\tneed = 0\n\tif need == 0 {",
		"./cluster", "TestPushIsOnAMajorityWhenAnswered"},
	{"a deposed leader confirms no miss", "cluster/reading.go",
		"c.command(ctx, func() raft.Future { return c.raft.VerifyLeader() })", "ctx.Err()",
		"./cluster", "TestDeposedLeaderConfirmsNoMiss"},
	{"a new leader applies what the one before acknowledged before it confirms a miss", "cluster/reading.go",
		"if c.reading.term.Load() != term {", "if false {",
		"./cluster", "TestNewLeaderConfirmsNoMissTooSoon"},
	{"the mark is not above what is committed", "cluster/cluster.go",
		"index := c.machine.view.Load().Index()\n\t\tend := c.watch.begin()",
		"c.machine.view.Load()\n\t\tindex := c.raft.LastIndex()\n\t\tend := c.watch.begin()",
		"./cluster", "TestMarkIsNotAboveTheCommit"},
	{"a boot number is used once, and a name that was used before is seen", "cluster/propose.go",
		"case !before && r.Index != index:", "case false && r.Index != index:",
		"./cluster", "TestRevertedNodeNamesItsCommandsAnew"},
	{"a node that lost its log elects nobody without", "cluster/floor.go",
		"below && last < floor", "below && last > floor",
		"./cluster", "TestRevertedMajorityHearsOfIt|TestFlippedBitForgetsNoVote"},
	{"a leader takes nothing back that is applied", "cluster/logstore.go",
		"low <= applied && low > l.snapped()", "false && low <= applied && low > l.snapped()",
		"./cluster", "TestRevertedMajorityGoesOn"},
	{"states that differ are told", "cluster/differ.go",
		"own != \"\" && own != b.Sum && !differed,", "own == \"-\" && !differed,",
		"./cluster", "TestDifferentStatesAreTold"},
	{"the sum covers the command", "cluster/state/sum.go",
		"\th.Write(cmd)\n", "", "./cluster/state", "TestSumTellsReplicasApart"},
	{"a snapshot carries the sum on", "cluster/state/snapshot.go",
		"\t\tcopy(l.s.sum[:], h.Sum)\n", "\t\tl.s.sum[0] = 1\n", "./cluster/state", "TestSumInSnapshots|TestPromise2"},
	{"an entry that is read is what was written", "cluster/entry.go",
		"if len(l.Extensions) > 0 && (", "if len(l.Extensions) > 1000 && (",
		"./cluster", "TestFlippedBitInTheLog"},
	{"a leader does not give a damaged entry to others", "cluster/logstore.go",
		"\t\tl.rotten(err)\n\t\treturn raft.ErrLogNotFound\n", "\t\treturn nil\n",
		"./cluster", "TestFlippedBitIsNotSpread"},
	{"a leader whose disk hangs gives way", "cluster/watchdog.go",
		"const hangTime = 2 * time.Second", "const hangTime = 200 * time.Second",
		"./cluster", "TestDiskOfLeaderHangs"},
	{"rot is found by the first read", "cluster/tree.go",
		"return t.c.openProven(ctx, digest)", "return t.c.openBlob(ctx, digest)",
		"./cluster", "TestRotIsFoundByTheFirstRead"},
	{"a node says where it is", "cluster/beat.go",
		"\tc.hear(From(r), r.Header.Get(addressHeader))\n", "",
		"./cluster", "TestSomeAddressesChange"},
	{"what an operator says of addresses is kept", "cluster/addresses.go",
		"\ta.told[node] = addr\n\treturn c.writeTold()", "\ta.told[node] = addr\n\treturn nil",
		"./cluster", "TestAllAddressesChange"},
}

// patience ends a test that a mutant makes wait for ever, which is as good as one that fails.
const patience = 2 * time.Minute

func main() {
	which := flag.String("run", "", "only mutants whose promise matches")
	flag.Parse()
	want, err := regexp.Compile(*which)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bad := 0
	for _, m := range mutants {
		if !want.MatchString(m.breaks) {
			continue
		}
		verdict, fine := m.try(dir)
		if !fine {
			bad++
		}
		fmt.Printf("%-9s %s\n", verdict, m.breaks)
	}
	os.RemoveAll(dir)
	if bad > 0 {
		fmt.Fprintf(os.Stderr, "%d of the mutants live, or could not be tried\n", bad)
		os.Exit(1)
	}
}

// try applies one mutant and runs the tests that are to see it.
func (m mutant) try(dir string) (verdict string, fine bool) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return err.Error(), false
	}
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return fmt.Sprintf("STALE: its text stands %d times in %s:", n, m.file), false
	}
	changed := filepath.Join(dir, "mutant.go")
	file, err := filepath.Abs(m.file)
	if err != nil {
		return err.Error(), false
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		return err.Error(), false
	}
	list := filepath.Join(dir, "overlay.json")
	for name, data := range map[string][]byte{changed: bytes.Replace(text, []byte(m.old), []byte(m.new), 1), list: overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err.Error(), false
		}
	}
	if out, err := exec.Command("go", "vet", "-overlay", list, m.pkg).CombinedOutput(); err != nil {
		return fmt.Sprintf("STALE: it does not build: %s", out), false
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	test := exec.CommandContext(ctx, "go", "test", "-overlay", list, "-count", "1", "-timeout", (patience - 10*time.Second).String(), "-run", m.run, m.pkg)
	out, err := test.CombinedOutput()
	switch {
	case err == nil:
		return "SURVIVES", false
	case bytes.Contains(out, []byte("[no tests to run]")), bytes.Contains(out, []byte("[build failed]")):
		return fmt.Sprintf("STALE: %s", out), false
	}
	return "seen", true
}
