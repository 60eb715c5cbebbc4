package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

type setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Default string `json:"default"`
	Help    string `json:"help"`
	Set     bool   `json:"set"`
}

func configCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the cluster's settings", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var settings []setting
			if err := o.client().call(cmd.Context(), "GET", "settings", nil, nil, &settings); err != nil {
				return err
			}
			return o.print(cmd, settings, func(t *table) {
				t.line("SETTING", "VALUE", "", "")
				for _, s := range settings {
					note := ""
					if !s.Set {
						note = "(default)"
					}
					t.line(s.Key, s.Value, note, s.Help)
				}
			})
		},
	}
	o.printable(list)
	get := &cobra.Command{
		Use: "get KEY", Short: "print one setting", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s setting
			if err := o.client().call(cmd.Context(), "GET", "settings/"+seg(args[0]), nil, nil, &s); err != nil {
				return err
			}
			return o.print(cmd, s, func(t *table) {
				for l := range strings.SplitSeq(strings.TrimSuffix(s.Value, "\n"), "\n") { // keys in PEM have several
					t.line(l)
				}
			})
		},
	}
	o.printable(get)
	var reset bool
	var from string
	set := &cobra.Command{
		Use: "set KEY VALUE", Short: "change one setting on every node", Args: cobra.RangeArgs(1, 2),
		Example: "  casemate config set dns.forward 10.1.1.1,10.1.1.2\n  casemate config set dns.ttl --default\n  casemate config set pki.issuer --from ca-with-key.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reset {
				if len(args) == 2 {
					return usageError{fmt.Errorf("config set takes a value or --default, not both")}
				}
				return o.client().call(cmd.Context(), "DELETE", "settings/"+seg(args[0]), nil, nil, nil)
			}
			if from != "" {
				if len(args) == 2 {
					return usageError{fmt.Errorf("config set takes a value or --from, not both")}
				}
				text, err := readFile(cmd, from)
				if err != nil {
					return err
				}
				args = append(args, text)
			}
			if len(args) != 2 {
				return usageError{fmt.Errorf("config set needs a value (usage: %s)", cmd.UseLine())}
			}
			return o.client().call(cmd.Context(), "PUT", "settings/"+seg(args[0]), nil, map[string]string{"value": args[1]}, nil)
		},
	}
	set.Flags().BoolVar(&reset, "default", false, "put the default back")
	set.Flags().StringVar(&from, "from", "", "read the value from a file, or from standard input with -: a key does not belong on a command line")
	return group("config", "the cluster's settings, the same on every node", list, get, set)
}

// readFile reads a value of at most 1 MiB from a file or, with "-", from standard input.
func readFile(cmd *cobra.Command, name string) (string, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err == nil && len(text) > most {
		err = usageError{fmt.Errorf("%s is longer than %d bytes", name, most)}
	}
	return string(text), err
}

// manCommand writes the man pages; packages carry them.
func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "write the man pages to a directory", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			root.DisableAutoGenTag = true // the same commit gives the same pages
			return doc.GenManTree(root, &doc.GenManHeader{Title: "CASEMATE", Section: "8", Source: "casemate " + version, Manual: "Casemate"}, args[0])
		},
	}
}
