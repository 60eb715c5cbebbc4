package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"casemate/appliance"
	"casemate/appliance/config"
	"casemate/appliance/nodeconf"
	"casemate/appliance/setup"
	"casemate/pki"
)

// maxSocket is the longest path of a unix socket, in bytes (sun_path in unix(7), with its final zero).
const maxSocket = 107

// pinned is how long a tag keeps the content that it had when it was asked for first: the longest that the setting
// allows.
const pinned = "720h"

func rehearseCommand(o *options) *cobra.Command {
	var (
		advertise             []netip.Addr
		resolvers, upstreamCA string
		logFile               string
		set                   [][2]string
		opt                   setup.InitOptions
	)
	cmd := &cobra.Command{
		Use: "rehearse DIRECTORY", Short: "run an install once where there is internet, and record what it asks for",
		Args: cobra.ExactArgs(1),
		Long: `Run a whole appliance in DIRECTORY, on a machine with a link to the internet, that
fetches what its clients ask for and records every question with its answer.
It prints the line that enrols a lab node. Install there as usual; then make the
bundle with "casemate bundle create FILE --rehearsal DIRECTORY". It has everything
that was fetched, and the transcript, which "casemate replay" asks again inside.
"casemate rehearsal show DIRECTORY" shows it.

On a terminal it shows for each host how often it was asked, how much was sent, how
much came from upstream, and what failed. --log writes each request and each fetch
as a line of JSON. At the end it lists what is not in the transcript.

The CA is one of its own, called a rehearsal's, and permits most public names: only
lab nodes may trust it. A public name that is no origin yet becomes one when it is
asked for in DNS for the first time, before that question is answered. If a step
fails, repeat it. Names of the site are forwarded: --set dns.forward=ZONE=ADDRESS.

Ctrl-C ends it. The same command continues; --resolvers, --permit, --set and
--upstream-ca count only the first time.`,
		Example: `  casemate rehearse ./debian12 --advertise 10.0.0.5 --resolvers 10.0.0.1
  casemate rehearse ./debian12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if len(rehearsalDir(dir).socket()) > maxSocket {
				return usageError{fmt.Errorf("%s is too long for the path of a socket: choose a shorter directory",
					dir)}
			}
			opt.Set = map[string]string{"domain": pki.LabDomain, "upstream": "on", "upstream.fresh": pinned,
				"upstream.resolvers": resolvers}
			if upstreamCA != "" {
				text, err := readSmall(upstreamCA)
				if err != nil {
					return err
				}
				opt.Set["upstream.ca"] = string(text)
			}
			for _, s := range set {
				opt.Set[s[0]] = s[1]
			}
			file, err := prepareRehearsal(cmd, rehearsalDir(dir), advertise, opt)
			if err != nil {
				return err
			}
			return o.rehearse(cmd, rehearsalDir(dir), file, logFile)
		},
	}
	f := cmd.Flags()
	addrsVar(f, &advertise, "advertise",
		"`IP` addresses at which clients reach this node, comma-separated (default: those of the default routes)")
	f.StringVar(&resolvers, "resolvers", "",
		"`ADDRESSES` of real resolvers, which know where the origins are; needed the first time")
	zonesVar(f, &opt.Permit, "permit",
		"`ZONE` or CIDR that certificates may be for, besides the public ones; may be repeated")
	settingsVar(f, &set, "set", "cluster setting `KEY=VALUE`; may be repeated")
	f.StringVar(&upstreamCA, "upstream-ca", "", "trust the roots in `FILE` too when fetching")
	f.StringVar(&logFile, "log", "", "append each request and fetch to `FILE`, as lines of JSON; - is standard output")
	clockFlag(cmd, &opt.Clock)
	cmd.MarkFlagFilename("upstream-ca", "pem", "crt")
	return cmd
}

// prepareRehearsal makes the node of a rehearsal, unless it was made before, and returns its config file.
func prepareRehearsal(cmd *cobra.Command, dir rehearsalDir, advertise []netip.Addr,
	opt setup.InitOptions) (string, error) {
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		return "", err
	}
	file := dir.config()
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		text := fmt.Sprintf("listen:\n  admin: %q\n", dir.socket())
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	cfg, given, err := initConfig(file, "rehearsal", dir.data(), advertise)
	if err != nil {
		return "", err
	}
	if there, err := setup.Initialised(cfg); err != nil || there {
		return file, err
	}
	if opt.Set["upstream.resolvers"] == "" {
		return "", usageError{errors.New("--resolvers is needed: whom to ask where the origins are")}
	}
	opt.Lab, opt.ConfigFile, opt.Given, opt.Log = true, file, given, warnings(cmd)
	opt.Clock.Read(madeAt())
	_, err = setup.Init(cmd.Context(), cfg, opt)
	return file, err
}

// rehearse runs the node until it is interrupted.
func (o *options) rehearse(cmd *cobra.Command, dir rehearsalDir, file, logFile string) error {
	cfg, err := loadConfig(file)
	if err != nil {
		return err
	}
	keepsRunning()
	view, err := newRehearsalView(cmd, logFile)
	if err != nil {
		return err
	}
	log, level, flush := config.NewServiceLogger(cfg.Log, cmd.ErrOrStderr())
	defer flush()
	if view.live() { // its lines would be in the way
		log = view.meter.log()
	}
	a, err := appliance.Open(cfg, appliance.Options{
		Version: version, Commit: commit, Log: log, Level: level, Watch: view.watch,
		Load:      func() (config.Config, error) { return loadConfig(file) },
		Rehearsal: dir.record(),
	})
	if err != nil {
		return errors.Join(err, view.end())
	}
	o.socket = cfg.Listen.Admin
	ctx, cancel := context.WithCancel(cmd.Context())
	said := make(chan struct{})
	go func() {
		defer close(said)
		o.printEnrolment(ctx, cmd, view, logFile == "-")
	}()
	err = a.Run(ctx)
	cancel()
	<-said
	err = cmp.Or(err, a.Close(), view.end())
	dir.summarize(cmd.ErrOrStderr())
	return err
}

// printEnrolment prints how lab nodes are enrolled as soon as the daemon serves: its socket is open already. aside says
// that standard output is for the log.
func (o *options) printEnrolment(ctx context.Context, cmd *cobra.Command, view *rehearsalView, aside bool) {
	var files []nodeconf.File
	err := o.client().call(ctx, "GET", "enroll", url.Values{"format": {"line"}}, nil, &files)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		view.meter.say("the line that enrols lab nodes is not known: " + err.Error())
		return
	}
	out, isFile := cmd.OutOrStdout().(*os.File)
	terminal := isFile && term.IsTerminal(int(out.Fd()))
	for _, f := range files {
		if line := strings.TrimSpace(f.Text); aside || view.live() && terminal {
			view.meter.say(line)
		} else {
			fmt.Fprintln(cmd.OutOrStdout(), line)
		}
	}
	view.meter.say("run this line as root on each lab node, and install; end with Ctrl-C")
}
