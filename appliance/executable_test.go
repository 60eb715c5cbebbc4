package appliance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"

	"casemate/appliance/doctor"
	"casemate/appliance/pages"
	"casemate/appliance/setup"
	"casemate/bundle/format"
)

// TestTheProgramIsGivenOut: a node can download the running program, completely or from where a download stopped.
func TestTheProgramIsGivenOut(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip("not here: there is no /proc")
	}
	sum := sha256.Sum256(own)
	var e doctor.Executable
	n.must("GET", "executable", nil, &e)
	if e != (doctor.Executable{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(own)), OS: runtime.GOOS,
		Arch: runtime.GOARCH}) {
		t.Errorf("%+v", e)
	}
	resp, got := n.do("GET", "http://127.0.0.1/casemate", nil)
	if resp.StatusCode != 200 || resp.ContentLength != int64(len(own)) || got != string(own) ||
		resp.Header.Get("ETag") != `"`+e.SHA256+`"` {
		t.Errorf("%s %d %v", resp.Status, resp.ContentLength, resp.Header)
	}
	part := func(tag string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Range", "bytes=100-199"); r.Header.Set("If-Range", tag) }
	}
	if resp, got := n.do("GET", "http://127.0.0.1/casemate", nil,
		part(resp.Header.Get("ETag"))); resp.StatusCode != 206 || got != string(own[100:200]) {
		t.Error(resp.Status)
	}
	if resp, got := n.do("GET", "http://127.0.0.1/casemate", nil, part(`"an older one"`)); resp.StatusCode != 200 ||
		len(got) != len(own) {
		t.Error(resp.Status)
	}
	many := func(r *http.Request) { r.Header.Set("Range", "bytes="+strings.Repeat("0-0,2-2,", 7000)+"0-0") }
	if resp, got := n.do("GET", "http://127.0.0.1/casemate", nil, many); resp.StatusCode != 200 ||
		len(got) != len(own) {
		t.Error(resp.Status, len(got))
	}
	if resp, got := n.do("HEAD", "http://casemate.internal/casemate", nil); resp.StatusCode != 200 ||
		resp.ContentLength != int64(len(own)) || got != "" {
		t.Error(resp.Status, resp.ContentLength)
	}
	// the origin's name is the origin's
	if resp, _ := n.do("GET", "http://dl.k8s.io/casemate", nil); resp.StatusCode != 404 {
		t.Error(resp.Status)
	}
}

// TestSamples: the content proposed to doctor is stored, at an enabled origin.
func TestSamples(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg, func(a *Appliance) { a.samples.Age = -1 })
	ask := func() (s doctor.Sample) {
		resp, got := n.do("GET", "http://127.0.0.1/doctor.json", nil)
		if err := json.Unmarshal([]byte(got), &s); err != nil || resp.StatusCode != 200 {
			t.Errorf("%s %s %v", resp.Status, got, err)
		}
		return s
	}
	if s := ask(); s != (doctor.Sample{}) {
		t.Errorf("nothing is held, and it names %+v", s)
	}
	n.mustImport(newStick(t).image("registry.k8s.io/pause:3.10", []byte("small")).image("quay.io/team/large:1",
		bytes.Repeat([]byte("casemate"), pages.LargeSample/8)).image("bank.example.com/app:1", []byte("x")).
		file("https://dl.k8s.io/v1/tiny", "tiny").file("https://dl.k8s.io/v1/kubeadm",
		strings.Repeat("kubeadm ", 10<<10)).file("https://bank.example.com/f", strings.Repeat("f", pages.FileSample)).
		write("b.tar", format.WriteOptions{})...)
	if s, want := ask(), (doctor.Sample{Image: "registry.k8s.io/pause:3.10", File: "https://dl.k8s.io/v1/kubeadm",
		Large: "quay.io/team/large:1"}); s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	n.must("PUT", "settings/registry.anonymous", map[string]string{"value": "none"}, nil)
	if s := ask(); s.Image != "" || s.Large != "" {
		t.Errorf("images are not for everybody, and it names %+v", s)
	}
}
