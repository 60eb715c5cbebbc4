package metrics

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Alerts and dashboard name metrics that there are.
func TestPackagedMetricsExist(t *testing.T) {
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	named := regexp.MustCompile(`Name: +"(casemate_[a-z_]+)"|(?:desc|counter)\("([a-z_]+)"`)
	for _, m := range named.FindAllStringSubmatch(string(source), -1) {
		there[m[1]], there["casemate_"+m[2]] = true, true
	}
	for _, file := range []string{"prometheus/casemate.rules.yml", "grafana/casemate.json"} {
		data, err := os.ReadFile(filepath.Join("../../packaging", file))
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
