package main

import (
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestServesWithoutALogReader: what reads standard output and standard error of the daemon ends (systemd's journal was
// stopped), and the daemon serves on, is told to stop, and stops cleanly.
func TestServesWithoutALogReader(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	d.run("init", "--config", d.config)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	d.cmd = exec.Command(d.binary, "serve", "--config", d.config)
	d.cmd.Stdout, d.cmd.Stderr = writer, writer
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	exited, cmd := make(chan struct{}), d.cmd
	d.exited = exited
	var ended error
	go func() { ended = cmd.Wait(); close(exited) }()
	serves := func() {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			resp, err := http.Get("http://" + d.plain + "/readyz")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return
				}
			}
			select {
			case <-exited:
				t.Fatalf("the daemon ended: %v", ended)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("the daemon does not serve: %v", err)
			}
		}
	}
	serves()
	d.run("reload") // it logs
	serves()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// All lines have been written by then, each to a pipe without a reader.
	if <-exited; ended != nil {
		t.Errorf("the daemon ended by %v", ended)
	}
}
