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

// JoinOptions are what join is given besides the node's config.
type JoinOptions struct {
	// Token is what `casemate token create` printed.
	Token string
	// Addr is the peer address of any member, host or host:port.
	Addr string
	// Version is the program's, which the other nodes show.
	Version string
	// Wait goes on trying, until the context ends, while the cluster has no majority.
	Wait bool
	// ConfigFile is where the config is written if there is no file; "" writes none.
	ConfigFile string
	// Given is what flags say: node, data and advertise are added to a config file that does not set them.
	Given config.Config
	// Log gets one line per change of state. nil: nothing is logged.
	Log *slog.Logger
}

// Join makes this node a member of the cluster to which the token belongs: its data directory, with its identity and
// the keys, and its config if there is none. It starts nothing: the content comes when the node is served. A Join that
// was cut short is taken up again by the next one, with the same token.
func Join(ctx context.Context, cfg config.Config, opt JoinOptions) (p Prepared, err error) {
	token, err := cluster.ParseToken(opt.Token)
	if err != nil {
		return p, &usage.Error{Err: err}
	}
	if cfg.PeerListen().Port() == 0 {
		return p, usage.Errorf("listen.peer must name a port: the other nodes have to find this one there")
	}
	addr, err := config.PeerAddr(opt.Addr)
	if err != nil {
		return p, err
	}
	if err := checkDataDir(cfg.Data); err != nil {
		return p, err
	}
	log := orDiscard(opt.Log)
	cc := ClusterConfig(cfg, log)
	cc.PeerAddr, cc.Version = cfg.PeerDial(cfg.PeerListen()), opt.Version
	return prepare(cfg, opt.Given, opt.ConfigFile, func() error {
		for {
			err := cluster.Join(ctx, cc, addr, token)
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
}

func again(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ECONNREFUSED)
}
