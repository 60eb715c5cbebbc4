package audit

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"casemate/appliance/audit/proof"
	"casemate/appliance/audit/syslog"
	"casemate/cluster"
	"casemate/cluster/tree"
)

// Forwarder sends the log to a syslog receiver, from the node that leads. The log itself is the spool: the cluster
// remembers up to which event the receiver has all (positionName), so while events are retained none is lost, and a
// receiver that is down blocks nothing.
type Forwarder struct {
	Log *Log
	// Target returns where to send; false: nowhere.
	Target func() (syslog.Target, bool)
	// Roots verify a receiver with TLS.
	Roots func() *x509.CertPool

	// Times that tests shorten; 0 is the constant of that name.
	look, retry, settle, save time.Duration

	mu    sync.Mutex
	state ForwardStatus
}

// ForwardStatus is how forwarding goes on this node; only the node that leads sends.
type ForwardStatus struct {
	Target string    `json:"target"` // host:port; "": events are not forwarded
	Sends  bool      `json:"sends"`  // this node does
	Next   uint64    `json:"next"`   // the first event that the receiver may not have
	Behind uint64    `json:"behind"` // how many these are
	Error  string    `json:"error,omitempty"`
	Since  time.Time `json:"since,omitzero"` // of the error
}

const (
	positionName = "audit/forwarded"

	lookEvery  = time.Second // for new events
	retryEvery = 10 * time.Second
	// settleTime is how long a connection must live on after an event was sent, until it counts as received.
	settleTime = 3 * time.Second
	saveEvery  = 10 * time.Second
	sendMost   = 256 << 10 // bytes at once
)

// position is the record of what the receiver has.
type position struct {
	Target string `json:"target"`
	Next   uint64 `json:"next"`
	// Lost is set while the receiver does not answer, so that its loss is one event.
	Lost bool `json:"lost,omitempty"`
}

func (f *Forwarder) read() (p position, version uint64, err error) {
	info, err := f.Log.cfg.Tree.Stat(positionName)
	if errors.Is(err, fs.ErrNotExist) {
		return p, 0, nil
	}
	if err != nil {
		return p, 0, err
	}
	data, err := f.Log.cfg.Tree.ReadFile(positionName)
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	return p, tree.VersionOf(info), err
}

// store stores the position, and with it an event, if it has a verb.
func (f *Forwarder) store(ctx context.Context, p position, version uint64, told tree.Event) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if told.Verb != "" {
		ctx = tree.WithEvent(ctx, told)
	}
	return f.Log.cfg.Tree.Update(ctx, func(b cluster.Batch) error {
		b.Expect(positionName, version)
		b.Put(positionName, data)
		return nil
	})
}

// Status returns how forwarding goes.
func (f *Forwarder) Status() ForwardStatus {
	f.mu.Lock()
	s := f.state
	f.mu.Unlock()
	target, on := f.Target()
	if !on {
		return ForwardStatus{}
	}
	s.Target = target.Addr()
	if p, _, err := f.read(); err == nil && p.Target == s.Target {
		s.Next = max(s.Next, p.Next)
	}
	s.Behind = f.Log.cfg.Cluster.EventLog().Tree().Size() - s.Next
	return s
}

func (f *Forwarder) failed(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.state.Error, f.state.Since = "", time.Time{}
	} else if f.state.Error == "" {
		f.state.Error, f.state.Since = err.Error(), f.Log.cfg.Now()
	}
}

func (f *Forwarder) note(sends bool, next uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Sends, f.state.Next = sends, next
}

// Run sends until ctx is done.
func (f *Forwarder) Run(ctx context.Context) error {
	for {
		wait := cmp.Or(f.look, lookEvery)
		s := f.Log.cfg.Cluster.Status()
		target, on := f.Target()
		if on && s.Leader == s.Node {
			err := f.session(ctx, target)
			if ctx.Err() == nil && err != nil {
				f.lost(ctx, target, err)
				wait = cmp.Or(f.retry, retryEvery)
			}
		} else {
			f.note(false, 0)
			f.failed(nil)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// lost records once that the receiver does not answer.
func (f *Forwarder) lost(ctx context.Context, target syslog.Target, why error) {
	f.failed(why)
	p, version, err := f.read()
	if err != nil || p.Lost && p.Target == target.Addr() {
		return
	}
	if p.Target != target.Addr() {
		p.Next = 0
	}
	p.Target, p.Lost = target.Addr(), true
	f.Log.cfg.Log.Warn("the audit log cannot be forwarded, retrying", "to", p.Target, "err", why)
	f.store(ctx, p, version, tree.Event{Verb: "audit.forward", Object: p.Target, Outcome: why.Error()})
}

// session sends over one connection until it breaks, another node leads, or the target changes (nil).
func (f *Forwarder) session(ctx context.Context, target syslog.Target) error {
	p, version, err := f.read()
	if err != nil {
		return err
	}
	conn, err := syslog.Dial(ctx, target, f.Roots())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if p.Target != target.Addr() || p.Lost {
		told := tree.Event{Verb: "audit.forward", Object: target.Addr(), New: "it receives events"}
		if p.Target != target.Addr() {
			p = position{Target: target.Addr()}
		}
		p.Lost = false
		if err := f.store(ctx, p, version, told); err != nil {
			return err
		}
		if _, version, err = f.read(); err != nil {
			return err
		}
	}
	next := max(p.Next, f.Log.dropped()) // what was dropped cannot be sent
	type mark struct {
		next uint64
		sent time.Time
	}
	var open []mark // sent, and not known to be received
	saved := f.Log.cfg.Now()
	tick := time.NewTicker(cmp.Or(f.look, lookEvery))
	defer tick.Stop()
	for {
		f.note(true, p.Next)
		data, to, err := f.frames(next)
		if err != nil {
			return err
		}
		if to > next {
			if err := conn.Send(data); err != nil {
				return err
			}
			next = to
			open = append(open, mark{next, time.Now()})
			f.failed(nil)
		}
		all, err := conn.Acknowledged()
		if err != nil {
			return err
		}
		for all && len(open) > 0 && time.Since(open[0].sent) > cmp.Or(f.settle, settleTime) {
			p.Next, open = open[0].next, open[1:]
		}
		if old, v, err := f.read(); err != nil || v != version {
			return err // another node sends, or the record was changed
		} else if now := f.Log.cfg.Now(); p.Next > old.Next && now.Sub(saved) > cmp.Or(f.save, saveEvery) {
			if err := f.store(ctx, p, version, tree.Event{}); err != nil {
				return err
			}
			if _, version, err = f.read(); err != nil {
				return err
			}
			saved = now
		}
		if s := f.Log.cfg.Cluster.Status(); s.Leader != s.Node {
			return nil
		}
		if now, on := f.Target(); !on || now != target {
			return nil
		}
		if len(data) >= sendMost {
			continue // there is more
		}
		select {
		case <-ctx.Done():
			return nil
		case <-conn.Gone():
			return errors.New("the receiver has closed the connection")
		case <-tick.C:
		}
	}
}

// frames returns messages of events from the number next on, and the number after the last one.
func (f *Forwarder) frames(next uint64) (data []byte, to uint64, err error) {
	l := f.Log
	add := func(line string) error {
		e, err := proof.Parse([]byte(line))
		if err != nil {
			return err
		}
		if e.N >= next && len(data) < sendMost {
			data, to = syslog.Append(data, e, line), e.N+1
		}
		return nil
	}
	to = next
	log := l.cfg.Cluster.EventLog()
	if next < log.First() {
		segment, err := l.segment(next / proof.SegmentEvents * proof.SegmentEvents)
		if err != nil {
			return nil, 0, err
		}
		for _, line := range splitLines(segment) {
			if err := add(string(line)); err != nil {
				return nil, 0, err
			}
		}
		return data, to, nil
	}
	for n, line := range log.Lines(next) {
		if len(data) >= sendMost {
			break
		}
		if err := add(line); err != nil {
			return nil, 0, fmt.Errorf("event %d: %w", n, err)
		}
	}
	return data, to, nil
}
