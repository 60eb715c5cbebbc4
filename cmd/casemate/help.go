package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// The groups in which help and the first man page show the commands.
var groups = []*cobra.Group{
	{ID: "setup", Title: "Set up"},
	{ID: "content", Title: "Content"},
	{ID: "gap", Title: "Across the gap"},
	{ID: "nodes", Title: "Nodes"},
	{ID: "cluster", Title: "Cluster"},
	{ID: "access", Title: "Access"},
	{ID: "upkeep", Title: "Upkeep"},
}

// usage prints the part of a command's help after the description. cobra's own shows aliases, which are older names
// here, writes boolean flags as [=true|false], and does not wrap lines.
func usage(cmd *cobra.Command) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if cmd.Runnable() && !(cmd.HasAvailableSubCommands() && cmd.Annotations[onlyGroup] != "") {
		fmt.Fprintf(&b, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	width := columns(cmd.OutOrStdout())
	if cmd.HasAvailableSubCommands() {
		writeCommands(&b, cmd, width)
	}
	local, global := flagRows(cmd.LocalNonPersistentFlags()), flagRows(cmd.InheritedFlags(), cmd.PersistentFlags())
	global = append(global, [2]string{"  -h, --help", "show this help"})
	if len(local) > 0 {
		b.WriteString("\nFlags:\n")
		writeRows(&b, local, width)
	}
	b.WriteString("\nGlobal flags:\n")
	writeRows(&b, global, width)
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n\"%s COMMAND --help\" shows the help of one command.\n", cmd.CommandPath())
	}
	_, err := io.WriteString(cmd.OutOrStdout(), b.String())
	return err
}

// commandsOf returns the subcommands of a group that help shows.
func commandsOf(cmd *cobra.Command, group string) (list []*cobra.Command) {
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.GroupID == group || sub.Name() == "help" && sub.GroupID == group {
			list = append(list, sub)
		}
	}
	return list
}

func writeCommands(b *strings.Builder, cmd *cobra.Command, width int) {
	rows := func(list []*cobra.Command) (rows [][2]string) {
		for _, sub := range list {
			rows = append(rows, [2]string{"  " + pad(sub.Name(), sub.NamePadding()), sub.Short})
		}
		return rows
	}
	if len(cmd.Groups()) == 0 {
		b.WriteString("\nCommands:\n")
		writeRows(b, rows(commandsOf(cmd, "")), width)
		return
	}
	for _, g := range cmd.Groups() {
		fmt.Fprintf(b, "\n%s:\n", g.Title)
		writeRows(b, rows(commandsOf(cmd, g.ID)), width)
	}
}

// flagRows returns the flags of sets with their descriptions.
func flagRows(sets ...*pflag.FlagSet) (rows [][2]string) {
	for _, set := range sets {
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			name := "      --" + f.Name
			if f.Shorthand != "" {
				name = "  -" + f.Shorthand + ", --" + f.Name
			}
			value, usage := pflag.UnquoteUsage(f)
			if value != "" {
				name += " " + value
			}
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" {
				usage += " (default " + f.DefValue + ")"
			}
			rows = append(rows, [2]string{name, usage})
		})
	}
	return rows
}

// writeRows writes two columns, the second wrapped to the width.
func writeRows(b *strings.Builder, rows [][2]string, width int) {
	first := 0
	for _, r := range rows {
		first = max(first, len([]rune(r[0])))
	}
	for _, r := range rows {
		fmt.Fprintf(b, "%s  ", pad(r[0], first))
		at := first + 2
		for i, word := range strings.Fields(r[1]) {
			n := len([]rune(word))
			switch {
			case i == 0:
			case at+1+n > width && n < width-first-2:
				fmt.Fprintf(b, "\n%s", strings.Repeat(" ", first+2))
				at = first + 2
			default:
				b.WriteByte(' ')
				at++
			}
			b.WriteString(word)
			at += n
		}
		b.WriteByte('\n')
	}
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(width-len([]rune(s)), 0))
}

// columns is the width for text: that of the terminal, if the output is one.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return max(min(width, 120), 40)
		}
	}
	return 100
}

// manCommand writes the man pages; packages carry them.
func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "write the man pages to a directory", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			root.DisableAutoGenTag = true // the same commit gives the same pages
			return writeManPages(root, args[0])
		},
	}
}

// writeManPages writes the pages of a command and of all commands below it.
func writeManPages(cmd *cobra.Command, dir string) error {
	var errs []error
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			errs = append(errs, writeManPages(sub, dir))
		}
	}
	page, err := manPage(cmd)
	if err == nil {
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".8"
		err = os.WriteFile(filepath.Join(dir, name), page, 0o644)
	}
	return errors.Join(append(errs, err)...)
}

// manNoise matches what cobra prints after a flag whose default needs no mention.
var manNoise = regexp.MustCompile(`(?m)^((?:\\fB-\w\\fP, )?\\fB--[a-z0-9-]+\\fP)(?:\[=\w+\]|=""|=\[\]|=0|=)$`)

// manPage is the man page of a command.
func manPage(cmd *cobra.Command) ([]byte, error) {
	var page bytes.Buffer
	err := doc.GenMan(cmd, &doc.GenManHeader{
		Title: "CASEMATE", Section: "8", Source: "casemate " + version, Manual: "Casemate",
	}, &page)
	if err != nil {
		return nil, err
	}
	text := manNoise.ReplaceAllString(page.String(), "$1")
	if cmd.HasAvailableSubCommands() {
		before, after, _ := strings.Cut(text, ".SH SEE ALSO")
		text = before + manCommands(cmd) + ".SH SEE ALSO" + after
		if cmd.Annotations[onlyGroup] != "" {
			text = strings.Replace(text, cmd.CommandPath()+" [flags]", cmd.CommandPath()+" COMMAND", 1)
		}
	}
	return []byte(text), nil
}

// manCommands is the section on the subcommands, in their groups.
func manCommands(cmd *cobra.Command) string {
	var b strings.Builder
	b.WriteString(".SH COMMANDS\n")
	write := func(group string) {
		for _, sub := range commandsOf(cmd, group) {
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fP\n%s\n", roff(sub.CommandPath()), roff(sub.Short))
		}
	}
	if len(cmd.Groups()) == 0 {
		write("")
	}
	for _, g := range cmd.Groups() {
		fmt.Fprintf(&b, ".SS %s\n", roff(g.Title))
		write(g.ID)
	}
	b.WriteString("\n\n")
	return b.String()
}

// roff escapes text for a man page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
