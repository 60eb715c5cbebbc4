package main

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/address"
	"casemate/appliance/replay"
	"casemate/bundle"
	"casemate/bundle/lists"
)

// replayed is the result of replay.
type replayed struct {
	Questions   int                 `json:"questions"`
	Differences []replay.Difference `json:"differences"`
}

func replayCommand(o *options) *cobra.Command {
	var (
		resolver, roots string
		against         []string
		line            bool
	)
	cmd := &cobra.Command{
		Use: "replay TRANSCRIPT…", Short: "ask again what an install asked in a rehearsal", Args: cobra.ArbitraryArgs,
		Long: `Ask every question of a transcript again, as the clients did: the name in DNS, TLS
for that name, then the request. It prints each answer that is not the recorded one,
with its reason and cure. Nothing is downloaded. It runs on a bastion or a node, and
needs no daemon and no privileges.

TRANSCRIPT is a bundle (or one of its parts), a file of "casemate rehearsal show -o
transcript" or "casemate bundle inspect -o transcript", - for such a file at standard
input, or the directory of a rehearsal. --against asks for what a list names besides,
or alone: images with their registry, and URLs, one per line.

With --line, on a bastion, it prints one line for a node's shell that downloads this
program from a bastion, checks its SHA-256 and replays the transcript at its standard
input: ssh NODE "$(casemate replay --line)" < debian12.json

Exit code 0: all questions have the same answers. 3: some do not.`,
		Example: `  casemate replay debian12.tar
  casemate replay debian12.json --resolver 10.0.0.11 --ca casemate.pem
  casemate replay debian12.tar --against images.list --against files.list
  casemate replay --line`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if line {
				return o.printLine(cmd, "replay -", false)
			}
			if len(args)+len(against) == 0 {
				return usageError{errors.New("nothing to ask: name a transcript, or a list with --against")}
			}
			cfg, err := replayConfig(resolver, roots)
			if err != nil {
				return err
			}
			var questions, listed []bundle.Question
			if len(args) > 0 {
				if questions, err = readQuestions(cmd, args); err != nil {
					return err
				}
			}
			if listed, err = readAgainst(cmd, against); err != nil {
				return err
			}
			res := replayed{Questions: len(questions) + len(listed)}
			if res.Differences, err = replay.Ask(cmd.Context(), questions, cfg); err == nil {
				cfg.Follow = true
				var more []replay.Difference
				more, err = replay.Ask(cmd.Context(), listed, cfg)
				res.Differences = append(res.Differences, more...)
			}
			if err != nil {
				return interrupted(cmd.Context(), err, "nothing was changed")
			}
			return o.printReplayed(cmd, res)
		},
	}
	f := cmd.Flags()
	f.StringVar(&resolver, "resolver", "",
		"ask the DNS server at `ADDRESS`, with or without a port (default: the machine's)")
	f.StringVar(&roots, "ca", "", "trust the roots in `FILE` only (default: the machine's)")
	f.StringArrayVar(&against, "against", nil, "ask for what the `LIST` of images and URLs names too; may be repeated")
	f.BoolVar(&line, "line", false, "on a bastion: print the line that replays a transcript on a node")
	cmd.MarkFlagFilename("ca", "pem", "crt")
	o.prints(cmd, &replayed{})
	return cmd
}

func replayConfig(resolver, roots string) (cfg replay.Config, err error) {
	if resolver != "" {
		if cfg.Resolver, err = resolverAddr(resolver); err != nil {
			return cfg, err
		}
	}
	if roots != "" {
		text, err := readSmall(roots)
		if err != nil {
			return cfg, err
		}
		if cfg.Roots = x509.NewCertPool(); !cfg.Roots.AppendCertsFromPEM(text) {
			return cfg, usageError{fmt.Errorf("--ca %s has no certificate in PEM", roots)}
		}
	}
	return cfg, nil
}

// readAgainst reads lists that have images and URLs.
func readAgainst(cmd *cobra.Command, names []string) ([]bundle.Question, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var parser lists.Parser
	read := &listReader{stdin: cmd.InOrStdin()}
	for _, name := range names {
		var err error
		if rerr := read.each(name, func(name string, r io.Reader) { err = splitList(&parser, name, r) }); rerr != nil {
			return nil, rerr
		}
		if err != nil {
			return nil, usageError{err}
		}
	}
	wanted, err := parser.Wanted()
	if err != nil {
		return nil, usageError{fmt.Errorf("the lists are not usable, nothing was asked:\n%w", err)}
	}
	return replay.Listed(wanted), nil
}

// splitList reads a list that has images and URLs; each line keeps its number.
func splitList(parser *lists.Parser, name string, r io.Reader) error {
	var images, files strings.Builder
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		host, _, slash := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "docker://"), "oci://"), "/")
		switch {
		case word == "":
			line = ""
		case strings.HasPrefix(word, "http://"), strings.HasPrefix(word, "https://"):
			files.WriteString(line)
			line = ""
		case !slash || !strings.ContainsAny(host, ".:"):
			return fmt.Errorf("%s:%d: %.200q is neither a URL nor an image with its registry; what packages need is "+
				"checked by casemate check --packages", name, n, word)
		}
		images.WriteString(line + "\n")
		files.WriteString("\n")
	}
	parser.Images(name, strings.NewReader(images.String()))
	parser.Files(name, strings.NewReader(files.String()))
	return in.Err()
}

// printReplayed prints the differences; any is exit code 3.
func (o *options) printReplayed(cmd *cobra.Command, res replayed) error {
	bad := len(res.Differences)
	err := o.print(cmd, res, func(t *table) {
		for _, d := range res.Differences {
			t.line(d.Question.Method+" "+d.Question.URL, d.Why, d.Cure)
		}
		if bad == 0 {
			t.line(fmt.Sprintf("100 %% of %s", count(res.Questions, "question")))
		} else {
			t.line(fmt.Sprintf("%d of %s", res.Questions-bad, count(res.Questions, "question")))
		}
	})
	if err == nil && bad > 0 {
		does := "do"
		if bad == 1 {
			does = "does"
		}
		err = differs{fmt.Errorf("%s %s not have the recorded answer", count(bad, "question"), does)}
	}
	return err
}

// resolverAddr returns a DNS server's address with its port.
func resolverAddr(s string) (string, error) {
	at, err := address.ParsePort(s, 53)
	if err != nil {
		return "", usageError{fmt.Errorf("--resolver %w", err)}
	}
	return at.String(), nil
}
