package setup

import (
	"testing"

	"casemate/appliance/origin"
	"casemate/pki"
)

// Every built-in origin must be one that a root with default constraints permits, or a fresh node would begin with
// disabled origins.
func TestTheRootPermitsEveryBuiltinOrigin(t *testing.T) {
	spec := pki.Spec{Domain: "casemate.internal", Public: publicZones()}
	for _, o := range origin.Builtin() {
		for _, n := range o.Names() {
			if err := spec.Permits(n); err != nil {
				t.Error(err)
			}
		}
	}
}
