package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/nodeconf"
	"casemate/bundle/lists/kubespray"
)

// confOutput writes generated files: to standard output one after the other, or below a directory.
type confOutput struct {
	dir   string
	force bool
}

func (c *confOutput) add(cmd *cobra.Command, where string) {
	cmd.Flags().StringVar(&c.dir, "dir", "", "write the files to this `DIRECTORY` "+where+" (default: print them)")
	cmd.Flags().BoolVar(&c.force, "force", false, "with --dir: replace files that have other content")
	cmd.MarkFlagDirname("dir")
}

// print writes the files, and notes about them to standard error.
func (c *confOutput) print(cmd *cobra.Command, o *options, conf *nodeconf.Conf) error {
	switch {
	case c.dir != "":
		if err := c.write(cmd, conf.Files, !o.json()); err != nil {
			return err
		}
	case !o.json():
		for i, f := range conf.Files {
			if i > 0 {
				io.WriteString(cmd.OutOrStdout(), "\n")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "# %s\n%s", f.Path, f.Content)
		}
	}
	if o.json() {
		return printJSON(cmd.OutOrStdout(), conf)
	}
	for _, n := range conf.Notes {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	return nil
}

// write writes all files or, if some exist with other content, none. With list it prints their names.
func (c *confOutput) write(cmd *cobra.Command, files []nodeconf.ConfFile, list bool) error {
	var differ []string
	same, real := map[string]bool{}, map[string]string{}
	for _, f := range files {
		if !filepath.IsLocal(strings.TrimPrefix(f.Path, "/")) {
			return fmt.Errorf("the daemon names the file %q, which is not below a directory", f.Path)
		}
		name := filepath.Join(c.dir, f.Path)
		var err error
		if real[name], err = throughLinks(c.dir, name); err != nil {
			return err
		}
		switch old, err := os.ReadFile(name); {
		case err == nil:
			if same[name] = string(old) == f.Content; !same[name] && !onlyComments(string(old)) {
				differ = append(differ, name)
			}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if len(differ) > 0 && !c.force {
		return fmt.Errorf("nothing was written, because files with other content exist: %s (merge them by hand, or "+
			"replace them with --force)", strings.Join(differ, ", "))
	}
	for _, f := range files {
		name := filepath.Join(c.dir, f.Path)
		if !same[name] {
			if err := replaceFile(real[name], f.Content, 0o644); err != nil {
				return err
			}
		}
		if list {
			fmt.Fprintln(cmd.OutOrStdout(), name)
		}
	}
	return nil
}

// throughLinks returns the file that a name below dir leads to, so that a symbolic link stays one. A link to nothing or
// out of dir is refused: writing through it would change a file that nobody named.
func throughLinks(dir, name string) (string, error) {
	top, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return name, nil
	} else if err != nil {
		return "", err
	}
	// The deepest part of the name that exists, and the rest.
	part, rest := name, ""
	for {
		if _, err = os.Lstat(part); !errors.Is(err, fs.ErrNotExist) || len(part) <= len(dir) {
			break
		}
		part, rest = filepath.Dir(part), filepath.Join(filepath.Base(part), rest)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // it names the path, as that of EvalSymlinks does not
	}
	real, err := filepath.EvalSymlinks(part)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("nothing was written, because %s is a symbolic link to a file that does not exist: "+
			"create that file or remove the link", part)
	} else if err != nil {
		return "", err
	}
	if below, err := filepath.Rel(top, real); err != nil || !filepath.IsLocal(below) {
		return "", fmt.Errorf("nothing was written, because %s leads by a symbolic link to %s, which is not below %s: "+
			"remove the link, or write the file by hand", part, real, dir)
	}
	return filepath.Join(real, rest), nil
}

// onlyComments reports whether a file contains only comments, as Kubespray's sample of offline.yml does: nothing is
// lost when it is replaced.
func onlyComments(content string) bool {
	for line := range strings.SplitSeq(strings.TrimPrefix(content, "\ufeff"), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" && line != "---" && line != "..." {
			return false
		}
	}
	return true
}

// replaceFile writes a file atomically, because it may be read meanwhile: containerd does at every pull.
func replaceFile(name, content string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".casemate-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func mirrorsCommand(o *options) *cobra.Command {
	var runtime string
	var own []string
	var out confOutput
	cmd := &cobra.Command{
		Use: "mirrors --for RUNTIME", Short: "print a container runtime's mirror configuration", Args: cobra.NoArgs,
		Long: `Print or write the mirror configuration of a container runtime, for nodes that do
not use the bastions as resolvers: every registry that the bastions answer for
comes from the bastions, each by its own name, and from nowhere else. So does every
registry that is not listed, where the runtime has a catch-all: the bastions report
a miss at once, and the node does not wait for the internet. --own names registries
that the nodes ask directly. The CA, and the lines that /etc/hosts may need, are
included.

Nodes that use the bastions as resolvers need none of it.`,
		Example: "  casemate mirrors --for containerd --own harbor.corp.example\n  casemate mirrors --for k3s --dir " +
			"./node",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runtime == "" {
				return usageError{fmt.Errorf("--for is required: %s", strings.Join(nodeconf.Runtimes(), ", "))}
			}
			var conf nodeconf.Conf
			query := url.Values{"for": {runtime}, "own": own}
			if err := o.client().call(cmd.Context(), http.MethodGet, "mirrors", query, nil, &conf); err != nil {
				return err
			}
			return out.print(cmd, o, &conf)
		},
	}
	choice(cmd, &runtime, "for", "", "`RUNTIME` (required)", append([]string{""}, nodeconf.Runtimes()...)...)
	cmd.Flags().StringArrayVar(&own, "own", nil,
		"`HOST` or HOST:PORT of a registry of your own, which is not mirrored; IPv6 in brackets; may be repeated")
	out.add(cmd, "at their absolute paths")
	o.printsText(cmd, "text", nodeconf.Conf{})
	return cmd
}

func kubesprayCommand(o *options) *cobra.Command {
	var mode, dir, version string
	var out confOutput
	vars := &cobra.Command{
		Use: "vars", Short: "print variables for Kubespray's inventory", Args: cobra.NoArgs,
		Long: `Print or write variables for Kubespray's inventory. With --mode dns (nodes use the
bastions as resolvers) these are few, because files and images keep their names;
if the bastions have IPv4 and IPv6 addresses, both are in them.
With --mode mirror (DNS is not changed) they send every file and image to the
bastions' own names.

The names of a release's variables are read from its checkout (--kubespray), or
known for --version; the default is the newest release that Casemate knows. With a
checkout the result is checked: everything that the release downloads is computed
with these variables, and what would still come from elsewhere is reported.`,
		Example: `  casemate kubespray vars --mode dns
  casemate kubespray vars --mode mirror --kubespray ./kubespray --dir ./kubespray/inventory/mycluster`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir != "" && version != "" {
				return usageError{errors.New("give --kubespray or --version, not both: a checkout says which release " +
					"it is")}
			}
			var conf nodeconf.Conf
			q := url.Values{"mode": {mode}}
			if dir == "" {
				q.Set("version", version)
				if err := o.client().call(cmd.Context(), http.MethodGet, "kubespray", q, nil, &conf); err != nil {
					return err
				}
				if version == "" && mode == "mirror" { // in dns mode no variable depends on it
					conf.Notes = append(conf.Notes, "these are for Kubespray "+nodeconf.NewestKubespray+
						", the newest that is known: give another with --version or --kubespray")
				}
				return out.print(cmd, o, &conf)
			}
			release, err := kubespray.ReadUpstream(os.DirFS(dir))
			if err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
			if err := o.client().call(cmd.Context(), http.MethodPost, "kubespray", q, release, &conf); err != nil {
				return err
			}
			if mode != "mirror" {
				return out.print(cmd, o, &conf)
			}
			note, left, err := checkMirrorVars(dir, &conf)
			if err != nil {
				return err
			}
			conf.Notes = append(conf.Notes, note)
			if err := out.print(cmd, o, &conf); err != nil || out.dir == "" {
				return err
			}
			if note := checkMirrorInventory(dir, out.dir, left); note != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "note:", note)
			}
			return nil
		},
	}
	f := vars.Flags()
	choice(vars, &mode, "mode", "",
		"`MODE` of the nodes: whether they use the bastions as resolvers (dns) or not (mirror)",
		nodeconf.KubesprayModes...)
	f.StringVar(&dir, "kubespray", "", "checkout `DIRECTORY` of Kubespray")
	f.StringVar(&version, "version", "", "`RELEASE` of Kubespray, like "+nodeconf.NewestKubespray)
	vars.MarkFlagDirname("kubespray")
	out.add(vars, "(an inventory), in group_vars/all/")
	o.printsText(vars, "text", nodeconf.Conf{})
	return group("kubespray", "print what an inventory of Kubespray needs", vars)
}

// checkMirrorVars computes what the release in the checkout downloads with the variables and reports what still comes
// from elsewhere.
func checkMirrorVars(dir string, conf *nodeconf.Conf) (note string, left []string, err error) {
	opt := kubespray.Options{Mirrors: true}
	for _, f := range conf.Files {
		opt.Vars = append(opt.Vars, kubespray.Vars{Name: f.Path, R: strings.NewReader(f.Content)})
	}
	before, err := kubespray.Read(os.DirFS(dir), kubespray.Options{Mirrors: true})
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", dir, err)
	}
	after, err := kubespray.Read(os.DirFS(dir), opt)
	if err != nil {
		return "", nil, fmt.Errorf("%s with the variables: %w", dir, err)
	}
	upstream := map[string]bool{}
	for _, name := range downloadNames(before) {
		upstream[name] = true
	}
	moved := 0
	for _, name := range downloadNames(after) {
		// The bastions' own name, then the whole upstream name: the only paths served there.
		rest, isURL := strings.CutPrefix(name, "https://")
		_, at, _ := strings.Cut(rest, "/")
		if isURL {
			at = "https://" + at
		}
		switch {
		case upstream[at]:
			moved++
		case upstream[name]:
			left = append(left, name)
		default:
			return "", nil, fmt.Errorf("%s: with these variables it would request %s, the mirror of no name: "+
				"this release is not supported", dir, name)
		}
	}
	note = fmt.Sprintf("checked with %s: the bastions serve %s that it can download", dir, count(moved, "name"))
	if n := len(left); n > 0 {
		note += fmt.Sprintf("; %s %s its upstream host, because no variable changes it or the host is not an origin "+
			"here (containerd finds images of origins at the bastions anyway): %s", count(n, "name"), verb(n, "keep"),
			strings.Join(left, ", "))
	}
	return note, left, nil
}

// checkMirrorInventory reports what other files of the inventory redirect elsewhere again, and what cannot be
// determined.
func checkMirrorInventory(dir, inventory string, left []string) string {
	in, err := kubespray.ReadInventory(filepath.ToSlash(inventory), os.DirFS(inventory), "")
	if err != nil {
		return fmt.Sprintf("it is unknown whether other files of the inventory override these variables: %v", err)
	}
	var names [2][]string
	for i, mirrors := range []bool{true, false} {
		k, err := kubespray.Read(os.DirFS(dir), kubespray.Options{Inventory: in, Mirrors: mirrors})
		if err != nil {
			return fmt.Sprintf("it is unknown whether other files of the inventory override these variables: %v", err)
		}
		names[i] = downloadNames(k)
	}
	// A name of the bastions' own denotes a mirrored one.
	elsewhere := slices.DeleteFunc(names[0], func(n string) bool {
		return !slices.Contains(names[1], n) || slices.Contains(left, n)
	})
	if len(elsewhere) == 0 {
		return ""
	}
	return fmt.Sprintf("other files of the inventory %s override these variables, or change versions without a "+
		"variable: "+
		"not from the bastions come %s", inventory, strings.Join(elsewhere, ", "))
}

// downloadNames returns the names of all images and files that a release can download, including those that its own
// list script omits. Charts are left out: no variable of downloads names them.
func downloadNames(k *kubespray.Lists) (names []string) {
	for _, i := range k.Images {
		names = append(names, i.Ref())
	}
	for _, f := range k.Files {
		names = append(names, f.URL)
	}
	for _, f := range k.Forgotten {
		if f.Chart == nil {
			names = append(names, f.Name())
		}
	}
	return names
}
