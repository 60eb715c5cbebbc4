package appliance

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The config of the packages says nothing, so that init writes the one of this host in its place.
func TestPackagedConfigIsBlank(t *testing.T) {
	const path = "../packaging/casemate.yaml"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := (&Config{}).YAML(); !bytes.Equal(data, want) || !BlankConfig(path) {
		t.Errorf("%s is not what an empty Config writes:\n%s", path, want)
	}
}

// Alerts and dashboard name metrics that there are.
func TestPackagedMetricsExist(t *testing.T) {
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`Name: "(casemate_[a-z_]+)"|desc\("([a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		there[m[1]], there["casemate_"+m[2]] = true, true
	}
	for _, file := range []string{"prometheus/casemate.rules.yml", "grafana/casemate.json"} {
		data, err := os.ReadFile(filepath.Join("../packaging", file))
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\bcasemate_[a-z_]+`).FindAllString(string(data), -1)
		if len(names) < 5 {
			t.Errorf("%s names only %q", file, names)
		}
		for _, name := range names {
			if !there[strings.TrimSuffix(name, "_bucket")] {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
}
