package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"casemate/appliance/config"
	"casemate/appliance/doctor"
	"casemate/appliance/settings"
)

// block is a fenced block of a page.
type block struct {
	page, lang string
	line       int
	lines      []string
}

// pages returns the fenced blocks of README.md and of everything in docs/.
func pages(t *testing.T) []block {
	t.Helper()
	top := filepath.Join("..", "..")
	names := []string{filepath.Join(top, "README.md")}
	filepath.WalkDir(filepath.Join(top, "docs"), func(name string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".md") {
			names = append(names, name)
		}
		return err
	})
	var blocks []block
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var open *block
		n := 0
		for s := bufio.NewScanner(f); s.Scan(); {
			n++
			lang, fence := strings.CutPrefix(strings.TrimSpace(s.Text()), "```")
			switch {
			case fence && open == nil:
				open = &block{page: filepath.Base(name), lang: lang, line: n}
			case fence:
				blocks, open = append(blocks, *open), nil
			case open != nil:
				open.lines = append(open.lines, s.Text())
			}
		}
		if open != nil {
			t.Errorf("%s:%d: the block is never closed", open.page, open.line)
		}
	}
	return blocks
}

// TestDocsCommands parses every casemate command in a shell block of README.md or docs/: the command and its flags
// exist, it accepts these arguments, and a setting accepts its value.
func TestDocsCommands(t *testing.T) {
	seen, values := 0, 0
	for _, b := range pages(t) {
		if b.lang != "sh" {
			continue
		}
		before := ""
		for i, line := range b.lines {
			line = before + line
			if start, more := strings.CutSuffix(line, "\\"); more { // the command goes on in the next line
				before = start
				continue
			}
			before = ""
			for _, part := range strings.FieldsFunc(line, func(r rune) bool {
				return r == '|' || r == ';' || r == '&'
			}) {
				args := words(part)
				for len(args) > 0 && (args[0] == "sudo" || args[0] == "$" || strings.Contains(args[0], "=")) {
					args = args[1:]
				}
				if len(args) == 0 || filepath.Base(args[0]) != "casemate" {
					continue
				}
				seen++
				args = args[1:]
				for j, a := range args { // a redirection ends the command
					if strings.HasPrefix(a, ">") || strings.HasPrefix(a, "<") || a == "2>" {
						args = args[:j]
						break
					}
				}
				root := newRoot()
				cmd, rest, err := root.Find(args)
				if err == nil {
					err = cmd.ParseFlags(rest)
				}
				if err == nil {
					err = cmd.ValidateArgs(cmd.Flags().Args())
				}
				if err == nil && cmd.Annotations[onlyGroup] != "" {
					err = needsCommand(cmd, cmd.Flags().Args())
				}
				if pair := cmd.Flags().Args(); err == nil && len(pair) == 2 &&
					cmd.CommandPath() == "casemate config set" {
					values++
					_, err = settings.Parse(map[string]string{pair[0]: pair[1]})
				}
				if err != nil {
					t.Errorf("%s:%d: %s: %v", b.page, b.line+1+i, strings.TrimSpace(part), err)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d commands found: is the pages' format still what this test reads?", seen)
	}
	if values < 3 {
		t.Errorf("only %d settings found", values)
	}
}

// TestDoctorsCures: the commands in the cures of casemate doctor exist, and so do their flags.
func TestDoctorsCures(t *testing.T) {
	seen := 0
	for _, m := range regexp.MustCompile("`casemate ([^`]+)`").FindAllStringSubmatch(doctor.Page(), -1) {
		command, _, _ := strings.Cut(strings.ReplaceAll(m[1], "--platform DETAIL", "--platform linux/amd64"), "|")
		command, _, _ = strings.Cut(command, ">")
		args := words(command)
		seen++
		cmd, rest, err := newRoot().Find(args)
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err != nil {
			t.Errorf("%s: %v", m[0], err)
		}
	}
	if seen < 10 {
		t.Errorf("only %d commands found", seen)
	}
}

// TestDocsConfigs parses every yaml block of README.md and docs/ that is a node's config.
func TestDocsConfigs(t *testing.T) {
	seen := 0
	for _, b := range pages(t) {
		text := strings.Join(b.lines, "\n")
		if b.lang != "yaml" || !strings.Contains(text, "listen:") && !strings.Contains(text, "node:") {
			continue
		}
		seen++
		if _, err := config.Parse(b.page, []byte(text)); err != nil {
			t.Errorf("%s:%d: %v", b.page, b.line, err)
		}
	}
	if seen == 0 {
		t.Error("no config found in README.md or docs/")
	}
}

// words splits a line as a shell does: blanks, quotes, comments.
func words(line string) []string {
	var list []string
	var word strings.Builder
	quote, inWord := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == '#' && !inWord:
			return list
		case r == ' ' || r == '\t':
			if inWord {
				list = append(list, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		list = append(list, word.String())
	}
	return list
}

// anchors returns the anchors of a page, as GitHub makes them from its headings, and those that it names itself.
func anchors(text string) map[string]bool {
	found, seen, code := map[string]bool{}, map[string]int{}, false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if id, ok := strings.CutPrefix(line, `<a id="`); ok {
			id, _, _ = strings.Cut(id, `"`)
			found[id] = true
		}
		marks, title, ok := strings.Cut(line, " ")
		if code || !ok || marks == "" || strings.Trim(marks, "#") != "" {
			continue
		}
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, title)
		if again := seen[anchor]; again > 0 {
			seen[anchor]++
			anchor += fmt.Sprint("-", again)
		}
		seen[anchor]++
		found[anchor] = true
	}
	return found
}

// TestDocsLinks: every link of README.md, docs/ and the DESIGN.md files leads to a file and a heading that are there.
func TestDocsLinks(t *testing.T) {
	top := filepath.Join("..", "..")
	texts := map[string]string{}
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || name == filepath.Join(top, "bin") ||
			name == filepath.Join(top, "dist")) {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(name, ".md") {
			return err
		}
		data, err := os.ReadFile(name)
		texts[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for name, text := range texts {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") {
				continue // another site
			}
			seen++
			page := name
			if target != "" {
				page = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(page); err != nil {
				t.Errorf("%s: %s leads to no file", name, m[1])
			} else if anchor != "" && !anchors(texts[page])[anchor] {
				t.Errorf("%s: %s leads to no heading", name, m[1])
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d links found: is the pages' format still what this test reads?", seen)
	}
}

// TestOperationsShape: docs/operations.md lists every task in its table of contents, and each task says its goal, shows
// commands, says what to see, and how to undo it.
func TestOperationsShape(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "\n## Contents\n")
	contents, text, _ := strings.Cut(text, "\n## ")
	text, reference, ok := strings.Cut(text, "\n## Reference\n")
	if !ok {
		t.Fatal("no reference")
	}
	for _, m := range regexp.MustCompile(`(?m)^###? (.*)$`).FindAllStringSubmatch("## "+text+reference, -1) {
		if !strings.Contains(contents, "- ["+m[1]+"](#") {
			t.Errorf("the contents do not list %q", m[1])
		}
	}
	tasks := strings.Split(text, "\n### ")[1:]
	for _, task := range tasks {
		name, rest, _ := strings.Cut(task, "\n")
		for _, part := range []string{"\n**Goal:** ", "\n```", "\n**You should see:**", "\n**Undo:**"} {
			if _, rest, ok = strings.Cut(rest, part); !ok {
				t.Errorf("%q has no part %q, or not in this order", name, strings.TrimSpace(part))
				break
			}
		}
	}
	if len(tasks) < 20 {
		t.Errorf("only %d tasks found", len(tasks))
	}
}

// TestDocsWidth: lines of README.md and docs/ have at most 120 columns. Tables and what is written by a program are not
// looked at.
func TestDocsWidth(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, name := range append(pages, filepath.Join("..", "..", "README.md")) {
		if filepath.Base(name) == "troubleshooting.md" {
			continue // written from doctor's table
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			line = strings.TrimSuffix(line, "\n")
			if w := utf8.RuneCountInString(line); w > 120 && !strings.HasPrefix(line, "|") {
				t.Errorf("%s:%d has %d columns: break the line", filepath.Base(name), n, w)
			}
		}
	}
}

// TestArchitectureNamesEveryRoom: the tables of docs/architecture.md name each package, and no other.
func TestArchitectureNamesEveryRoom(t *testing.T) {
	top := filepath.Join("..", "..")
	data, err := os.ReadFile(filepath.Join(top, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	rooms, _, ok := strings.Cut(string(data), "\n## Where to change what\n")
	if !ok {
		t.Fatal("the rooms are not followed by where to change what")
	}
	named := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(rooms, -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			named[m[1]] = true
		}
	}
	err = filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		room, _ := filepath.Rel(top, filepath.Dir(name))
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || name == filepath.Join(top, "bin")):
			return fs.SkipDir
		case d.Name() == "go.mod" && room != ".": // another module
			delete(named, room)
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		if _, ok := named[room]; !ok {
			t.Errorf("docs/architecture.md does not name %s", room)
		}
		named[room] = false
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room, unseen := range named {
		if unseen {
			t.Errorf("docs/architecture.md names %s, which is no package", room)
		}
	}
}
