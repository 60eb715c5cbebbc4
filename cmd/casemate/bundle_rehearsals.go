package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance"
	"casemate/appliance/admin"
	"casemate/appliance/config"
	"casemate/appliance/content"
	"casemate/appliance/rehearsal"
	"casemate/bundle"
)

// maxConflicts bounds the names in the error about rehearsals that do not go together.
const maxConflicts = 5

// openedRehearsal is one whose daemon answers.
type openedRehearsal struct {
	dir    string
	client *client
	stop   func() // ends the daemon, if it was started for this command
	blobs  map[string]bool
}

// openedRehearsals are those of one command.
type openedRehearsals []*openedRehearsal

// openRehearsals connects to rehearsals. Those that are stopped run until done is called, and serve nobody else.
func (o *options) openRehearsals(cmd *cobra.Command, dirs []string) (list openedRehearsals, done func(), err error) {
	done = func() {
		for _, r := range list {
			r.stop()
		}
	}
	for _, dir := range dirs {
		d, err := rehearsalAt(dir)
		if err != nil {
			done()
			return nil, nil, err
		}
		local := *o
		local.socket, local.server = d.socket(), ""
		r := &openedRehearsal{dir: dir, client: local.client(), stop: func() {}, blobs: map[string]bool{}}
		running, err := rehearsal.Running(d.record())
		if err == nil && !running {
			r.stop, err = d.open(cmd)
		}
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("rehearsal %s: %w", dir, err)
		}
		list = append(list, r)
	}
	return list, done, nil
}

// open runs the daemon of a stopped rehearsal, with ports that no client knows, until stop is called.
func (d rehearsalDir) open(cmd *cobra.Command) (stop func(), err error) {
	cfg, err := loadConfig(d.config())
	if err != nil {
		return nil, err
	}
	own := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	cfg.Log.Level = slog.LevelWarn
	cfg.Listen = config.Listen{HTTP: own, HTTPS: own, DNS: own, Peer: own, Admin: d.socket()}
	a, err := appliance.Open(cfg, appliance.Options{Version: version, Commit: commit, Log: warnings(cmd),
		Rehearsal: d.record()})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := a.Run(ctx); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "rehearsal", d, "has stopped:", err)
		}
		a.Close()
	}()
	return func() { cancel(); <-ended }, nil
}

// contents returns everything that the rehearsals have, with the transcript.
func (list openedRehearsals) contents(ctx context.Context) (*content.Exported, error) {
	all := &content.Exported{}
	var parts []bundle.Part
	for _, r := range list {
		var one content.Exported
		if err := r.client.call(ctx, "POST", "bundle", nil, admin.BundleRequest{Everything: true}, &one); err != nil {
			return nil, fmt.Errorf("rehearsal %s: %w", r.dir, err)
		}
		for _, b := range one.Index.Blobs {
			r.blobs[b.Digest] = true
		}
		parts = append(parts, bundle.Part{Name: r.dir, Index: one.Index})
		all.Findings = append(all.Findings, one.Findings...)
		for _, n := range one.Notes {
			if len(list) > 1 {
				n = r.dir + ": " + n
			}
			all.Notes = append(all.Notes, n)
		}
	}
	if len(list) == 1 {
		all.Index = parts[0].Index
		return all, nil
	}
	ix, conflicts, differ, err := bundle.Merge(parts, func(digest string) (io.ReadCloser, error) {
		return list.blob(ctx, digest)
	})
	if err != nil {
		return nil, err
	}
	if n := len(conflicts); n > 0 {
		more := ""
		if n > maxConflicts {
			more = fmt.Sprintf("; and %d more", n-maxConflicts)
			conflicts = conflicts[:maxConflicts]
		}
		return nil, fmt.Errorf("the rehearsals do not go into one bundle: %s%s: make a bundle of each and import "+
			"both, or rehearse the older one again", strings.Join(conflicts, "; "), more)
	}
	for _, url := range differ {
		all.Notes = append(all.Notes, url+" was answered differently in the rehearsals: the transcript has the "+
			"answer of the first one")
	}
	all.Index = ix
	return all, nil
}

// blob reads a blob of one of the rehearsals.
func (list openedRehearsals) blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	for _, r := range list {
		if r.blobs[digest] {
			return r.client.blob(ctx, digest)
		}
	}
	return nil, errors.New(digest + " is in none of the rehearsals")
}
