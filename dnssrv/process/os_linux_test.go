package process

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// The process has short time slices and the daemon's own priority, for any daemon.
func TestProcessHasShortTurns(t *testing.T) {
	ours, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Exec(cmd)
	if err != nil {
		t.Fatal(err)
	}
	attr, err := unix.SchedGetAttr(cmd.Process.Pid, 0)
	in.Close()
	<-p.Done()
	if err != nil {
		t.Fatal(err)
	}
	if attr.Policy != ours.Policy || attr.Nice != ours.Nice {
		t.Errorf("want policy %d and nice %d, got %d and %d", ours.Policy, ours.Nice, attr.Policy, attr.Nice)
	}
	if ours.Runtime == 0 {
		t.Skip("this kernel has no turns of different lengths")
	}
	if attr.Runtime != uint64(childSlice) {
		t.Errorf("want turns of %s, got %d ns", childSlice, attr.Runtime)
	}
}
