package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// word is one that the house does not use, and what to write instead (docs/architecture.md, Words).
type word struct{ not, but string }

// formerWords do not stand in identifiers: each has a term of the field.
var formerWords = []word{
	{"lack", "missing"}, {"lacks", "missing"}, {"hope", "resetBackoff"}, {"gate", "backoff"},
	{"bend", "adapt"}, {"bent", "adapter"}, {"handed", "delivered"}, {"guest", "outsider"}, {"guests", "connLimiter"},
	{"shake", "handshake"}, {"obey", "apply"}, {"obeys", "applies"}, {"spare", "remove, cancel"},
	{"spares", "limits"}, {"electorate", "voters"}, {"roomier", "mostFree"}, {"mend", "repair"},
	{"mends", "repairs"}, {"mended", "repaired"}, {"door", "endpoint"}, {"doors", "endpoints"},
	{"stands", "exists, alreadyStored"}, {"people", "users"}, {"deal", "partition"}, {"dealt", "partitioned"},
}

// formerPhrases do not stand in what users and the next engineer read: messages, help, comments and pages.
var formerPhrases = []word{
	{`(has|have) it not`, "does not have it"},
	{`mend(s|ed|ing)?`, "repair, fix"}, // but for the field of that name in JSON, which scripts read
	{`obey(s|ed)?`, "apply, follow"},
	{`electorate`, "voters"},
	{`roomier`, "with most free space"},
	{`(is|are|was|were) bent`, "is adapted"},
	{`takes? (it |them |an import )?back what`, "undo"},
	{`says? what of`, "report which"},
	{`what stands`, "what is"},
	{`names those that`, "returns only"},
	{`(is|are) another's matter|is .{1,20}'s matter`, "is decided by"},
	{`before mu|under mu`, "held, holding"},
}

// partsOf splits an identifier at its capitals and underscores: "HTTPServer_x" is http, server and x.
func partsOf(identifier string) []string {
	var out []string
	runes := []rune(identifier)
	from := 0
	for i := 1; i <= len(runes); i++ {
		split := i == len(runes) || runes[i] == '_' || unicode.IsUpper(runes[i]) &&
			(!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if split {
			if w := strings.Trim(string(runes[from:i]), "_"); w != "" {
				out = append(out, strings.ToLower(w))
			}
			from = i
		}
	}
	return out
}

// sources are the files of the project that people write and read, by path from its root.
func sources(t *testing.T, ends ...string) map[string]string {
	t.Helper()
	root := filepath.Join("..", "..")
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Skip("the files of the project are those that git knows, and this is no checkout: ", err)
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		for _, end := range ends {
			if !strings.HasSuffix(name, end) || strings.Contains(name, "testdata/") {
				continue
			}
			b, err := os.ReadFile(filepath.Join(root, name))
			if os.IsNotExist(err) {
				continue // removed and not committed yet
			}
			if err != nil {
				t.Fatal(err)
			}
			all[name] = string(b)
		}
	}
	if len(all) < 10 {
		t.Fatalf("git knows only %d files of this kind", len(all))
	}
	return all
}

func TestWords(t *testing.T) {
	private := map[string]string{}
	for _, w := range formerWords {
		private[w.not] = w.but
	}
	for name, text := range sources(t, ".go") {
		if name == "cmd/casemate/words_test.go" {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok || seen[id.Name] {
				return true
			}
			seen[id.Name] = true
			for _, w := range partsOf(id.Name) {
				if but := private[w]; but != "" {
					t.Errorf("%s: the identifier %s has the word %q: say %s", set.Position(id.Pos()), id.Name, w, but)
				}
			}
			return true
		})
	}
}

func TestPhrases(t *testing.T) {
	for name, text := range sources(t, ".go", ".md", ".txtar", ".sh", ".yaml", ".service", ".socket") {
		if name == "cmd/casemate/words_test.go" {
			continue
		}
		for _, w := range formerPhrases {
			re := regexp.MustCompile(`(?i)\b(` + w.not + `)\b`)
			for _, at := range re.FindAllStringIndex(text, -1) {
				if field := text[at[0]:at[1]]; field == "mended" && inJSON(text, at[0], at[1]) {
					continue
				}
				line := 1 + strings.Count(text[:at[0]], "\n")
				t.Errorf("%s:%d: %q: say %q", name, line, text[at[0]:at[1]], w.but)
			}
		}
	}
}

// inJSON reports a name of a field: in a Go tag, in a table of docs/admin-api.md, or in its schema.
func inJSON(text string, from, to int) bool {
	before, after := text[max(0, from-1):from], text[to:min(len(text), to+1)]
	return strings.Contains("\"` ", before) && strings.Contains("\"`:?,", after)
}

func TestWordsOfIdentifiers(t *testing.T) {
	for identifier, want := range map[string]string{
		"a": "a", "HTTPServer_x": "http server x", "maySpare": "may spare", "TestMendsTwice": "test mends twice",
		"handshake": "handshake", "blobID": "blob id", "_": "",
	} {
		if got := strings.Join(partsOf(identifier), " "); got != want {
			t.Errorf("want %s to be %q, got %q", identifier, want, got)
		}
	}
}

// mostColumns is how long a line of code or prose may be; a tab counts as four.
const mostColumns = 120

// unbreakable are lines of Go source that lie in a string literal in which a line break would change the value.
func unbreakable(name, text string) map[int]bool {
	set := token.NewFileSet()
	file := set.AddFile(name, -1, len(text))
	var s scanner.Scanner
	s.Init(file, []byte(text), nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return lines
		}
		// A string with a space can be written as a sum of two; a raw one cannot, nor can a long path or address.
		raw := tok == token.STRING && lit[0] == '`' && utf8.RuneCountInString(lit) > 60
		whole := tok == token.STRING && lit[0] == '"' && !strings.Contains(lit, " ") && utf8.RuneCountInString(lit) > 60
		if raw || whole {
			first := set.Position(pos).Line
			for i := range 1 + strings.Count(lit, "\n") {
				lines[first+i] = true
			}
		}
	}
}

func TestWidth(t *testing.T) {
	for name, text := range sources(t, ".go", ".md", "Makefile", ".sh", ".yaml", ".service", ".socket", "run",
		".html", ".css", ".js") {
		var keep map[int]bool
		if strings.HasSuffix(name, ".go") {
			keep = unbreakable(name, text)
		}
		var long []string
		for i, line := range strings.Split(text, "\n") {
			columns := utf8.RuneCountInString(line) + 3*strings.Count(line, "\t")
			// The row of a Markdown table cannot be broken, nor can a heading or a single word.
			row := strings.HasSuffix(name, ".md") && strings.HasPrefix(strings.TrimSpace(line), "|")
			word := len(strings.Fields(strings.TrimLeft(line, " \t/-*"))) == 1
			heading := strings.HasSuffix(name, ".md") && strings.HasPrefix(line, "#")
			if columns > mostColumns && !keep[i+1] && !row && !word && !heading {
				long = append(long, fmt.Sprintf("%s:%d: %d columns, at most %d", name, i+1, columns, mostColumns))
			}
		}
		if len(long) > 0 {
			t.Errorf("%s has %d lines that are too long:\n%s", name, len(long), strings.Join(long, "\n"))
		}
	}
}
