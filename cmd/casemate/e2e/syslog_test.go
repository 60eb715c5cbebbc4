//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const rsyslogConf = `global(workDirectory="DIR" maxMessageSize="64k")
main_queue(queue.type="Direct")
module(load="imtcp")
input(type="imtcp" address="ADDRESS" port="514")
template(name="message" type="string" string="%msg%\n")
action(type="omfile" file="DIR/events" template="message")
`

// receiver is a host where rsyslog writes the messages that it gets into a file, one a line.
type receiver struct {
	*host
	starts int
	daemon *exec.Cmd
}

// newReceiver starts rsyslog, and the bastion sends it the events of its audit log.
func newReceiver(t *testing.T, b *bastion) *receiver {
	t.Helper()
	r := &receiver{host: b.lab.host("log", "")}
	r.write("rsyslog.conf", strings.NewReplacer("DIR", r.dir, "ADDRESS", r.ip).Replace(rsyslogConf))
	r.start(t)
	b.casemate(t, "audit", "forward", "set", "tcp://"+r.ip)
	until(t, "rsyslog receives events", func() error {
		_, err := os.Stat(r.path("events"))
		return err
	})
	return r
}

func (r *receiver) start(t *testing.T) {
	t.Helper()
	r.starts++
	r.daemon = r.host.daemon(t, fmt.Sprint("rsyslog", r.starts), "/usr/sbin/rsyslogd", "-n", "-f",
		r.path("rsyslog.conf"), "-i", r.path(fmt.Sprint("pid", r.starts)))
}

// event is what tests read of an event.
type event struct {
	N             uint64
	Verb, Outcome string
}

// check waits until rsyslog has every event that the bastion has now. They must be in order: an event that comes again
// comes with those after it.
func (r *receiver) check(t *testing.T, b *bastion) {
	t.Helper()
	var page struct{ Events []event }
	if err := json.Unmarshal([]byte(b.casemate(t, "audit", "list", "--limit", "10000", "-o", "json")),
		&page); err != nil {
		t.Fatal(err)
	}
	most := page.Events[len(page.Events)-1].N
	until(t, "rsyslog has all events", func() error {
		text, err := os.ReadFile(r.path("events"))
		if err != nil {
			return err
		}
		next, last, again := uint64(0), uint64(0), 0
		for line := range strings.Lines(string(text)) {
			if !strings.HasSuffix(line, "\n") {
				break // it is being written
			}
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("rsyslog has written %q: %v", line, err)
			}
			switch {
			case e.N > next:
				t.Fatalf("rsyslog has event %d, and not %d", e.N, next)
			case e.N == next:
				next++
			case e.N <= last:
				again++
			case e.N != last+1:
				t.Fatalf("rsyslog has event %d after %d", e.N, last)
			}
			last = e.N
		}
		if next <= most {
			return fmt.Errorf("it has the events before %d, there are %d", next, most+1)
		}
		if again > r.starts {
			t.Errorf("events were sent again %d times, the receiver was started %d times", again, r.starts)
		}
		return nil
	})
	lost := false
	for _, e := range page.Events {
		lost = lost || e.Verb == "audit.forward" && e.Outcome != ""
	}
	if !lost {
		t.Error("the loss of the receiver is no event")
	}
}
