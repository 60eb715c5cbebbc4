package main

import (
	"net/http"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	// lost URL|REF… says that the daemon knows each and does not have its bytes: no client takes it for a miss, or for
	// whole.
	storyCommands["lost"] = func(ts *testscript.TestScript, _ bool, args []string) {
		for _, name := range args {
			if !strings.HasPrefix(name, "https://") {
				if err := storyOf(ts).pull(ts, []string{name}); err == nil ||
					!strings.Contains(err.Error(), "damaged or lost") {
					ts.Fatalf("pull %s: %v", name, err)
				}
				continue
			}
			text, status, err := get(storyOf(ts).node(ts), name)
			ts.Check(err)
			head, err := (&http.Client{Transport: storyOf(ts).node(ts)}).Head(name)
			ts.Check(err)
			head.Body.Close()
			const want = http.StatusServiceUnavailable
			if status != want || head.StatusCode != want || !strings.Contains(string(text), "damaged or lost") {
				ts.Fatalf("%s: GET is %d, HEAD is %d: %s", name, status, head.StatusCode, text)
			}
		}
	}
}
