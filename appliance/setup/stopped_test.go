package setup

import (
	"strings"
	"testing"

	"casemate/appliance/service"
)

func TestStoppedByUnit(t *testing.T) {
	main, dns, http := service.Unit, "casemate-dns.service", "casemate-http.socket"
	for _, c := range []struct {
		name   string
		states []service.UnitState
		says   string
	}{
		{"it never was enabled", []service.UnitState{{Unit: main, Active: "inactive", Sub: "dead", Result: "success",
			Enabled: "disabled"}},
			"systemctl enable --now casemate.service"},
		{"it fails again and again", []service.UnitState{{Unit: main, Active: "activating", Sub: "auto-restart",
			Result: "exit-code", Enabled: "enabled"}},
			"casemate.service failed (exit-code): journalctl -n 20 -u casemate.service says why"},
		{"it was started before init, and nobody has started it since", []service.UnitState{{Unit: main,
			Active: "failed", Sub: "failed", Result: "exit-code", Enabled: "enabled", Exit: service.ExitNoNode}},
			"the last start was before casemate init or join: systemctl enable --now casemate.service"},
		{"it comes up", []service.UnitState{{Unit: main, Active: "activating", Sub: "start", Result: "success",
			Enabled: "enabled"}},
			"is starting"},
		{"a socket failed", []service.UnitState{{Unit: main, Active: "inactive", Enabled: "enabled"}, {
			Unit: http, Active: "failed", Result: "resources"}},
			"casemate-http.socket failed (resources)"},
		{"somebody masked DNS", []service.UnitState{{Unit: main, Active: "inactive", Enabled: "enabled"}, {
			Unit: dns, Active: "inactive", Enabled: "masked"}},
			"systemctl unmask casemate-dns.service"},
		{"it was stopped", []service.UnitState{{Unit: main, Active: "inactive", Sub: "dead", Result: "success",
			Enabled: "enabled"}}, ""},
	} {
		err := stoppedByUnit(c.states)
		if (c.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: it says %v, expected %q", c.name, err, c.says)
		}
	}
}
