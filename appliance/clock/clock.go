// Package clock tells whether this machine's clock can be right: before init, join and restore make certificates that
// begin now, and while the daemon runs, when the clock jumps.
//
// An isolated machine has nobody to ask. What it can know is in Evidence; of that, only the date of this program is
// proof. The rest are doubts, which an operator decides.
package clock

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Evidence is what the machine knows about the time besides its clock. Zero times are unknown.
type Evidence struct {
	Now   time.Time // the clock
	Built time.Time // when the newest change of this program was made
	// Hardware is the clock that a battery keeps going.
	Hardware time.Time
	// Written is when File was written, the newest of the files that a system writes while it runs.
	Written time.Time
	File    string
	// Free reports that no time server keeps the clock right, as far as the kernel knows.
	Free bool
}

const (
	// slack is more than clocks differ by that are right: a hardware clock may keep any zone's local time.
	slack = 26 * time.Hour
	// oldProgram is how old a program may be before it is more likely that the clock is ahead.
	oldProgram = 3 * 365 * 24 * time.Hour
)

// floor is when the first version was made, for programs that do not know their date.
var floor = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Wrong returns why the clock cannot be right; nil if it can.
func (e Evidence) Wrong() error {
	built := e.Built
	if built.Before(floor) {
		built = floor
	}
	if e.Now.IsZero() || !e.Now.Before(built.Add(-slack)) {
		return nil
	}
	return fmt.Errorf("the clock of this machine shows %s, but this program was made on %s: certificates would begin "+
		"at the wrong time, and clients with a correct clock would refuse them; set the clock (timedatectl set-time "+
		"'YYYY-MM-DD hh:mm:ss'), or, if it is right, add --clock-is-right", show(e.Now), show(built))
}

// Doubts returns why the clock may be wrong, sentences for an operator.
func (e Evidence) Doubts() (list []string) {
	if e.Now.IsZero() {
		return nil
	}
	doubt := func(format string, args ...any) {
		list = append(list, fmt.Sprintf("the clock of this machine shows %s, but ", show(e.Now))+
			fmt.Sprintf(format, args...)+": if the clock is wrong, set it, remove the data directory and start again, "+
			"because certificates begin now")
	}
	if apart := e.Now.Sub(e.Hardware); !e.Hardware.IsZero() && apart.Abs() > slack && !e.Hardware.Before(floor) {
		doubt("its hardware clock shows %s", show(e.Hardware))
	}
	if e.Written.Sub(e.Now) > slack {
		doubt("%s was written on %s", e.File, show(e.Written))
	}
	if !e.Built.IsZero() && e.Now.Sub(e.Built) > oldProgram {
		doubt("this program was made on %s, %d years before", show(e.Built), int(e.Now.Sub(e.Built)/(365*24*time.Hour)))
	}
	if len(list) == 0 && e.Free {
		list = append(list, fmt.Sprintf("no time server keeps the clock of this machine right; it shows %s: "+
			"certificates begin now, and machines whose clocks are more than a day behind refuse them", show(e.Now)))
	}
	return list
}

func show(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// systemFiles are files and directories that every running system writes, at shutdown, at logins or with updates.
var systemFiles = []string{
	"var/lib/systemd/timesync/clock", "var/lib/systemd/random-seed", "var/log/wtmp", "var/log/lastlog",
	"var/log/journal", "var/lib/dpkg/status", "var/lib/rpm", "etc/machine-id", "etc/resolv.conf",
}

// Gather reads what this machine knows. built is the date of this program.
func Gather(now, built time.Time) Evidence {
	e := gather("/", now, built)
	e.Free = free()
	return e
}

// gather reads the files below root.
func gather(root string, now, built time.Time) Evidence {
	e := Evidence{Now: now, Built: built}
	if text, err := os.ReadFile(filepath.Join(root, "sys/class/rtc/rtc0/since_epoch")); err == nil {
		if s, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			e.Hardware = time.Unix(s, 0)
		}
	}
	for _, name := range systemFiles {
		name = filepath.Join(root, name)
		if info, err := os.Stat(name); err == nil && info.ModTime().After(e.Written) {
			e.Written, e.File = info.ModTime(), name
		}
	}
	return e
}
