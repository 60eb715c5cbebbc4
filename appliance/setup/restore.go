package setup

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"

	"casemate/appliance/config"
	"casemate/appliance/nodes"
	"casemate/cluster"
)

// RestoreOptions are the options of Restore besides the node's config.
type RestoreOptions struct {
	// Passphrase or Identities decrypt the sealing key; see cluster.RestoreOptions.
	Passphrase, Identities string
	// ConfigFile is where the config is written if the file does not exist; "" writes none.
	ConfigFile string
	// Given is what flags say: node, data and advertise are added to a config file that does not set them.
	Given config.Config
	// Clock is what the machine knows of the time; the zero value checks nothing.
	Clock Clock
	// Log gets one line per change of state. nil: nothing is logged.
	Log *slog.Logger
}

// Restore creates the first node of a new cluster from a backup, in a data directory that is new or empty. The node's
// name and addresses are those of cfg, which must be complete; settings, users, content and the CA are the backup's,
// and the backup's other nodes are dropped. It starts nothing.
func Restore(ctx context.Context, cfg config.Config, r io.Reader,
	opt RestoreOptions) (rep cluster.RestoreReport, p Prepared, err error) {
	notes, err := opt.Clock.check()
	if err != nil {
		return rep, p, err
	}
	if err := checkDataDir(cfg.Data); err != nil {
		return rep, p, err
	}
	if there, err := exists(cfg.Data, clusterDir, "format"); err != nil {
		return rep, p, err
	} else if there {
		return rep, p, fmt.Errorf("data directory %s is already initialised, restore into a new one with data (or "+
			"--data); "+
			"if only the config is missing after a restore, casemate init writes it: %w", cfg.Data, fs.ErrExist)
	}
	for _, name := range []string{CertsDir, MissingFile, EgressFile, ClientsFile, PullsFile, DisksFile} {
		if there, err := exists(cfg.Data, name); err != nil {
			return rep, p, err
		} else if there {
			return rep, p, fmt.Errorf("data directory %s has %q of another node, "+
				"restore into a new one with data (or --data): %w", cfg.Data, name, fs.ErrExist)
		}
	}
	p, err = prepare(cfg, opt.Given, opt.ConfigFile, func() (err error) {
		rep, err = cluster.Restore(ctx, ClusterConfig(cfg, orDiscard(opt.Log)), r, cluster.RestoreOptions{
			Passphrase: opt.Passphrase, Identities: opt.Identities,
			Edit: func(b cluster.Batch) error { return onlyNode(b, cfg) },
		})
		return err
	})
	p.Notes = notes
	return rep, p, err
}

// Recover makes the stopped node of cfg a cluster of one, or with dry only reports what that would lose; see
// cluster.Recover. configFile is the file of cfg.
func Recover(cfg config.Config, configFile string, dry bool, log *slog.Logger) (rep cluster.RecoverReport, err error) {
	host, err := serviceHost(configFile)
	if err != nil {
		return rep, err
	}
	recover := func() (err error) {
		rep, err = cluster.Recover(ClusterConfig(cfg, orDiscard(log)), cluster.RecoverOptions{
			DryRun: dry, Edit: func(b cluster.Batch) error { return onlyNode(b, cfg) },
		})
		if err == nil && !dry {
			err = unmarkRemoved(cfg.Data)
		}
		return err
	}
	if host == nil {
		err = recover()
	} else {
		err = host.As(recover)
	}
	return rep, err
}

// onlyNode removes all other nodes from the tree: DNS must not return them, and new intermediates need not permit
// their addresses. The CA adds its own at the next start.
func onlyNode(b cluster.Batch, cfg config.Config) error {
	b.Remove(nodes.Dir)
	b.Remove("pki/node")
	return nodes.Put(b, self(cfg))
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
