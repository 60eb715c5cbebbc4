package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"casemate/appliance/admin"
	"casemate/cluster"
)

// A backup that the daemon cannot bring to its end never has its name, and leaves what stood there before as it was.
func TestHalfABackupHasNoName(t *testing.T) {
	for what, test := range map[string]struct {
		end  func(w http.ResponseWriter)
		want string
	}{
		"cut off": {func(http.ResponseWriter) {
			panic(http.ErrAbortHandler)
		}, "the daemon cut the answer off"},
		"ended too early":   {func(http.ResponseWriter) {}, "has no end"},
		"report is no JSON": {func(w http.ResponseWriter) { w.Header().Set(admin.ReportTrailer, "{") }, "has no end"},
	} {
		t.Run(what, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "cm") // a socket's path is short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", admin.ReportTrailer)
				fmt.Fprint(w, strings.Repeat("half ", 10_000))
				w.(http.Flusher).Flush()
				test.end(w)
			})}
			done := make(chan struct{})
			go func() { defer close(done); s.Serve(l) }()
			t.Cleanup(func() { s.Close(); <-done })
			out := t.TempDir()
			file, pass := filepath.Join(out, "b.tar"), filepath.Join(dir, "pass")
			for name, text := range map[string]string{file: "yesterday's", pass: "correct horse battery\n"} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var stdout, stderr bytes.Buffer
			code := run([]string{"backup", file, "--passphrase-file", pass, "--socket", filepath.Join(dir, "s")}, nil,
				&stdout, &stderr)
			if code != exitFailed || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("%d %s", code, &stderr)
			}
			list, err := os.ReadDir(out)
			if data, rerr := os.ReadFile(file); err != nil || len(list) != 1 || string(data) != "yesterday's" {
				t.Errorf("%v, %q, %v, %v", list, data, err, rerr)
			}
		})
	}
}

func TestRecoveryCosts(t *testing.T) {
	for _, test := range []struct {
		r    cluster.RecoverReport
		want []string
		not  string
	}{
		{cluster.RecoverReport{Node: "n1", Voter: true}, []string{"n1 is a cluster of one already"}, "lost"},
		{
			cluster.RecoverReport{Node: "n1", Lost: []string{"n2", "n3"}, Voter: true, Committed: 10, Last: 12,
				Missing: 3},
			[]string{"given up: n2, n3", "their number is unknown",
				"2 log entries, 11 to 12, are not known here to be " +
					"committed", "3 named blobs are not on this disk"}, "no voter",
		},
		{cluster.RecoverReport{Node: "n1", Lost: []string{"n2"}, Voter: true, Committed: 11, Last: 12, Missing: 1},
			[]string{"1 log entry, 12, is not known here", "1 named blob is not on this disk"}, "1 log entries"},
		{cluster.RecoverReport{Node: "n4", Lost: []string{"n2"}, Committed: 12, Last: 12},
			[]string{"n4 was not a voter", "every named blob is on this disk"}, "log entries"},
	} {
		got := strings.Join(recoveryCosts(test.r), "\n")
		for _, w := range test.want {
			if !strings.Contains(got, w) {
				t.Errorf("%q is not in:\n%s", w, got)
			}
		}
		if strings.Contains(got, test.not) {
			t.Errorf("%q is in:\n%s", test.not, got)
		}
	}
}
