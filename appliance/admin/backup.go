package admin

import (
	"encoding/json"
	"io"
	"net/http"

	"casemate/cluster"
)

// ReportTrailer is the trailer of POST /v1/backup: a cluster.BackupReport in JSON. Without it the backup is
// incomplete.
const ReportTrailer = "Casemate-Report"

// postBackup streams a backup. An error in the middle aborts the connection, so that no client takes an incomplete
// backup for a complete one.
func (a *API) postBackup(w http.ResponseWriter, r *http.Request) {
	var in backupBody
	if err := read(r, &in); err != nil {
		a.adminError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", ReportTrailer)
	out := &startedWriter{w: w}
	rep, err := a.Cluster.Backup(r.Context(), out,
		cluster.BackupOptions{NoBlobs: in.NoBlobs, Passphrase: in.Passphrase, Recipients: in.Recipients})
	var text []byte
	if err == nil {
		text, err = json.Marshal(rep)
	}
	switch {
	case err == nil:
		w.Header().Set(ReportTrailer, string(text))
	case out.started:
		a.Log.Error("backup cut off", "err", err)
		panic(http.ErrAbortHandler)
	default:
		w.Header().Del("Trailer")
		a.adminError(w, r, err)
	}
}

// startedWriter records whether anything was written.
type startedWriter struct {
	w       io.Writer
	started bool
}

func (b *startedWriter) Write(p []byte) (int, error) {
	b.started = true
	return b.w.Write(p)
}
