package service

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// UnitState is what systemd says of a unit of the daemon's, in systemd's words (systemctl show).
type UnitState struct {
	Unit    string
	Active  string // active, inactive, failed, activating, …
	Sub     string // running, auto-restart, …
	Result  string // success, exit-code, resources, …
	Enabled string // enabled, disabled, masked, …; "" if systemd cannot tell
	Exit    int    // the exit code of a service's last process; 0 if there was none
}

// Units are the daemon's units, what an operator starts first.
func Units() []string {
	list := []string{Unit, "casemate-dns.service"}
	for _, s := range sockets {
		list = append(list, "casemate-"+s.name+".socket")
	}
	return list
}

// States asks systemd for the states of the daemon's units. None where the packaged unit is not installed.
func States(ctx context.Context) ([]UnitState, error) {
	if there, err := installed("/"); err != nil || !there {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "systemctl", slices.Concat([]string{"show", "--no-pager", "-p",
		"Id,LoadState,ActiveState,SubState,Result,UnitFileState,ExecMainStatus"}, Units())...).Output()
	if err != nil {
		return nil, fmt.Errorf("systemctl show: %w", err)
	}
	return parseStates(string(out)), nil
}

// parseStates reads what systemctl show prints: blocks of KEY=VALUE with an empty line between them.
func parseStates(text string) (list []UnitState) {
	for block := range strings.SplitSeq(text, "\n\n") {
		var u UnitState
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			switch key {
			case "Id":
				u.Unit = value
			case "ActiveState":
				u.Active = value
			case "SubState":
				u.Sub = value
			case "Result":
				u.Result = value
			case "UnitFileState":
				u.Enabled = value
			case "ExecMainStatus":
				u.Exit, _ = strconv.Atoi(value)
			}
		}
		if u.Unit != "" {
			list = append(list, u)
		}
	}
	return list
}
