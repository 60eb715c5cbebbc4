package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"path/filepath"

	"casemate/cluster"
)

// ReportTrailer is the trailer of POST /v1/backup: a cluster.BackupReport in JSON. Where it is missing, what came is no
// backup.
const ReportTrailer = "Casemate-Report"

// postBackup streams a backup. An error in the middle cuts the connection: no client can take half of one for a whole
// one.
func (a *Appliance) postBackup(w http.ResponseWriter, r *http.Request) {
	var in struct {
		NoBlobs    bool `json:"no_blobs"`
		Passphrase string
		Recipients string
	}
	if err := read(r, &in); err != nil {
		a.adminError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", ReportTrailer)
	out := &begun{w: w}
	rep, err := a.cluster.Backup(r.Context(), out, cluster.BackupOptions{NoBlobs: in.NoBlobs, Passphrase: in.Passphrase, Recipients: in.Recipients})
	var text []byte
	if err == nil {
		text, err = json.Marshal(rep)
	}
	switch {
	case err == nil:
		w.Header().Set(ReportTrailer, string(text))
	case out.yes:
		a.log.Error("backup cut off", "error", err)
		panic(http.ErrAbortHandler)
	default:
		w.Header().Del("Trailer")
		a.adminError(w, r, err)
	}
}

// begun is a writer that knows whether something was written.
type begun struct {
	w   io.Writer
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.w.Write(p)
}

// RestoreOptions are what Restore is given besides the node's config.
type RestoreOptions struct {
	// Passphrase or Identities unwraps the sealing key; see cluster.RestoreOptions.
	Passphrase, Identities string
	// ConfigFile is where the config is written if there is no file; "" writes none.
	ConfigFile string
	// Log gets one line per change of state. nil: nothing is logged.
	Log *slog.Logger
}

// Restore makes the first node of a new cluster from a backup, in a data directory that is new or empty. The node's
// name and addresses are those of cfg, which must be complete; settings, users, content and the CA are the backup's,
// and what it says of other nodes is gone. It starts nothing.
func Restore(ctx context.Context, cfg Config, r io.Reader, opt RestoreOptions) (rep cluster.RestoreReport, p Prepared, err error) {
	if err := checkDataDir(cfg.Data); err != nil {
		return rep, p, err
	}
	if exists(filepath.Join(cfg.Data, clusterDir, "format")) {
		return rep, p, fmt.Errorf("data directory %s is already initialised, restore into a new one with data (or --data); if only the config is missing after a restore, casemate init writes it: %w", cfg.Data, fs.ErrExist)
	}
	for _, name := range []string{certsDir, missingFile} {
		if path := filepath.Join(cfg.Data, name); exists(path) {
			return rep, p, fmt.Errorf("data directory %s has %q of another node, restore into a new one with data (or --data): %w", cfg.Data, name, fs.ErrExist)
		}
	}
	p, err = prepare(cfg, opt.ConfigFile, func() (err error) {
		rep, err = cluster.Restore(ctx, clusterConfig(cfg, orDiscard(opt.Log)), r, cluster.RestoreOptions{
			Passphrase: opt.Passphrase, Identities: opt.Identities, Edit: func(b cluster.Batch) error { return onlyNode(b, cfg) },
		})
		return err
	})
	return rep, p, err
}

// RecoverCluster makes the stopped node of cfg a cluster of one, or with dry only says what that would cost; see
// cluster.Recover. configFile is where cfg came from.
func RecoverCluster(cfg Config, configFile string, dry bool, log *slog.Logger) (rep cluster.RecoverReport, err error) {
	host, err := serviceHost(configFile)
	if err != nil {
		return rep, err
	}
	recover := func() (err error) {
		rep, err = cluster.Recover(clusterConfig(cfg, orDiscard(log)), cluster.RecoverOptions{
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

// onlyNode takes all other nodes out of the tree: DNS must not name them, and new intermediates need not permit their
// addresses. The CA enters its own at the next start.
func onlyNode(b cluster.Batch, cfg Config) error {
	b.Remove("nodes")
	b.Remove("pki/node")
	return putNode(b, cfg)
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
