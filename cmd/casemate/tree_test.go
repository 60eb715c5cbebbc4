package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// eachCommand calls f with every command of the tree, hidden ones too.
func eachCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		eachCommand(sub, f)
	}
}

// noJSON are the commands that print something and have no -o json, with the reason.
var noJSON = map[string]string{
	"casemate rehearse":              "it prints log lines, as serve does",
	"casemate serve":                 "it prints log lines; log.format in the config makes them JSON",
	"casemate inventory":             "the document is JSON, and signed byte for byte",
	"casemate man":                   "it writes man pages",
	"casemate help":                  "it prints help for people",
	"casemate completion bash":       "it prints a shell script",
	"casemate completion fish":       "it prints a shell script",
	"casemate completion powershell": "it prints a shell script",
	"casemate completion zsh":        "it prints a shell script",
}

// TestEveryCommandPrintsJSON: a command that does something has -o json and declares the type that it prints.
func TestEveryCommandPrintsJSON(t *testing.T) {
	root, o := newCommandLine()
	left := maps.Clone(noJSON)
	eachCommand(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if !cmd.Runnable() || cmd.Annotations[onlyGroup] != "" || cmd.Hidden && left[path] == "" {
			return
		}
		f := cmd.Flags().Lookup("output")
		if left[path] != "" {
			delete(left, path)
			if f != nil {
				t.Errorf("%s has -o, and is still an exception", path)
			}
			return
		}
		switch {
		case f == nil || f.Shorthand != "o" || f.Value.Set("json") != nil:
			t.Errorf("%s has no -o json", path)
		case o.schemas[cmd] == nil:
			t.Errorf("%s does not say what it prints as JSON", path)
		}
	})
	if len(left) > 0 {
		t.Errorf("exceptions for commands that do not exist: %v", left)
	}
}

// meanings are the meanings of flags' names in this command line. A name has one meaning everywhere, and a meaning has
// one name: a flag that is missing here is either an old thing under a new name, or has to be added.
var meanings = map[string][]string{
	"actor":               {"string"},
	"advertise":           {"addresses"},
	"against":             {"stringArray"},
	"alias":               {"stringSlice"},
	"all":                 {"bool"},
	"allow-unsigned":      {"stringArray"},
	"kind":                {"word"},
	"mark":                {"string"},
	"match":               {"string"},
	"note":                {"string"},
	"user":                {"string"},
	"type":                {"string"},
	"apt":                 {"stringArray"},
	"before":              {"uint64"},
	"cache":               {"string"},
	"ca":                  {"string"},
	"charts":              {"stringArray"},
	"check":               {"bool"},
	"checkpoint":          {"stringArray"},
	"checksums":           {"stringArray"},
	"clear":               {"bool"},
	"client":              {"string"},
	"clock-is-right":      {"bool"},
	"config":              {"string"},
	"csr":                 {"string"},
	"data":                {"string"},
	"default":             {"bool"},
	"diff":                {"string"}, // what an approval is for
	"digest":              {"string"},
	"dir":                 {"string"}, // where files are written
	"dnf":                 {"stringArray"},
	"dnf-module":          {"stringArray"},
	"dnf-var":             {"stringArray"},
	"domain":              {"string"},
	"drop":                {"zones"},
	"dry-run":             {"bool"},
	"hold":                {"bool"},
	"everything":          {"bool"},
	"exclude":             {"zones", "stringArray"}, // leave out: zones of the CA, names of lists
	"file":                {"string"},
	"files":               {"stringArray"},
	"finish":              {"bool"},
	"for":                 {"word"},
	"force":               {"bool"},
	"forget":              {"stringArray"},
	"format":              {"word"},
	"from":                {"string"},
	"from-cluster":        {"bool"},
	"git":                 {"stringArray"},
	"help":                {"bool"},
	"identity":            {"string"},
	"image":               {"string"},
	"files-below":         {"stringArray"},
	"images":              {"stringArray"},
	"images-below":        {"stringArray"},
	"import":              {"stringArray"},
	"installed":           {"stringArray"},
	"k3s":                 {"version"},
	"key":                 {"stringArray"},
	"key-stdin":           {"bool"},
	"keyring":             {"stringArray"},
	"kubespray":           {"stringArray", "string"}, // kubespray vars takes one checkout
	"kubespray-inventory": {"stringArray"},
	"kubespray-vars":      {"stringArray"},
	"leave-issuer":        {"bool"},
	"limit":               {"int"},
	"line":                {"bool"},
	"log":                 {"string"},
	"manifests":           {"stringArray"},
	"mode":                {"word"},
	"name":                {"string", "stringSlice"}, // cert issue takes several
	"no-blobs":            {"bool"},
	"no-descriptions":     {"bool"}, // of cobra's completion
	"no-recommends":       {"bool"},
	"no-signatures":       {"bool"},
	"now":                 {"bool"},
	"out-dir":             {"string"},
	"object":              {"string"},
	"os":                  {"stringArray"},
	"output":              {"word"},
	"outside":             {"stringArray"},
	"own":                 {"stringArray"},
	"packages":            {"stringArray"},
	"parallel":            {"int"},
	"oidc":                {"bool"},
	"partial":             {"bool"},
	"passphrase-file":     {"string"},
	"password-stdin":      {"bool"},
	"permit":              {"zones"},
	"platform":            {"platforms"},
	"public-key":          {"bool"},
	"python":              {"stringArray"},
	"python-index":        {"string"},
	"python-platform":     {"stringArray"},
	"python-version":      {"stringArray"},
	"qr":                  {"bool"},
	"quiet":               {"bool"},
	"raise":               {"bool"},
	"recipients":          {"string"},
	"registry-override":   {"stringArray"},
	"rehearsal":           {"stringArray"},
	"relative":            {"bool"},
	"repo":                {"stringArray"},
	"repository":          {"string"},
	"resolver":            {"string"},
	"resolvers":           {"string"},
	"rke2":                {"version"},
	"role":                {"string"},
	"server":              {"string"},
	"set":                 {"settings"},
	"sign":                {"string"},
	"since":               {"string"},
	"since-key":           {"string"},
	"socket":              {"string"},
	"span":                {"word"},
	"split":               {"size"},
	"token":               {"string"},
	"transcript":          {"stringArray"},
	"ttl":                 {"duration"},
	"undo":                {"bool"},
	"until":               {"string"},
	"upstream-ca":         {"string"},
	"verb":                {"string"},
	"verbose":             {"bool"},
	"version":             {"string"},
	"wait":                {"bool"},
	"yes":                 {"bool"},
}

// TestFlagsHaveOneName: one name, one meaning, one type.
func TestFlagsHaveOneName(t *testing.T) {
	seen := map[string]bool{}
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		if cmd.Hidden { // what programs start, and older names
			return
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			seen[f.Name] = true
			if !slices.Contains(meanings[f.Name], f.Value.Type()) {
				t.Errorf("%s: --%s is a %s, known are %v", cmd.CommandPath(), f.Name, f.Value.Type(), meanings[f.Name])
			}
		})
	})
	for name := range meanings {
		if !seen[name] && name != "help" {
			t.Errorf("no command has --%s", name)
		}
	}
}

// TestOldNames: what older versions called something still works, and help does not show it.
func TestOldNames(t *testing.T) {
	for _, c := range []struct{ command, old, now string }{
		{"cert issue", "out", "dir"},
		{"inventory", "key", "public-key"},
		{"bundle create", "keep-going", "partial"},
	} {
		root := newRoot()
		cmd, _, err := root.Find(strings.Fields(c.command))
		if err != nil {
			t.Fatal(err)
		}
		value := "true"
		if cmd.Flags().Lookup(c.now).Value.Type() != "bool" {
			value = "x"
		}
		if err := cmd.ParseFlags([]string{"--" + c.old + "=" + value}); err != nil {
			t.Errorf("%s --%s: %v", c.command, c.old, err)
		}
		if got := cmd.Flags().Lookup(c.now).Value.String(); got != value {
			t.Errorf("%s --%s=%s does not set --%s: %q", c.command, c.old, value, c.now, got)
		}
		if help := helpOf(t, cmd); strings.Contains(help, "--"+c.old+" ") || strings.Contains(help, "older") {
			t.Errorf("%s shows an old name:\n%s", c.command, help)
		}
	}
	for _, c := range []string{
		"image remove", "file remove", "name remove", "origin delete", "user delete", "member delete", "import delete",
	} {
		root := newRoot()
		cmd, rest, err := root.Find(strings.Fields(c))
		if err != nil || len(rest) > 0 {
			t.Errorf("%s: %v, left are %v", c, err, rest)
		}
		for _, word := range []string{"Aliases"} {
			if help := helpOf(t, cmd.Parent()) + helpOf(t, cmd); strings.Contains(help, word) && !cmd.Hidden {
				t.Errorf("help shows %q, which %s has only for older scripts", word, c)
			}
		}
	}
}

// TestCompletion: the shell is offered what help shows, and no older names.
func TestCompletion(t *testing.T) {
	for _, c := range []struct{ typed, has, not string }{
		{"", "missing", "man"},
		{"import ", "approve", "delete"},
		{"image ", "delete", "remove"},
		{"origin ", "remove", "delete"},
		{"inventory --", "--public-key", "--key"},
		{"bundle create x --", "--partial", "--keep-going"},
		{"cert issue --", "--dir", "--out"},
		{"mirrors --for ", "containerd", "json"},
		{"status -o ", "json", "images"},
		{"missing -o ", "images", "pem"},
	} {
		var out, talk bytes.Buffer
		args := append(strings.Split(strings.TrimSpace("__complete "+c.typed), " "), "")
		if strings.HasSuffix(c.typed, "-") {
			args = args[:len(args)-1]
		}
		if code := run(args, nil, &out, &talk); code != exitDone {
			t.Errorf("%q: %d %s", c.typed, code, &talk)
		}
		var words []string
		for line := range strings.Lines(out.String()) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			words = append(words, word)
		}
		if !slices.Contains(words, c.has) || slices.Contains(words, c.not) {
			t.Errorf("%q: %q without %q, or with %q", c.typed, words, c.has, c.not)
		}
	}
}

func helpOf(t *testing.T, cmd *cobra.Command) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Root().SetOut(&out)
	if err := cmd.Help(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// privateWords are phrases of a private vocabulary.
var privateWords = regexp.MustCompile(`(?i)\b(lacks?|nobody|stands?|says?|said|is held|are held|handed|hope|` +
	`spared?|all the same|let in|let the|whatever|nothing names|names? those that|goes on|way out|bring content in)\b`)

// TestHelp reads every help text: it is in the imperative mood, plain, and fits a terminal.
func TestHelp(t *testing.T) {
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Hidden || strings.HasPrefix(path, "casemate completion ") || cmd.Name() == "help" {
			return
		}
		if s := cmd.Short; s == "" || len(s) > 80 || strings.HasSuffix(s, ".") || s[0] < 'a' || s[0] > 'z' {
			t.Errorf("%s: the short description is not one phrase in lower case of at most 80 characters: %q", path, s)
		}
		help := helpOf(t, cmd)
		for n, line := range strings.Split(help, "\n") {
			if len([]rune(line)) > 120 {
				t.Errorf("%s: line %d of its help has more than 120 columns: %s", path, n+1, line)
			}
		}
		for _, l := range strings.Split(cmd.Long, "\n") {
			if len([]rune(l)) > 88 {
				t.Errorf("%s: a line of its description is too long for a terminal: %s", path, l)
			}
		}
		if m := privateWords.FindString(help); m != "" {
			t.Errorf("%s: its help has %q", path, m)
		}
		if strings.Contains(help, "[=true|false]") {
			t.Errorf("%s: its help shows flags that are on or off as =true|false", path)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			value, usage := pflag.UnquoteUsage(f)
			switch {
			case usage == "" || strings.HasSuffix(usage, "."):
				t.Errorf("%s: --%s has no usage, or a sentence: %q", path, f.Name, usage)
			case f.Value.Type() != "bool" && (value == "" || value != strings.ToUpper(value)):
				t.Errorf("%s: --%s does not say what its value is, in capitals and backquotes: %q", path,
					f.Name, f.Usage)
			}
		})
	})
}

// TestGroups: help shows each command once, in a group.
func TestGroups(t *testing.T) {
	root := newRoot()
	help := helpOf(t, root)
	for _, g := range groups {
		if len(commandsOf(root, g.ID)) < 3 || !strings.Contains(help, "\n"+g.Title+":\n") {
			t.Errorf("the group %s has few commands or is not shown", g.Title)
		}
	}
	for _, cmd := range root.Commands() {
		if n := strings.Count(help, "\n  "+cmd.Name()+" "); cmd.IsAvailableCommand() && n != 1 {
			t.Errorf("help shows %s %d times", cmd.Name(), n)
		}
	}
}

// TestManPages: they have the groups, no old names, and nothing of how cobra writes flags.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	root := newRoot()
	root.DisableAutoGenTag = true
	if err := writeManPages(root, dir); err != nil {
		t.Fatal(err)
	}
	eachCommand(root, func(cmd *cobra.Command) {
		text, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".8"))
		if hidden := cmd.Hidden || cmd.Name() == "help"; hidden != (err != nil) {
			t.Errorf("%s: hidden %v, its page %v", cmd.CommandPath(), hidden, err)
		}
		for _, bad := range []string{"[=false]", "[=true]", `=""`, "--keep-going", "older name", "Auto generated"} {
			if strings.Contains(string(text), bad) {
				t.Errorf("%s: its page has %q", cmd.CommandPath(), bad)
			}
		}
	})
	page, err := os.ReadFile(filepath.Join(dir, "casemate.8"))
	if err != nil {
		t.Fatal(err)
	}
	rest := string(page)
	for _, want := range []string{
		".SH COMMANDS", ".SS Set up", "casemate init", ".SS Content", ".SS Across the gap", ".SS Nodes", ".SS Cluster",
		".SS Upkeep", ".SH SEE ALSO",
	} {
		var ok bool
		if _, rest, ok = strings.Cut(rest, want); !ok {
			t.Fatalf("%s is missing or not in its place", want)
		}
	}
}

var update = flag.Bool("update", false, "write the schema of -o json into docs/admin-api.md")

// TestSchema: docs/admin-api.md has the fields of everything that commands print with -o json.
func TestSchema(t *testing.T) {
	root, o := newCommandLine()
	var b strings.Builder
	eachCommand(root, func(cmd *cobra.Command) {
		if typ := o.schemas[cmd]; typ != nil && !cmd.Hidden {
			writeSchema(&b, strings.TrimPrefix(cmd.CommandPath(), "casemate "), typ)
		}
		if cmd.Name() == "doctor" {
			writeSchema(&b, "doctor --line", reflect.TypeOf(doctorLine{}))
		}
	})
	writeSchema(&b, "a command that deletes, with --dry-run", reflect.TypeOf(removal{}))
	const page, begin, end = "../../docs/admin-api.md", "```text\n", "```\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	is, after, closed := strings.Cut(rest, end)
	switch {
	case !ok || !closed:
		t.Fatalf("%s has no block of text for the schema", page)
	case is == b.String():
	case *update:
		if err := os.WriteFile(page, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the schema in %s is not that of the commands: go test ./cmd/casemate -run TestSchema -update", page)
	}
}

// writeSchema writes one command with the type that it prints, wrapped.
func writeSchema(b *strings.Builder, command string, typ reflect.Type) {
	line := command + ":"
	for _, word := range strings.Fields(schemaOf(typ)) {
		if len(line)+1+len(word) > 116 {
			fmt.Fprintln(b, line)
			line = "   "
		}
		line += " " + word
	}
	fmt.Fprintln(b, line)
}

var (
	timeType      = reflect.TypeFor[time.Time]()
	textMarshaler = reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
)

// schemaOf is a type as it looks in JSON.
func schemaOf(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == timeType:
		return "time"
	case t.Implements(textMarshaler):
		return "string"
	case t.Implements(jsonMarshaler):
		panic(t.String() + " writes JSON itself")
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "[" + schemaOf(t.Elem()) + "]"
	case reflect.Map:
		return "{<name>: " + schemaOf(t.Elem()) + "}"
	case reflect.Struct:
		return "{" + strings.Join(fieldsOf(t), ", ") + "}"
	case reflect.Int, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "integer"
	}
	panic("no JSON for " + t.String())
}

func fieldsOf(t reflect.Type) (list []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opt, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported() && !f.Anonymous || name == "-":
			continue
		case f.Anonymous && name == "":
			list = append(list, fieldsOf(f.Type)...)
			continue
		case name == "":
			panic(t.String() + "." + f.Name + " has no name of its own in JSON")
		}
		if opt == "omitempty" || opt == "omitzero" {
			name += "?"
		}
		list = append(list, name+": "+schemaOf(f.Type))
	}
	return list
}
