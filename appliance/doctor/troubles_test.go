package doctor

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what doctor says into docs/troubleshooting.md")

// TestPage: docs/troubleshooting.md has a heading for every text that doctor prints, with the same causes and cures.
func TestPage(t *testing.T) {
	const file, begin, end = "../../docs/troubleshooting.md",
		"<!-- written by: go test ./appliance/doctor -run TestPage -update -->\n", "<!-- up to here -->\n"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	had, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the lines %q and %q", file, begin, end)
	}
	if want := "\n" + Page(); had != want && *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if had != want {
		t.Errorf("%s does not say what doctor does: go test ./appliance/doctor -run TestPage -update", file)
	}
	headings := regexp.MustCompile("(?m)^### .*$").FindAllString(Page(), -1)
	for _, tr := range troubles {
		for _, text := range tr.seen {
			if !slices.ContainsFunc(headings, func(h string) bool { return strings.Contains(h, "`"+text+"`") }) {
				t.Errorf("%q has no heading", text)
			}
		}
	}
}

// TestEveryTroubleIsMet: every trouble in the code is in the table, and every trouble in the table is used by the
// code.
func TestEveryTroubleIsMet(t *testing.T) {
	var code strings.Builder
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if data, err := os.ReadFile(f); err != nil {
			t.Fatal(err)
		} else if f != "troubles.go" && !strings.HasSuffix(f, "_test.go") {
			code.Write(data)
		}
	}
	known := map[string]bool{}
	for _, tr := range troubles {
		if known[tr.id] {
			t.Errorf("%s stands twice in the table", tr.id)
		}
		known[tr.id] = true
		if len(tr.seen) == 0 || tr.cause == "" || len(tr.cure) == 0 {
			t.Errorf("%s says too little", tr.id)
		}
		if !strings.Contains(code.String(), `"`+tr.id+`"`) {
			t.Errorf("nothing finds %s", tr.id)
		}
		for _, s := range tr.cure {
			if s.on != "" && kinds[s.on] == "" {
				t.Errorf("%s: there is no kind of node %q", tr.id, s.on)
			}
		}
	}
	for _, m := range regexp.MustCompile(
		`(?:\.fail\(|\.warn\(|\.add\(|&problem\{|id = |return )"([a-z0-9-]+)"`).FindAllStringSubmatch(
		code.String(), -1) {
		if id := m[1]; !known[id] && kinds[id] == "" {
			t.Errorf("%s is not in the table", id)
		}
	}
}

func TestFill(t *testing.T) {
	v := values{"name": "x{file}", "file": "f"}
	for text, want := range map[string]string{"{name}": "x{file}", "{other} {file}": "OTHER f",
		"a {b c} {": "a {b c} {", "printf '%s' {Name}": "printf '%s' {Name}"} {
		if got := v.fill(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestLine: the line is valid for a shell and has every bastion in it.
func TestLine(t *testing.T) {
	line := Line(Executable{SHA256: strings.Repeat("ab", 32), Arch: "amd64", OS: "linux"},
		[]netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("fd00::1")},
		"doctor", "10.0.0.11", "fd00::1")
	for _, want := range []string{"http://10.0.0.11/casemate", "http://[fd00::1]/casemate", "doctor 10.0.0.11 fd00::1",
		"x86_64", strings.Repeat("ab", 32)} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	if strings.Contains(line, "\n") {
		t.Error("it is more than a line")
	}
	if out, err := exec.Command("sh", "-n", "-c", line).CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	// Unquoted, the brackets are a pattern, which zsh and bash with failglob refuse.
	if !strings.Contains(line, `for u in "http://10.0.0.11/casemate" "http://[fd00::1]/casemate"; do`) {
		t.Errorf("the addresses are not quoted in %s", line)
	}
}

// A full /tmp is said, and not taken for bastions that do not answer.
func TestLineWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"uname":  "echo x86_64",
		"mktemp": "ln -s /dev/full " + dir + "/f && echo " + dir + "/f",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	line := Line(Executable{SHA256: strings.Repeat("ab", 32), Size: 60 << 20, Arch: "amd64", OS: "linux"},
		[]netip.Addr{netip.MustParseAddr("127.0.0.1")}, "doctor", "127.0.0.1")
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "TMPDIR=/some/where")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no room in /some/where: free 61 MiB there") ||
		strings.Contains(string(out), "no bastion gave") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Lstat(filepath.Join(dir, "f")); !os.IsNotExist(err) {
		t.Errorf("the line leaves its file behind: %v", err)
	}
}
