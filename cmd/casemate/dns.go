package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"casemate/appliance/resolver"
)

// dnsCommand is run by the daemon and by systemd.
func dnsCommand(*options) *cobra.Command {
	var (
		opt   resolver.ProcessOptions
		level string
	)
	cmd := &cobra.Command{
		Use: "dns", Short: "the DNS process of the daemon", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return usageError{err}
			}
			keepsRunning()
			opt.Version, opt.Log.Level, opt.Stderr = version, l, cmd.ErrOrStderr()
			return resolver.RunProcess(cmd.Context(), opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Config, "config", "", "the node's config, which says how to log")
	f.StringSliceVar(&opt.Sockets, "sockets", nil, "names of the sockets that are open from 3 on")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&opt.Log.Format, "log-format", "auto", "auto, text or json")
	return cmd
}
