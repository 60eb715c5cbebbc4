// Package resolver is the daemon's side of DNS: it keeps the DNS process running and connected, and tells it what the
// tree says. It is also what that process runs.
package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"casemate/appliance/config"
	"casemate/appliance/current"
	"casemate/appliance/sockets"
	"casemate/cluster"
	"casemate/dnssrv"
	"casemate/dnssrv/process"
)

// Config is what a Resolver needs.
type Config struct {
	Tree    *cluster.Tree
	Current *current.Reader
	// Up reports whether a node answers; DNS does not name the others.
	Up func(node string) bool
	// Process is the path of the socket at which the DNS process waits that systemd runs. It is used where Sockets has
	// none for DNS; else the Resolver starts a process, and takes these sockets.
	Process string
	Sockets *sockets.Set
	// Listen is where DNS should listen.
	Listen []netip.AddrPort
	// Start starts a DNS process. nil: this program's executable.
	Start func(peer *os.File, files []*os.File, names []string) (process.Process, error)
	Miss  func(client netip.Addr, name, qtype string)
	// Noise takes questions of search lists, which tell of no need.
	Noise func(client netip.Addr, name, qtype string)
	// Problems takes the sentences that status shows of what DNS was told.
	Problems  func([]string)
	Version   string
	LogConfig config.Log     // of the process
	Level     *slog.LevelVar // nil: it does not change
	Log       *slog.Logger
}

// A Resolver keeps the DNS process told.
type Resolver struct {
	cfg      Config
	link     *process.Link
	child    *process.Child // nil: systemd runs the DNS process
	held     []heldSocket   // of the DNS process that this one starts
	needs    chan struct{}  // the DNS process wants everything: wakes the follower
	needsAll atomic.Bool
	answers  answers
}

// Open makes the link to the DNS process, which Run connects.
func Open(cfg Config) (*Resolver, error) {
	r := &Resolver{cfg: cfg, needs: make(chan struct{}, 1)}
	lc := process.LinkConfig{
		Log: cfg.Log, Version: cfg.Version,
		Need: func() {
			r.needsAll.Store(true)
			select {
			case r.needs <- struct{}{}:
			default:
			}
		},
		Applied: func(conflicts []string, err error) {
			if err != nil {
				conflicts = []string{"a change of names cannot be applied, DNS answers as before: " + err.Error()}
			}
			cfg.Problems(conflicts)
		},
		Miss: cfg.Miss, Noise: cfg.Noise,
	}
	if cfg.Level != nil {
		lc.Level = cfg.Level
	}
	if len(cfg.Sockets.DNSUDP) == 0 {
		lc.Dial = process.Connect(cfg.Process)
	} else {
		if err := r.hold(); err != nil {
			r.Close()
			return nil, err
		}
		r.child = &process.Child{Start: r.start}
		lc.Dial = r.child.Dial
	}
	r.link = process.NewLink(lc)
	r.followNames()
	return r, nil
}

// Close stops following the tree and closes the sockets of DNS.
func (r *Resolver) Close() error {
	if r.answers.stop != nil {
		r.answers.stop()
	}
	r.release()
	return nil
}

// Run keeps the DNS process connected, and ends the one that the daemon has started.
func (r *Resolver) Run(ctx context.Context) error {
	if r.child != nil {
		defer r.child.Close()
	}
	return r.link.Run(ctx)
}

// Err says why this node's DNS cannot be counted on; nil if it can.
func (r *Resolver) Err() error {
	err := r.link.Err()
	if err != nil && r.child == nil {
		err = fmt.Errorf("%w (systemctl status casemate-dns says more)", err)
	}
	return err
}

// Problems are sentences for status.
func (r *Resolver) Problems() (list []string) {
	if err := r.Err(); err != nil {
		list = append(list, err.Error())
	}
	if at := r.link.Addrs(); r.child == nil && at != nil {
		want := r.cfg.Listen
		if err := sockets.SameAddrs(sockets.DNSUDP, "listen.dns", want, at); err != nil {
			list = append(list, err.Error())
		}
	}
	return list
}

// dnsPatience is how long a start waits for DNS. Without it the rest serves all the same, and status and readyz say
// what is missing.
const dnsPatience = 5 * time.Second

// Await waits until DNS answers, for a while, or until ctx or done ends.
func (r *Resolver) Await(ctx context.Context, done <-chan struct{}) {
	late := time.NewTimer(dnsPatience)
	defer late.Stop()
	select {
	case <-r.link.Ready():
	case <-ctx.Done():
	case <-done:
	case <-late.C:
		r.cfg.Log.Error("DNS does not answer yet, everything else is served", "err", r.Err())
	}
}

// StopForGood tells the DNS process that this node is none of the cluster's any more.
func (r *Resolver) StopForGood() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r.link.StopForGood(ctx)
}

// Addrs returns where DNS listens: as the process says, or as it should while that is not known.
func (r *Resolver) Addrs() []netip.AddrPort {
	if at := r.link.Addrs(); at != nil {
		return at
	}
	return r.cfg.Listen
}

// Stats returns what DNS has counted.
func (r *Resolver) Stats() dnssrv.Stats { return r.link.Stats() }

// Needs tells when Refresh must be called because the DNS process wants everything.
func (r *Resolver) Needs() <-chan struct{} { return r.needs }

// Changed tells when RefreshNames must be called because names have changed in the tree.
func (r *Resolver) Changed() <-chan struct{} { return r.answers.changed }
