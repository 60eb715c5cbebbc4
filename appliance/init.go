package appliance

import (
	"casemate/appliance/origin"
	"casemate/pki"
)

// publicZones are the zones that the root permits: those of pki and every built-in origin, which may lie outside of them.
func publicZones() []string {
	zones := pki.PublicZones()
	for _, o := range origin.Builtin() {
		zones = append(zones, o.Names()...)
	}
	return zones
}
