package main

import (
	"bufio"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
		for i, line := range b.lines {
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
