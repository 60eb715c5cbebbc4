package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"casemate/dnssrv/process"
)

// notify notifies systemd (sd_notify(3)); without systemd it does nothing.
func (a *Appliance) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.log.Warn("systemd cannot be notified", "state", strings.ReplaceAll(state, "\n", " "), "err", err)
	}
}

func (a *Appliance) notifyReloading() {
	a.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// watchdog notifies systemd at a quarter of the interval that this node is alive, after checking the services that
// clients use. If the node does not answer, systemd is not notified and restarts it. A check may take half the
// interval: with more clients than cores every step waits for all of them (1 000 pulls at the full speed of two
// cores: seconds), and a restart would then disconnect all of them.
func (a *Appliance) watchdog(ctx context.Context) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		a.log.Warn("systemd's watchdog cannot be used", "err", err)
	}
	if interval <= 0 {
		return nil
	}
	tick := time.NewTicker(interval / 4)
	defer tick.Stop()
	for {
		probe, cancel := context.WithTimeout(ctx, interval/2)
		if err := a.alive(probe); err == nil {
			a.notify(daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			a.log.Error("this node does not answer its own requests", "err", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// alive sends requests like a client's to this node: a page over the admin socket (the HTTP servers and the tree) and
// a name over UDP. If systemd runs DNS as a separate unit, that has its own watchdog.
func (a *Appliance) alive(ctx context.Context) error {
	if err := a.cluster.Err(); err != nil {
		return err
	}
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", a.socks.Admin.Addr().String())
			},
		},
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/v1/settings", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("http: status %s", resp.Status)
	}
	for _, addr := range a.socks.Addrs().DNS {
		if err := process.Ask(ctx, addr, a.current.State().Settings.Domain); err != nil &&
			!errors.Is(err, process.ErrNotHere) {
			return fmt.Errorf("dns at %s: %w", addr, err)
		}
	}
	return nil
}
