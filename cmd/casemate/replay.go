package main

import (
	"crypto/x509"
	"fmt"

	"github.com/spf13/cobra"

	"casemate/appliance/address"
	"casemate/appliance/replay"
)

// replayed is the result of replay.
type replayed struct {
	Questions   int                 `json:"questions"`
	Differences []replay.Difference `json:"differences"`
}

func replayCommand(o *options) *cobra.Command {
	var (
		resolver, roots string
	)
	cmd := &cobra.Command{
		Use: "replay BUNDLE…", Short: "ask again what an install asked in a rehearsal", Args: cobra.MinimumNArgs(1),
		Long: `Ask every question of the transcript in a bundle again, as the clients did: the name
in DNS, TLS for that name, then the request. It prints each answer that is not the
recorded one, with its reason and cure. Nothing is downloaded. It runs on a bastion
or a node, and needs no daemon and no privileges.

Exit code 0: all questions have the same answers. 3: some do not.`,
		Example: `  casemate replay debian12.tar
  casemate replay debian12.tar --resolver 10.0.0.11 --ca casemate.pem`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := replay.Config{}
			if resolver != "" {
				at, err := resolverAddr(resolver)
				if err != nil {
					return err
				}
				cfg.Resolver = at
			}
			if roots != "" {
				text, err := readSmall(roots)
				if err != nil {
					return err
				}
				if cfg.Roots = x509.NewCertPool(); !cfg.Roots.AppendCertsFromPEM(text) {
					return usageError{fmt.Errorf("--ca %s has no certificate in PEM", roots)}
				}
			}
			questions, err := readQuestions(cmd, args)
			if err != nil {
				return err
			}
			res := replayed{Questions: len(questions)}
			if res.Differences, err = replay.Ask(cmd.Context(), questions, cfg); err != nil {
				return interrupted(cmd.Context(), err, "nothing was changed")
			}
			err = o.print(cmd, res, func(t *table) {
				for _, d := range res.Differences {
					t.line(d.Question.Method+" "+d.Question.URL, d.Why, d.Cure)
				}
				if same := len(questions) - len(res.Differences); same == len(questions) {
					t.line(fmt.Sprintf("100 %% of %d questions", same))
				} else {
					t.line(fmt.Sprintf("%d of %d questions", same, len(questions)))
				}
			})
			if err == nil && len(res.Differences) > 0 {
				err = differs{fmt.Errorf("%s not have the recorded answer",
					map[bool]string{true: "1 question does", false: fmt.Sprintf("%d questions do",
						len(res.Differences))}[len(res.Differences) == 1])}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&resolver, "resolver", "",
		"ask the DNS server at `ADDRESS`, with or without a port (default: the machine's)")
	f.StringVar(&roots, "ca", "", "trust the roots in `FILE` only (default: the machine's)")
	cmd.MarkFlagFilename("ca", "pem", "crt")
	o.prints(cmd, &replayed{})
	return cmd
}

// resolverAddr returns a DNS server's address with its port.
func resolverAddr(s string) (string, error) {
	at, err := address.ParsePort(s, 53)
	if err != nil {
		return "", usageError{fmt.Errorf("--resolver %w", err)}
	}
	return at.String(), nil
}
