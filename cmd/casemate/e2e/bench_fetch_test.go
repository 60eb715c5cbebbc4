//go:build bench

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// proxied runs distribution as a pull-through cache of a registry of the internet.
func proxied(t testing.TB, l *lab, up *internet, registry string) server {
	t.Helper()
	h := l.host("proxy", "")
	h.trust(up.pem)
	h.write("etc/hosts", "127.0.0.1 localhost\n"+up.ip+" "+registry+"\n")
	conf := h.write("config.yml", fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q, secret: x}\nproxy: {remoteurl: \"https://%s\"}\n",
		h.path("data"), h.at("80"), registry))
	cmd := h.daemon(t, "registry", "env", "OTEL_TRACES_EXPORTER=none", client(t, "registry"), "serve", conf)
	s := server{name: "distribution", pid: cmd.Process.Pid, http: "http://" + h.ip}
	until(t, "distribution answers", func() error {
		out, err := h.try("curl", "-sSf", s.http+"/v2/")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return s
}

// TestBenchFetch compares pulls through a cache from one registry: of a large image that is not there yet, and of one
// that is, which should cost what an image of one's own costs.
func TestBenchFetch(t *testing.T) {
	const registry, mib = "registry.k8s.io", 64
	l := newLab(t)
	up := newInternetWithout(t, l)
	images := make([]v1.Image, rounds+1)
	for i := range images {
		images[i] = randomImage(t, mib<<20, 1)
		up.put(t, fmt.Sprintf("%s/bench/big:%d", registry, i), images[i])
	}
	b := newBastion(t, l, "n1", "--set", "upstream.resolvers="+up.resolver(t), "--set", "upstream=on")
	proc := b.serve(t)
	b.casemate(t, "config", "set", "upstream.ca", "--from", b.write("internet.pem", up.pem))
	node := l.host("node", "")
	ours := server{name: "casemate", pid: proc.Process.Pid, http: "http://" + b.ip}
	servers := []server{ours, proxied(t, l, up, registry)}

	// pull is the image's manifest by tag and its layer.
	pull := func(s server, i int) time.Duration {
		began := time.Now()
		get := func(path string) string {
			return node.must(t, "curl", "-sSf", "-H", "Host: "+registry, "-H", "Accept: "+
				"application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json",
				"-w", "\n%{size_download}", s.http+path)
		}
		manifest, _, _ := strings.Cut(get(fmt.Sprintf("/v2/bench/big/manifests/%d", i)), "\n")
		var m struct{ Layers []v1.Descriptor }
		if err := json.Unmarshal([]byte(manifest), &m); err != nil || len(m.Layers) != 1 {
			t.Fatalf("%s: %v %s", s.name, err, manifest)
		}
		out := node.must(t, "curl", "-sSf", "-H", "Host: "+registry, "-o", os.DevNull, "-w", "%{size_download}",
			s.http+"/v2/bench/big/blobs/"+m.Layers[0].Digest.String())
		if size, _ := strconv.ParseInt(out, 10, 64); size != m.Layers[0].Size {
			t.Fatalf("%s sent %s bytes of %d", s.name, out, m.Layers[0].Size)
		}
		return time.Since(began)
	}
	measure := func(what string, limits [2]float64, image func(round int) int) {
		took, cpu := map[string][]float64{}, map[string][]float64{}
		for i := range rounds {
			for _, s := range servers {
				before := s.cpu(t)
				took[s.name] = append(took[s.name], pull(s, image(i)).Seconds())
				time.Sleep(time.Second) // it is stored after the client has it
				cpu[s.name] = append(cpu[s.name], (s.cpu(t)-before).Seconds()*1024/mib)
			}
		}
		for _, s := range servers {
			fmt.Printf("BENCH pull through, %-4s  %-12s %6.3f s  %6.3f s CPU/GiB\n", what, s.name, median(took[s.name]),
				median(cpu[s.name]))
		}
		less("pull through a cache, "+what+", 64 MiB", "s", medians(took), limits[0])
		less("pull through a cache, "+what, "s CPU a GiB", medians(cpu), limits[1])
	}
	pull(ours, rounds) // logs in
	pull(servers[1], rounds)
	measure("cold", [2]float64{1, 1}, func(i int) int { return i })
	measure("warm", [2]float64{1, 1}, func(int) int { return 0 })

	// What was fetched costs what every image costs: the same requests with fetching off.
	digest, err := images[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string][]float64{}
	for range rounds {
		for _, setting := range []string{"on", "off"} {
			b.casemate(t, "config", "set", "upstream", setting)
			for what, path := range map[string]string{"tag": "manifests/0", "digest": "manifests/" + digest.String()} {
				before := ours.cpu(t)
				out := node.must(t, "wrk", "-t2", "-c16", "-d2s", "-H", "Host: "+registry,
					ours.http+"/v2/bench/big/"+path)
				spent := ours.cpu(t) - before
				_, rest, _ := strings.Cut(out, "Requests/sec:")
				rate, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil || strings.Contains(out, "Non-2xx") {
					t.Fatal(out)
				}
				used[what+setting] = append(used[what+setting], spent.Seconds()*1e6/rate/2)
			}
		}
	}
	for _, what := range []string{"tag", "digest"} {
		on, off := median(used[what+"on"]), median(used[what+"off"])
		fmt.Printf("BENCH manifest by %-6s  fetched before %5.1f us CPU, with fetching off %5.1f: %.2f\n", what, on,
			off, on/off)
		report(row{what: "manifest by " + what + " that was fetched", unit: "µs CPU a request", ours: on,
			peer: "fetching off", best: off, factor: 1.2})
	}
}
