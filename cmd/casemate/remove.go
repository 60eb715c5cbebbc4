package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// deletion is the one way in which commands delete: they show what will go and ask. What will go is the answer of the
// daemon to the same request with ?dry-run=1.
type deletion struct {
	o           *options
	yes, dryRun bool
}

// removal is what will go.
type removal struct {
	Removes []removed `json:"removes"` // the first of them
	Count   int       `json:"count"`
	Bytes   int64     `json:"bytes"`
	Notes   []string  `json:"notes,omitempty"`
}

type removed struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Bytes int64  `json:"bytes,omitempty"`
}

func (r *removal) add(kind, name string, bytes int64) {
	r.Removes = append(r.Removes, removed{kind, name, bytes})
	r.Count++
	r.Bytes += bytes
}

// deletes makes cmd a command that deletes, with the flags --yes and --dry-run.
func (o *options) deletes(cmd *cobra.Command) *deletion {
	d := &deletion{o: o}
	d.flags(cmd, &d.yes)
	return d
}

// flags adds the flags; yes is where --yes is stored.
func (d *deletion) flags(cmd *cobra.Command, yes *bool) {
	f := cmd.Flags()
	if f.Lookup("yes") == nil {
		f.BoolVar(yes, "yes", false, "delete without asking")
	}
	f.BoolVar(&d.dryRun, "dry-run", false, "report what would be deleted and change nothing")
}

// errNotConfirmed ends a command whose question was not answered with yes.
var errNotConfirmed = errors.New("not confirmed: nothing was changed")

// call sends a request that deletes, and decodes the answer into out (unless nil), if the user agrees. done is false
// after a dry run, whose result was printed.
func (d *deletion) call(cmd *cobra.Command, method, path string, query url.Values, in, out any) (done bool, err error) {
	done, err = d.agreed(cmd, func() (r removal, err error) {
		if err := d.knowsDryRuns(cmd.Context()); err != nil {
			return r, err
		}
		dry := url.Values{}
		maps.Copy(dry, query)
		dry.Set("dry-run", "1")
		err = d.o.client().call(cmd.Context(), method, path, dry, in, &r)
		return r, err
	})
	if !done || err != nil {
		return false, err
	}
	return true, d.o.client().call(cmd.Context(), method, path, query, in, out)
}

// knowsDryRuns returns an error if the daemon is of a version that would ignore dry-run=1, and delete. Such a version
// does not describe itself.
func (d *deletion) knowsDryRuns(ctx context.Context) error {
	err := d.o.client().call(ctx, "GET", "openapi.json", nil, nil, nil)
	if e := new(apiError); errors.As(err, &e) && e.status == http.StatusNotFound {
		return errors.New("the daemon is of an older version, which cannot show what would be deleted: restart it, " +
			"or give --yes")
	}
	return err
}

// agreed reports whether to delete what plan returns: with --yes at once, else if the user says so. With --dry-run it
// prints the plan.
func (d *deletion) agreed(cmd *cobra.Command, plan func() (removal, error)) (bool, error) {
	if err := d.check(cmd); err != nil || d.yes {
		return err == nil, err
	}
	r, err := plan()
	if err != nil {
		return false, err
	}
	if d.dryRun {
		return false, d.o.print(cmd, r, func(t *table) { r.show(t) })
	}
	t := d.o.tableTo(cmd.ErrOrStderr())
	r.show(t)
	if err := t.w.Flush(); err != nil {
		return false, err
	}
	return d.ask(cmd)
}

// check refuses flags that contradict each other, and a question that nobody can answer.
func (d *deletion) check(cmd *cobra.Command) error {
	terminal, ok := cmd.InOrStdin().(*os.File)
	switch {
	case d.yes && d.dryRun:
		return usageError{errors.New("give --yes or --dry-run, not both")}
	case d.yes, d.dryRun, ok && term.IsTerminal(int(terminal.Fd())):
		return nil
	}
	return usageError{fmt.Errorf("%s asks before it deletes, and standard input is no terminal: give --yes, or "+
		"--dry-run to see what would be deleted", cmd.CommandPath())}
}

// show prints what will go, and its sum.
func (r *removal) show(t *table) {
	for _, one := range r.Removes {
		bytes := ""
		if one.Bytes > 0 {
			bytes = size(one.Bytes)
		}
		t.line("delete", one.Kind, one.Name, bytes)
	}
	if more := r.Count - len(r.Removes); more > 0 {
		t.line("delete", fmt.Sprintf("and %d more", more))
	}
	sum := fmt.Sprintf("%d in all", r.Count)
	if r.Bytes > 0 {
		sum += fmt.Sprintf(", with %s of content", size(r.Bytes))
	}
	t.line(sum)
	for _, n := range r.Notes {
		t.line("note: " + n)
	}
}

// ask asks on the terminal.
func (d *deletion) ask(cmd *cobra.Command) (bool, error) {
	fmt.Fprint(cmd.ErrOrStderr(), "Delete? [y/N] ")
	answer, err := readLine(cmd.Context(), cmd.InOrStdin())
	if err != nil {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	return false, errNotConfirmed
}

// readLine reads a line from a terminal. Ctrl-C ends it; the read itself lasts until the process ends.
func readLine(ctx context.Context, terminal io.Reader) (string, error) {
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := bufio.NewReader(io.LimitReader(terminal, 1024)).ReadString('\n')
		if err == io.EOF {
			err = nil
		}
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return "", errors.New("interrupted: nothing was changed")
	}
}
