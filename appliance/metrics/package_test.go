package metrics

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// notShown are the metrics that the dashboard does not show, with the reason.
var notShown = map[string]string{
	"casemate_info":                           "labels only",
	"casemate_disk_bytes":                     "constant; an alert uses it",
	"casemate_import_seconds_total":           "for queries of a slow import",
	"casemate_missing_dropped_total":          "for queries under attack",
	"casemate_raft_leader":                    "shown as whether a leader is known",
	"casemate_raft_term":                      "for queries after elections",
	"casemate_scrub_blobs_total":              "progress of a scrub, which status shows",
	"casemate_scrub_bytes_total":              "progress of a scrub, which status shows",
	"casemate_scrub_due_blobs":                "progress of a scrub, which status shows",
	"casemate_scrub_oldest_timestamp_seconds": "progress of a scrub, which status shows",
	"casemate_scrub_repaired_total":           "the number of faults is shown",
	"casemate_tree_blob_bytes":                "the free space is shown",
}

// The dashboard shows every metric, but for those that have a reason.
func TestDashboardShowsMetrics(t *testing.T) {
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	dashboard, err := os.ReadFile("../../packaging/grafana/casemate.json")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bcasemate_[a-z_]+`).FindAllString(string(dashboard), -1) {
		shown[strings.TrimSuffix(name, "_bucket")] = true
	}
	for name := range named(string(source)) {
		if shown[name] == (notShown[name] != "") {
			t.Errorf("%s: shown %v, reason not to show it %q", name, shown[name], notShown[name])
		}
	}
}

// named returns the names of the metrics in a source.
func named(source string) map[string]bool {
	there := map[string]bool{}
	names := regexp.MustCompile(`Name: +"(casemate_[a-z_]+)"|(?:desc|counter)\("([a-z_]+)"`)
	for _, m := range names.FindAllStringSubmatch(source, -1) {
		if m[1] != "" {
			there[m[1]] = true
		} else {
			there["casemate_"+m[2]] = true
		}
	}
	return there
}

// Alerts and dashboard name metrics that there are.
func TestPackagedMetricsExist(t *testing.T) {
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	there := named(string(source))
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
