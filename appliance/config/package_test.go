package config

import (
	"bytes"
	"os"
	"testing"
)

// The packaged config sets nothing, so that init replaces it with the config of the host.
func TestPackagedConfigIsBlank(t *testing.T) {
	const path = "../../packaging/casemate.yaml"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := (&Config{}).YAML(); !bytes.Equal(data, want) {
		t.Errorf("%s is not what an empty Config writes:\n%s", path, want)
	}
	if blank, err := Blank(path); err != nil || !blank {
		t.Errorf("%s is not blank (%v)", path, err)
	}
}
