package admin

import (
	"net/http"

	"casemate/appliance/access"
	"casemate/cluster"
)

// upkeepRoutes serves the upkeep of the disk, and backups.
func (a *API) upkeepRoutes(on *routes) {
	on.json("POST /v1/gc", to(access.Operate), a.postGC)
	on.json("POST /v1/scrub", to(access.Operate), a.postScrub)
	on.stream("POST /v1/backup", to(access.Administer), a.postBackup)
}

func (a *API) postGC(r *http.Request) (any, error) {
	dry := r.URL.Query().Get("dry_run") == "true"
	collect := a.Cluster.GC
	if r.URL.Query().Get("now") == "true" {
		collect = a.Cluster.GCNow
	}
	rep, err := collect(r.Context(), dry)
	if err != nil {
		return nil, err
	}
	return struct {
		Blobs  int   `json:"blobs"`
		Bytes  int64 `json:"bytes"`
		Kept   int   `json:"kept"`
		DryRun bool  `json:"dry_run"`
		cluster.GCReport
	}{
		Blobs: rep.Blobs + rep.Orphans, Bytes: rep.RemovedBytes, Kept: a.Cluster.Status().Blobs, DryRun: dry,
		GCReport: rep,
	}, nil
}

func (a *API) postScrub(r *http.Request) (any, error) {
	rep, err := a.Cluster.Scrub(r.Context())
	if err != nil {
		return nil, err
	}
	return struct {
		Checked  int      `json:"checked"`
		Bytes    int64    `json:"bytes"`
		Damaged  []string `json:"damaged"`
		Repaired int      `json:"mended"`
		Missing  []string `json:"missing"`
	}{rep.Blobs, rep.Bytes, append([]string{}, rep.Damaged...), rep.Repaired, append([]string{}, rep.Missing...)}, nil
}
