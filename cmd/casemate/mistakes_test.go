package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// internals are words of ours, of libraries and of the kernel that tell an operator nothing.
var internals = regexp.MustCompile(`arg\(s\)|invalid argument|temporarily unavailable|current/link|_manifests|` +
	`bind:|dial |0x[0-9a-f]{4}|\.part\b|\.partial|%!|goroutine|held by another|: (open|stat|mkdir|read) `)

func init() {
	// mistakes TABLE types the commands of a table, each of which is a mistake. A line is an exit code, a command
	// without casemate, and after " => " the sentence; one that ends with … only begins so. The answer is that sentence
	// alone.
	storyCommands["mistakes"] = func(ts *testscript.TestScript, _ bool, args []string) {
		work := ts.Getenv("WORK")
		for line := range strings.Lines(ts.ReadFile(args[0])) {
			for _, name := range []string{"WORK", "TAKEN", "HTTPS", "CASEMATE_SOCKET"} {
				line = strings.ReplaceAll(line, "$"+name, ts.Getenv(name))
			}
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			typed, want, _ := strings.Cut(line, " => ")
			code, typed, _ := strings.Cut(typed, " ")
			var out, talk strings.Builder
			words := append(strings.Fields(typed), "--socket", ts.Getenv("CASEMATE_SOCKET"))
			got := run(words, strings.NewReader(""), &out, &talk)
			said := strings.TrimPrefix(strings.TrimSuffix(talk.String(), "\n"), "casemate: ")
			begin, more := strings.CutSuffix(want, "…")
			switch {
			case got != int(code[0]-'0') || len(code) != 1:
				ts.Logf("%s: exit code %d, want %s: %s", typed, got, code, said)
			case said != want && !(more && strings.HasPrefix(said, begin)):
				ts.Logf("%s: said\n\t%s\nwant\n\t%s", typed, said, want)
			case strings.Contains(said, "\n") || internals.MatchString(strings.ReplaceAll(said, work, "")):
				ts.Logf("%s: more than a sentence for people: %s", typed, said)
			default:
				continue
			}
			ts.Setenv("WRONG", ts.Getenv("WRONG")+"\n"+typed)
		}
		if wrong := ts.Getenv("WRONG"); wrong != "" {
			ts.Fatalf("these mistakes are answered in another way:%s", wrong)
		}
	}
}

// The exit code of status is for scripts: whether this node serves, and with --check, for cron, whether all is well.
func TestStatusExitCodes(t *testing.T) {
	for _, c := range []struct {
		serving            bool
		problems, warnings []string
		plain, check       int
	}{
		{true, nil, nil, exitDone, exitDone},
		{true, nil, []string{"a certificate ends soon"}, exitDone, exitDone},
		{true, []string{"the disk is full"}, nil, exitDone, exitDiffers},
		{false, []string{"the DNS process is away"}, nil, exitFailed, exitDiffers},
	} {
		socket := answering(t, map[string]any{
			"GET status": map[string]any{"serving": c.serving, "problems": c.problems, "warnings": c.warnings},
		})
		for args, want := range map[string]int{"status": c.plain, "status --check": c.check} {
			var out, talk strings.Builder
			code := run(append(strings.Fields(args), "--socket", socket), strings.NewReader(""), &out, &talk)
			if code != want || code != exitDone && !strings.Contains(talk.String(), c.problems[0]) {
				t.Errorf("%s, serving %v, problems %q: exit code %d, want %d: %s", args, c.serving, c.problems, code,
					want, &talk)
			}
		}
	}
}

// TestLineOptions: casemate enroll knows every option of the line that it prints, and has none of them itself but
// --repo, which it puts into the line.
func TestLineOptions(t *testing.T) {
	script, err := os.ReadFile("../../appliance/nodeconf/enroll.sh")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^  --([a-z-]+) `).FindAllStringSubmatch(string(script), -1) {
		if m[1] != "repo" {
			want = append(want, m[1])
		}
	}
	if !slices.Equal(want, lineOptions) {
		t.Errorf("the script's usage has %q, casemate enroll knows %q", want, lineOptions)
	}
	for _, name := range want {
		var out, talk strings.Builder
		if code := run([]string{"enroll", "--" + name}, strings.NewReader(""), &out, &talk); code != exitUsage ||
			!strings.Contains(talk.String(), "append it to that line") {
			t.Errorf("enroll --%s: exit code %d: %s", name, code, &talk)
		}
	}
}
