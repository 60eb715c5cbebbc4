// Command mutations checks whether the tests guard the promises of the tree. It breaks one promise after the other on
// purpose and expects the listed tests to fail:
//
//	go run ./mutations -root ../.. [-run REGEXP] [-check]
//
// First all of these tests must pass without a mutation. Nothing is changed in place: a mutation is an overlay of the
// go command (go help build, -overlay). With -check it only checks whether every mutation still applies. The exit code
// is 0 if every listed test of every mutation has failed.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	log.SetFlags(0)
	root := flag.String("root", ".", "the repository")
	only := flag.String("run", "", "only mutations whose names match")
	check := flag.Bool("check", false, "only look whether every mutation applies")
	flag.Parse()
	if err := run(*root, *only, *check); err != nil {
		log.Fatal(err)
	}
}

func run(root, only string, check bool) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	match, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutations")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var list []mutation
	var wrong []error
	names := map[string]bool{}
	for _, m := range mutations {
		_, err := m.apply(root)
		if err == nil && names[m.name] {
			err = errors.New("there are two of that name")
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("mutation %s: %w", m.name, err))
		}
		names[m.name] = true
		if match.MatchString(m.name) {
			list = append(list, m)
		}
	}
	if err := errors.Join(wrong...); err != nil || check {
		return err
	}
	r := runner{root: root, dir: dir}
	if err := r.whole(list); err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer out.Flush()
	fmt.Fprintln(out, "MUTATION\tTEST\tRESULT\tBREAKS")
	missed := 0
	for _, m := range list {
		overlay, err := m.overlay(root, dir)
		if err != nil {
			return fmt.Errorf("mutation %s: %w", m.name, err)
		}
		for _, t := range m.tests {
			red, took, err := r.fails(t, overlay)
			if err != nil {
				return fmt.Errorf("mutation %s: %w", m.name, err)
			}
			result := fmt.Sprintf("noticed in %.1fs", took.Seconds())
			if !red {
				result = "NOT NOTICED"
				missed++
			}
			fmt.Fprintf(out, "%s\t%s %s\t%s\t%s\n", m.name, t.pkg, t.run, result, m.what)
			log.Printf("%s: %s %s: %s", m.name, t.pkg, t.run, result)
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d times a test has not noticed a mutation", missed)
	}
	return nil
}

// apply returns the file with the mutation.
func (m mutation) apply(root string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(data, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%s has its text %d times, not once; update packaging/tools/mutations/list.go:\n%s",
			m.file, n, m.old)
	}
	if len(m.tests) == 0 {
		return nil, errors.New("it names no test")
	}
	return bytes.Replace(data, []byte(m.old), []byte(m.new), 1), nil
}

// overlay writes the mutated file and an overlay that refers to it, and returns the name of the overlay.
func (m mutation) overlay(root, dir string) (string, error) {
	data, err := m.apply(root)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, m.name+".go")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file): file}})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, m.name+".json")
	return name, os.WriteFile(name, text, 0o600)
}

type runner struct {
	root, dir string

	// The newest test program.
	pkg, overlay, program string
}

// build builds a package's tests, with an overlay unless it is "".
func (r *runner) build(pkg, overlay string) error {
	if r.program != "" && r.pkg == pkg && r.overlay == overlay {
		return nil
	}
	r.program = ""
	program := filepath.Join(r.dir, "test")
	args := []string{"test", "-c", "-ldflags", "-s -w", "-o", program} // without symbols it links faster
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, "./"+pkg)...)
	cmd.Dir = r.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("it does not build: %w\n%s", err, out)
	}
	r.pkg, r.overlay, r.program = pkg, overlay, program
	return nil
}

// limit ends a test that hangs: a broken promise may cause that, too.
const limit = 10 * time.Minute

// play runs tests of a package and returns their output. An error that is not an exec.ExitError is internal.
func (r *runner) play(pkg, run, overlay string) ([]byte, error) {
	if err := r.build(pkg, overlay); err != nil {
		return nil, err
	}
	cmd := exec.Command(r.program, "-test.run", run, "-test.timeout", limit.String())
	cmd.Dir = filepath.Join(r.root, pkg)
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("testing: warning: no tests to run")) {
		return out, fmt.Errorf("%s has no test %s", pkg, run)
	}
	return out, err
}

// fails reports whether a test fails with an overlay.
func (r *runner) fails(t test, overlay string) (red bool, took time.Duration, err error) {
	begun := time.Now()
	_, err = r.play(t.pkg, t.run, overlay)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return true, time.Since(begun), nil
	}
	return false, time.Since(begun), err
}

// whole runs all tests without a mutation.
func (r *runner) whole(list []mutation) error {
	by := map[string][]string{}
	var pkgs []string
	for _, m := range list {
		for _, t := range m.tests {
			if !slices.Contains(pkgs, t.pkg) {
				pkgs = append(pkgs, t.pkg)
			}
			if !slices.Contains(by[t.pkg], t.run) {
				by[t.pkg] = append(by[t.pkg], t.run)
			}
		}
	}
	for _, pkg := range pkgs {
		for _, run := range by[pkg] { // one by one: a missing name must not be hidden by the others
			if out, err := r.play(pkg, run, ""); err != nil {
				return fmt.Errorf("%s %s fails without a mutation: %w\n%s", pkg, run, err, tail(out))
			}
		}
		log.Printf("%s: %d tests pass without a mutation", pkg, len(by[pkg]))
	}
	return nil
}

func tail(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}
