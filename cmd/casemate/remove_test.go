package main

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
)

// deleting are the commands that delete, with arguments that are well formed.
var deleting = map[string][]string{
	"casemate apikey revoke":    {"ci"},
	"casemate ca rotate":        {"--finish"},
	"casemate cert revoke":      {"01"},
	"casemate file delete":      {"https://dl.k8s.io/a"},
	"casemate image delete":     {"registry.k8s.io/pause:3.10"},
	"casemate import remove":    {"cluster"},
	"casemate member remove":    {"n2"},
	"casemate missing":          {"--clear"},
	"casemate name delete":      {"api.corp.example"},
	"casemate origin remove":    {"charts.example.com"},
	"casemate package remove":   {"tools", "hello"},
	"casemate rehearsal remove": {"testdata"},
	"casemate repo remove":      {"tools"},
	"casemate role revoke":      {"ada", "operator"},
	"casemate user remove":      {"deploy"},
}

// asking are deleting but for those that look at local files first.
func asking() []string {
	var list []string
	for name := range deleting {
		if name != "casemate rehearsal remove" {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Each command whose verb deletes has --yes and --dry-run, and is in the table.
func TestDeletionsAsk(t *testing.T) {
	verbs := []string{"delete", "remove", "revoke", "clear", "finish"}
	root, _ := newCommandLine()
	eachCommand(root, func(cmd *cobra.Command) {
		f := cmd.Flags()
		deletes := slices.Contains(verbs, cmd.Name()) || f.Lookup("clear") != nil ||
			f.Lookup("finish") != nil && cmd.CommandPath() != "casemate repo key rotate" // --undo is its next rotation
		_, listed := deleting[cmd.CommandPath()]
		if deletes != listed {
			t.Errorf("%s: deletes %v, is in the table: %v", cmd.CommandPath(), deletes, listed)
		}
		if deletes && (f.Lookup("yes") == nil || f.Lookup("dry-run") == nil) {
			t.Errorf("%s has no --yes and --dry-run", cmd.CommandPath())
		}
	})
}

// Without a terminal and without --yes nothing is sent, and the exit code is that of a wrong use.
func TestDeletionsNeedATerminal(t *testing.T) {
	for _, name := range asking() {
		args := append(strings.Fields(name)[1:], deleting[name]...)
		var stderr strings.Builder
		code := run(append(args, "--socket", "/nowhere"), strings.NewReader("y\n"), &stderr, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), name+" asks before it deletes, and standard input "+
			"is no terminal: give --yes") {
			t.Errorf("%s: exit code %d, %s", name, code, stderr.String())
		}
	}
}

// asked is a daemon that answers every dry run, and counts the requests that are none. If it is old, it knows no dry
// run.
type asked struct {
	socket string
	old    bool

	mu   sync.Mutex
	gone []string
}

func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Path == "/v1/openapi.json" && !a.old:
		w.Write([]byte("{}"))
	case r.URL.Query().Get("dry-run") == "1" && !a.old:
		json.NewEncoder(w).Encode(removal{Removes: []removed{{"image", "registry.k8s.io/pause:3.10", 2 << 20}},
			Count: 7, Bytes: 3 << 20, Notes: []string{"it is needed"}})
	case r.Method == "GET": // completion of names, the roots of ca rotate
		w.WriteHeader(http.StatusNotFound)
	default:
		a.mu.Lock()
		a.gone = append(a.gone, r.Method+" "+r.URL.Path)
		a.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}
}

func (a *asked) requests() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.gone, ", ")
}

func askedDaemon(t *testing.T) *asked {
	a := &asked{socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: a}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return a
}

// On a terminal the command shows what will go and deletes only after a yes.
func TestDeletionsOnATerminal(t *testing.T) {
	for _, c := range []struct {
		answer string
		code   int
		gone   string
	}{
		{"y\n", exitDone, "DELETE /v1/images"},
		{"Yes\n", exitDone, "DELETE /v1/images"},
		{"n\n", exitFailed, ""},
		{"\n", exitFailed, ""},
		{"yess\n", exitFailed, ""},
		{"\x04", exitFailed, ""}, // Ctrl-D
		{"\x03", exitFailed, ""}, // Ctrl-C
	} {
		a := askedDaemon(t)
		m := onTerminal(t, 80, nil, "image", "delete", "registry.k8s.io/pause:3.10", "--socket", a.socket)
		m.shows("Delete? [y/N] ")
		for _, part := range []string{"delete  image  registry.k8s.io/pause:3.10  2.0 MiB", "and 6 more",
			"7 in all, with 3.0 MiB of content", "note: it is needed"} {
			if !strings.Contains(m.output(), part) {
				t.Errorf("%q is not shown, but %q", part, m.output())
			}
		}
		if _, err := m.control.WriteString(c.answer); err != nil {
			t.Fatal(err)
		}
		m.cmd.Wait()
		if code := m.cmd.ProcessState.ExitCode(); code != c.code || a.requests() != c.gone {
			t.Errorf("%q: exit code %d, deleted %q, want %d and %q", c.answer, code, a.requests(), c.code, c.gone)
		}
		if c.code != exitDone {
			m.shows("nothing was changed")
		}
	}
}

// --dry-run deletes nothing and prints the daemon's answer; --yes does not ask.
func TestDeletionsInScripts(t *testing.T) {
	for _, name := range asking() {
		if name == "casemate ca rotate" { // it reads the roots first: testdata/script/rotate.txtar
			continue
		}
		a := askedDaemon(t)
		args := append(append(strings.Fields(name)[1:], deleting[name]...), "--socket", a.socket)
		var out, stderr strings.Builder
		code := run(append(args, "--dry-run", "-o", "json"), strings.NewReader(""), &out, &stderr)
		var r removal
		if err := json.Unmarshal([]byte(out.String()), &r); code != exitDone || err != nil || r.Count != 7 {
			t.Errorf("%s --dry-run: exit code %d, %v, %s%s", name, code, err, out.String(), stderr.String())
		}
		if a.requests() != "" {
			t.Errorf("%s --dry-run sent %s", name, a.requests())
		}
		run(append(args, "--yes"), strings.NewReader(""), &out, &stderr)
		if a.requests() == "" {
			t.Errorf("%s --yes sent nothing: %s", name, stderr.String())
		}
		if code := run(append(args, "--yes", "--dry-run"), strings.NewReader(""), &out, &stderr); code != exitUsage {
			t.Errorf("%s with --yes and --dry-run: exit code %d", name, code)
		}
		a = askedDaemon(t)
		a.old = true
		args[len(args)-1] = a.socket
		stderr.Reset()
		if code := run(append(args, "--dry-run"), strings.NewReader(""), &out, &stderr); code != exitFailed ||
			!strings.Contains(stderr.String(), "older version") || a.requests() != "" {
			t.Errorf("%s --dry-run at an old daemon: exit code %d, %s, deleted %q", name, code, stderr.String(),
				a.requests())
		}
	}
}
