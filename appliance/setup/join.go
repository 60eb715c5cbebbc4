package setup

import (
	"context"
	"errors"
	"log/slog"
	"syscall"
	"time"

	"casemate/appliance/config"
	"casemate/appliance/usage"
	"casemate/cluster"
)

// JoinOptions are the options of Join besides the node's config.
type JoinOptions struct {
	// Token is the output of `casemate token create`.
	Token string
	// Addr is the peer address of any member, host or host:port.
	Addr string
	// Version is the program's version, which the other nodes show.
	Version string
	// Wait retries, until the context ends, while the cluster has no majority.
	Wait bool
	// ConfigFile is where the config is written if the file does not exist; "" writes none.
	ConfigFile string
	// Given is what flags say: node, data and advertise are added to a config file that does not set them.
	Given config.Config
	// Clock is what the machine knows of the time; the zero value checks nothing on this machine. Unless its Right is
	// set, the member refuses a machine whose clock is far from its own.
	Clock Clock
	// Log gets one line per change of state. nil: nothing is logged.
	Log *slog.Logger
}

// Join joins this node to the cluster that issued the token: it creates the data directory, with the node's identity
// and the keys, and writes the config if there is none. It starts nothing: the content is fetched when the node runs.
// Repeating an interrupted Join with the same token completes it.
func Join(ctx context.Context, cfg config.Config, opt JoinOptions) (p Prepared, err error) {
	token, err := cluster.ParseToken(opt.Token)
	if err != nil {
		return p, &usage.Error{Err: err}
	}
	for _, at := range cfg.PeerListen() {
		if at.Port() == 0 {
			return p, usage.Errorf("listen.peer must have a fixed port, because the other nodes connect to it")
		}
	}
	addr, err := config.PeerAddr(opt.Addr)
	if err != nil {
		return p, err
	}
	if err := checkDataDir(cfg.Data); err != nil {
		return p, err
	}
	doubts, err := opt.Clock.check()
	if err != nil {
		return p, err
	}
	log := orDiscard(opt.Log)
	cc := ClusterConfig(cfg, log)
	cc.AnyClock = opt.Clock.Right
	cc.PeerAddrs, cc.Version = cfg.PeerDial(cfg.PeerListen()), opt.Version
	for _, a := range cfg.Advertise {
		cc.Advertise = append(cc.Advertise, a.String())
	}
	var notes []string
	p, err = prepare(cfg, opt.Given, opt.ConfigFile, func() error {
		for {
			var err error
			notes, err = cluster.Join(ctx, cc, addr, token)
			if err == nil || !opt.Wait || !again(err) {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(time.Second):
			}
		}
	})
	p.Notes = append(doubts, notes...)
	return p, err
}

func again(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ECONNREFUSED)
}
