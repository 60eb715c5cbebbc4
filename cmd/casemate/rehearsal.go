package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance/egress"
	"casemate/appliance/hostname"
	"casemate/appliance/rehearsal"
	"casemate/appliance/setup"
	"casemate/bundle"
	"casemate/pki"
)

func rehearsalCommand(o *options) *cobra.Command {
	return group("rehearsal", "list, show, compare and remove rehearsals", rehearsalList(o), rehearsalShow(o),
		rehearsalDiff(o), rehearsalRemove(o))
}

// rehearsalDir is the directory of a rehearsal; the methods read what is in it, whether it runs or not.
type rehearsalDir string

func (d rehearsalDir) record() string { return filepath.Join(string(d), rehearsal.FileName) }
func (d rehearsalDir) config() string { return filepath.Join(string(d), "casemate.yaml") }
func (d rehearsalDir) data() string   { return filepath.Join(string(d), "data") }
func (d rehearsalDir) socket() string { return filepath.Join(string(d), "admin.sock") }

// rehearsalAt returns the rehearsal in a directory.
func rehearsalAt(dir string) (rehearsalDir, error) {
	d := rehearsalDir(filepath.Clean(dir))
	if _, err := os.Stat(d.record()); errors.Is(err, fs.ErrNotExist) {
		return "", usageError{fmt.Errorf("%s is not the directory of a rehearsal: it has no %s", dir,
			rehearsal.FileName)}
	} else if err != nil {
		return "", err
	}
	return d, nil
}

// rehearsalsIn returns the rehearsal in a directory, or those in its subdirectories.
func rehearsalsIn(dir string) (list []rehearsalDir, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() == rehearsal.FileName {
			return []rehearsalDir{rehearsalDir(filepath.Clean(dir))}, nil
		}
	}
	for _, e := range entries {
		if d, err := rehearsalAt(filepath.Join(dir, e.Name())); err == nil {
			list = append(list, d)
		}
	}
	return list, nil
}

// rehearsed is one rehearsal in a list.
type rehearsed struct {
	Directory string    `json:"directory"`
	Running   bool      `json:"running"`
	Questions int       `json:"questions"`
	Gaps      int       `json:"gaps"` // requests that are not in the transcript
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
	Error     string    `json:"error,omitempty"` // why its record cannot be read
}

func (d rehearsalDir) summary() rehearsed {
	s := rehearsed{Directory: string(d)}
	r, err := rehearsal.Read(d.record())
	if err == nil {
		s.Running, err = rehearsal.Running(d.record())
	}
	if err != nil {
		s.Error = err.Error()
		return s
	}
	entries := r.Entries()
	s.Questions, s.Gaps = len(entries), len(r.Gaps())
	for _, e := range entries {
		if s.First.IsZero() || e.First.Before(s.First) {
			s.First = e.First
		}
		if e.Last.After(s.Last) {
			s.Last = e.Last
		}
	}
	return s
}

func rehearsalList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [DIRECTORY…]", Short: "list rehearsals", Args: cobra.ArbitraryArgs,
		Long: `List the rehearsals in the given directories, which may be those of rehearsals or
have them as subdirectories (default: the current directory). Neither a daemon nor
a running rehearsal is needed.`,
		Example: "  casemate rehearsal list\n  casemate rehearsal list ./debian12 /srv/rehearsals",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			list := []rehearsed{}
			for _, dir := range args {
				found, err := rehearsalsIn(dir)
				if err != nil {
					return err
				}
				for _, d := range found {
					list = append(list, d.summary())
				}
			}
			header := []any{"DIRECTORY", "STATE", "QUESTIONS", "GAPS", "FIRST", "LAST"}
			return o.printRows(cmd, list, "no rehearsals in "+strings.Join(args, ", "), header, func(t *table) {
				for _, r := range list {
					state := "stopped"
					switch {
					case r.Error != "":
						t.row(r.Directory, r.Error)
						continue
					case r.Running:
						state = "running"
					}
					t.row(r.Directory, state, r.Questions, r.Gaps, t.when(r.First), t.when(r.Last))
				}
			})
		},
	}
	cmd.ValidArgsFunction = directories
	o.printsTimes(cmd, []rehearsed{})
	return cmd
}

// directories completes arguments by directories.
func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// shownRehearsal is the output of rehearsal show.
type shownRehearsal struct {
	Directory string            `json:"directory"`
	Running   bool              `json:"running"`
	Questions []rehearsal.Entry `json:"questions"`
	// Gaps are requests that are not in the transcript.
	Gaps []rehearsal.Gap `json:"gaps"`
	// Notes say what else is not in the transcript.
	Notes []string `json:"notes"`
	// Unseen are what no rehearsal can see.
	Unseen []string `json:"unseen"`
}

// show reads a rehearsal.
func (d rehearsalDir) show() (s shownRehearsal, r *rehearsal.Record, err error) {
	if r, err = rehearsal.Read(d.record()); err != nil {
		return s, nil, err
	}
	running, err := rehearsal.Running(d.record())
	if err != nil {
		return s, nil, err
	}
	return shownRehearsal{Directory: string(d), Running: running, Questions: r.Entries(), Gaps: r.Gaps(),
		Notes: d.notes(r), Unseen: egress.Unseen}, r, nil
}

// notes say what is not in the transcript, besides the gaps.
func (d rehearsalDir) notes(r *rehearsal.Record) []string {
	list := r.Notes()[len(r.Gaps()):]
	entries, err := egress.ReadFile(filepath.Join(d.data(), setup.EgressFile))
	switch {
	case errors.Is(err, fs.ErrNotExist): // not even a name was asked for
	case err != nil:
		list = append(list, "names that were only resolved are not known: "+err.Error())
	default:
		list = append(list, egress.Unrecorded(entries, func(name string) bool {
			return hostname.Overlap(name, pki.LabDomain)
		})...)
	}
	return list
}

func rehearsalShow(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show DIRECTORY", Short: "show what was asked in a rehearsal, and what is not recorded",
		Args: cobra.ExactArgs(1),
		Long: `Show what was asked in a rehearsal, by which programs, how often, when, and with
which answer; then what is not in the transcript, with the reason. It may be running
or stopped; names that were only resolved appear some seconds late.

With -o images, files or packages it prints lists that "casemate bundle create"
takes, pinned to the digests that were used. Packages are named without a version,
so their repository decides; the version that was used is a comment. With -o
transcript it prints the transcript, which "casemate replay" and "casemate check"
take.`,
		Example: `  casemate rehearsal show ./debian12
  casemate rehearsal show ./debian12 -o images > images.list
  casemate rehearsal show ./debian12 -o transcript > debian12.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := rehearsalAt(args[0])
			if err != nil {
				return err
			}
			s, r, err := d.show()
			if err != nil {
				return err
			}
			lists := map[string]func([]bundle.Question) []string{"images": rehearsal.Images, "files": rehearsal.Files,
				"packages": rehearsal.Packages}
			if list := lists[o.output]; list != nil {
				for _, line := range list(r.Questions()) {
					fmt.Fprintln(cmd.OutOrStdout(), line)
				}
				return nil
			}
			if o.output == "transcript" {
				return printTranscript(cmd, r.Questions())
			}
			return o.print(cmd, s, func(t *table) {
				t.header("COUNT", "FIRST", "LAST", "CLIENTS", "ANSWER", "QUESTION")
				for _, e := range s.Questions {
					t.row(e.Count, t.when(e.First), t.when(e.Last), cmp.Or(strings.Join(e.Clients, " "), "-"),
						rehearsal.Answer(&e.Question), e.Method+" "+e.URL)
				}
				for _, g := range s.Gaps {
					t.row(g.Count, t.when(g.First), t.when(g.Last), "-", "not recorded", g.Name+": "+g.Why)
				}
				for _, n := range s.Notes {
					t.line(n)
				}
				t.line("not seen here: " + strings.Join(s.Unseen, "; "))
			})
		},
	}
	cmd.ValidArgsFunction = directories
	o.printsTimes(cmd, &shownRehearsal{}, "images", "files", "packages", "transcript")
	return cmd
}

// printTranscript writes a transcript as a file of its own.
func printTranscript(cmd *cobra.Command, questions []bundle.Question) error {
	text, err := bundle.EncodeTranscript(questions)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
}

func rehearsalDiff(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "diff A B", Short: "compare the transcripts of two rehearsals", Args: cobra.ExactArgs(2),
		Long: `Compare two transcripts: which questions only one of them has, and which have
another answer. A and B are each the directory of a rehearsal, a transcript or a
bundle with one.

Exit code 0: they are the same. 3: they differ.`,
		Example: `  casemate rehearsal diff ./debian12 ./debian13
  casemate rehearsal diff debian12.tar ./debian12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var both [2][]bundle.Question
			for i, name := range args {
				var err error
				if both[i], err = readQuestions(cmd, []string{name}); err != nil {
					return err
				}
			}
			list := rehearsal.Diff(both[0], both[1])
			if list == nil {
				list = []rehearsal.Difference{}
			}
			header := []any{"A", "B", "QUESTION"}
			err := o.printRows(cmd, list, "they are the same", header, func(t *table) {
				for _, d := range list {
					t.row(cmp.Or(d.A, "-"), cmp.Or(d.B, "-"), d.Method+" "+d.URL)
				}
			})
			if n := len(list); err == nil && n > 0 {
				err = differs{fmt.Errorf("%s asked or answered differently", count(n, "question")+" "+was(n))}
			}
			return err
		},
	}
	o.prints(cmd, []rehearsal.Difference{})
	return cmd
}

func was(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

func rehearsalRemove(o *options) *cobra.Command {
	var d *deletion
	cmd := &cobra.Command{
		Use: "remove DIRECTORY…", Short: "remove rehearsals with everything that they have fetched",
		Args: cobra.MinimumNArgs(1),
		Long: `Remove stopped rehearsals: their content, their CA and their transcripts. Bundles
that were made of them remain. A directory that has other files is left with these.`,
		Example: "  casemate rehearsal remove ./debian12",
		RunE: func(cmd *cobra.Command, args []string) error {
			var dirs []rehearsalDir
			for _, dir := range args { // all are looked at before the first one is removed
				d, err := rehearsalAt(dir)
				if err != nil {
					return err
				}
				if running, err := rehearsal.Running(d.record()); err != nil {
					return err
				} else if running {
					return fmt.Errorf("the rehearsal in %s is running: end it first", dir)
				}
				dirs = append(dirs, d)
			}
			done, err := d.agreed(cmd, func() (r removal, err error) {
				for _, dir := range dirs {
					bytes, err := dir.size()
					if err != nil {
						return r, err
					}
					r.add("rehearsal", string(dir), bytes)
				}
				return r, nil
			})
			if !done || err != nil {
				return err
			}
			for _, d := range dirs {
				if err := d.remove(); err != nil {
					return err
				}
				if err := o.changed(cmd, "rehearsal", string(d), "removed"); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.ValidArgsFunction = directories
	d = o.deletes(cmd)
	o.prints(cmd, change{})
	return cmd
}

// size returns how many bytes of content the rehearsal has.
func (d rehearsalDir) size() (bytes int64, err error) {
	err = filepath.WalkDir(d.data(), func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}

// remove removes what rehearse has made. The record is the last: until then the command can be repeated.
func (d rehearsalDir) remove() error {
	for _, name := range []string{d.data(), d.socket(), d.config(), d.record() + ".new", d.record()} {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	if rest, err := os.ReadDir(string(d)); err == nil && len(rest) == 0 {
		return os.Remove(string(d))
	}
	return nil
}
