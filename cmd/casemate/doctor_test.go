package main

import (
	"io"
	"testing"
)

// TestDoctorArguments: a wrong argument is a usage error; a right one that leads nowhere is none.
func TestDoctorArguments(t *testing.T) {
	for _, c := range []struct {
		want int
		args []string
	}{
		{exitUsage, []string{"a b"}}, {exitUsage, []string{"10.0.0.300"}}, {exitUsage, []string{"--mode", "both"}}, {
			exitUsage, []string{"--image", "quay.io/../x"}},
		{exitUsage, []string{"--file", "/etc/passwd"}}, {exitFailed, []string{"b1.site.example"}},
	} {
		root := newRoot()
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SetArgs(append([]string{"doctor", "--root", t.TempDir()}, c.args...))
		if err := root.Execute(); exitCode(err) != c.want {
			t.Errorf("%v: exit code %d of %v, want %d", c.args, exitCode(err), err, c.want)
		}
	}
}
