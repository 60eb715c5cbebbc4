// Package resolver is the daemon's side of DNS: it keeps the DNS process running and connected, and sends it the
// state of the tree. It is also the code of that process.
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

// Config configures a Resolver.
type Config struct {
	Tree    *cluster.Tree
	Current *current.Reader
	// Up reports whether a node is healthy; DNS returns only healthy nodes.
	Up func(node string) bool
	// Process is the path of the socket of a DNS process that systemd runs. It is used if Sockets has none for DNS;
	// otherwise the Resolver starts a process with these sockets.
	Process string
	Sockets *sockets.Set
	// Listen are the addresses on which DNS should listen.
	Listen []netip.AddrPort
	// Start starts a DNS process. nil: this program's executable.
	Start func(peer *os.File, files []*os.File, names []string) (process.Process, error)
	// Unknown is asked for the names that neither the tree nor a zone of dns.forward has; zero: they are denied.
	Unknown netip.AddrPort
	Miss    func(client netip.Addr, name, qtype string)
	// Noise is called with queries of search lists, which do not show a need.
	Noise func(client netip.Addr, name, qtype string)
	// Seen is called with what became of clients' questions, counted. It must not block.
	Seen func([]dnssrv.Sighting)
	// Problems is called with the sentences about the DNS state that status shows.
	Problems  func([]string)
	Version   string
	LogConfig config.Log     // for the process
	Level     *slog.LevelVar // nil: it does not change
	Log       *slog.Logger
}

// A Resolver keeps the DNS process up to date.
type Resolver struct {
	cfg      Config
	link     *process.Link
	child    *process.Child // nil: systemd runs the DNS process
	held     []heldSocket   // for the DNS process that this process starts
	needs    chan struct{}  // the DNS process needs the whole state: wakes the follower
	needsAll atomic.Bool
	answers  answers
}

// Open creates the link to the DNS process, which Run connects.
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
		Miss: cfg.Miss, Noise: cfg.Noise, Seen: cfg.Seen,
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

// Run keeps the DNS process connected, and stops the one that the daemon has started.
func (r *Resolver) Run(ctx context.Context) error {
	if r.child != nil {
		defer r.child.Close()
	}
	return r.link.Run(ctx)
}

// Own reports whether the daemon starts the DNS process itself: it has counted nothing before the daemon's start.
func (r *Resolver) Own() bool { return r.child != nil }

// Err returns why this node's DNS does not work; nil if it does.
func (r *Resolver) Err() error {
	err := r.link.Err()
	if err != nil && r.child == nil {
		err = fmt.Errorf("%w (see systemctl status casemate-dns)", err)
	}
	return err
}

// Problems returns sentences for status.
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

// dnsPatience is how long a start waits for DNS. After it the other services start all the same, and status and
// readyz report the problem.
const dnsPatience = 5 * time.Second

// Await waits until DNS answers, but at most dnsPatience, or until ctx or done ends.
func (r *Resolver) Await(ctx context.Context, done <-chan struct{}) {
	late := time.NewTimer(dnsPatience)
	defer late.Stop()
	select {
	case <-r.link.Ready():
	case <-ctx.Done():
	case <-done:
	case <-late.C:
		r.cfg.Log.Error("DNS does not answer yet, the other services are started", "err", r.Err())
	}
}

// StopForGood tells the DNS process that this node was removed from the cluster.
func (r *Resolver) StopForGood() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r.link.StopForGood(ctx)
}

// Addrs returns where DNS listens: as reported by the process, or as configured until it has reported.
func (r *Resolver) Addrs() []netip.AddrPort {
	if at := r.link.Addrs(); at != nil {
		return at
	}
	return r.cfg.Listen
}

// Stats returns the counters of DNS.
func (r *Resolver) Stats() dnssrv.Stats { return r.link.Stats() }

// Needs signals that Refresh must be called because the DNS process needs the whole state.
func (r *Resolver) Needs() <-chan struct{} { return r.needs }

// Changed signals that RefreshNames must be called because names have changed in the tree.
func (r *Resolver) Changed() <-chan struct{} { return r.answers.changed }
