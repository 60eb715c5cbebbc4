package lists

import (
	"io"
	"strings"
	"testing"
)

func TestManifests(t *testing.T) {
	runLists(t, (*Parser).Manifests, []listCase{
		{"empty", "", ""},
		{"only dividers", "---\n---\n# nothing\n---", ""},
		{"a pod", `apiVersion: v1
kind: Pod
spec:
  initContainers:
  - {name: a, image: "busybox"}
  containers:
  - name: b
    image: quay.io/a/b:2   # the main one
  - image: registry.k8s.io/c@sha256:` + hexA + `
  ephemeralContainers:
  - image: nginx:1@sha256:` + hexB + `
  volumes:
  - name: v
    image: {reference: "quay.io/data/set:v1", pullPolicy: Always}
`,
			"list:5 docker.io/library/busybox:latest\nlist:8 quay.io/a/b:2\nlist:9 registry.k8s.io/c@sha256:" +
				hexA + "\nlist:11 docker.io/library/nginx:1@sha256:" + hexB + "\nlist:14 quay.io/data/set:v1"},
		{
			"documents keep their lines",
			"# first\nimage: a.example/a:1\n---\n# second\nimage: a.example/b:1\n--- # third\nimage: " +
				"a.example/c:1\n...\n---\nimage: a.example/a:1\n",
			"list:2 a.example/a:1\nlist:5 a.example/b:1\nlist:7 a.example/c:1",
		},
		{
			"crlf and byte order mark",
			"\ufeffimage: a.example/a:1\r\n---\r\nimage: a.example/b:1\r\n",
			"list:1 a.example/a:1\nlist:3 a.example/b:1",
		},
		{
			"a cron job",
			"spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: a.example/a:1}]}}}}}",
			"list:1 a.example/a:1",
		},
		{
			"json",
			"{\"kind\": \"List\", \"items\": [\n {\"spec\": {\"containers\": [\n  {\"image\": \"a.example/a:1\"}]}}]}",
			"list:3 a.example/a:1",
		},
		{"a dash in a text", "data: |\n   ---\n   x\nimage: a.example/a:1\n---x: y\n", "list:4 a.example/a:1"},
		{
			"custom resources",
			"spec:\n  image: a.example/a:1\n  sandboxImage: a.example/b:1\n  baseImage: b\n  image2: " +
				"a.example/c:1\n  " +
				"config:\n    reloaderImage: {repository: a.example/d, tag: v1}\n",
			"list:2 a.example/a:1\nlist:3 a.example/b:1\nlist:7 a.example/d:v1",
		},
		{"a chart's values", `image: {registry: quay.io, repository: a/b, tag: 1.10}
web:
  image:
    repository: nginx
    tag: ""
    digest: sha256:` + hexA + `
  other: {image: {repository: docker.io/x/y, tag: v1@sha256:` + hexB + `}}
none: {image: {repository: "", tag: 1}, pullPolicy: x}
`,
			"list:1 quay.io/a/b:1.10\nlist:4 docker.io/library/nginx@sha256:" + hexA +
				"\nlist:7 docker.io/x/y:v1@sha256:" + hexB},
		{"values that the chart fills in", "a:\n  image:\n    repository: a.example/b\n    tag:\n",
			"list:3: image \"a.example/b\" has neither tag nor digest, the chart would set it: write the tag here, " +
				"or " +
				"render the chart (helm template) and use the result"},
		{"arguments and environment", `spec:
  containers:
  - image: a.example/operator:1
    command: ["/bin/x", "--listen=0.0.0.0/x:8080", "--url=https://a.example/x:1"]
    args:
    - --prometheus-config-reloader=quay.io/p/reloader:v0.8
    - --sidecar-image
    - quay.io/p/sidecar@sha256:` + hexA + `
    - --short=nginx:1
    env:
    - name: RELATED_IMAGE_X
      value: a.example/x:1
    - name: relatedImageY
      value: a.example/y:1
    - name: SOMETHING
      value: a.example/z:1
    - name: IMAGE_FROM
      valueFrom: {fieldRef: {fieldPath: x}}
`,
			"list:3 a.example/operator:1\nlist:6 quay.io/p/reloader:v0.8\nlist:8 quay.io/p/sidecar@sha256:" +
				hexA + "\nlist:12 a.example/x:1\nlist:14 a.example/y:1"},
		{"in a config map", `kind: ConfigMap
data:
  helper.yaml: |
    kind: Pod
    spec:
      containers:
      - image: busybox:1.36
      - image: "Not An Image"
  rules: |
    summary: "{{ $labels.x }} image: y"
  template: |
    image: {{ .Values.x }}
  short: "image: a.example/no:1"
`, "list:7 docker.io/library/busybox:1.36"},
		{
			"no images",
			"image: auto\na: {image: ''}\nb: {image: logo.png}\nc: {image: null}\nd: {image: " +
				"'https://x/y'}\nproperties: {image: {type: string}}\nlist: [image, {image: [x]}]\ne: {icon: {image: " +
				"'data:x'}}\n",
			"",
		},
		{
			"an alias",
			"a: &i a.example/a:1\nb: {image: *i}\nc: &c {image: a.example/c:1}\nd: [*c, *c]\n",
			"list:2 a.example/a:1\nlist:3 a.example/c:1",
		},
		{
			"a bad image in a container",
			"spec:\n  containers:\n  - image: 'A b'\n",
			"list:3: \"A b\" is not an image reference (the name of a repository is lower case)…",
		},
		{
			"a template",
			"kind: Pod\n{{- if .Values.on }}\nspec:\n  image: x\n{{- end }}\n---\nimage: {{ .Values.image " +
				"}}\n---\nimage: \"{{ .Values.image }}:{{ .Values.tag }}\"\n---\nimage: a.example/a:1\n",
			"list:2: this is a template: render it first (helm template CHART > FILE) and use the result\n" +
				"list:7: this is a template: render it first (helm template CHART > FILE) and use the result\n" +
				"list:9: this is a template: render it first (helm template CHART > FILE) and use the result",
		},
		{
			"braces in a text are no template",
			"kind: PrometheusRule\nspec:\n  text: \"{{ $labels.pod }} is down\"\n  image: a.example/a:1\n",
			"list:4 a.example/a:1",
		},
		{"no yaml", "---\na: b\n---\na: [b\nc: d\n", "list:…"},
		{
			"tabs",
			"a:\n\tb: c\n",
			"list:2: not YAML (found character that cannot start any token): pass Kubernetes manifests here, and " +
				"lists with --images",
		},
		{"a list of images", "nginx:1\nquay.io/a/b:1\n", ""},
		{
			"pinned twice",
			"a: {image: a.example/a:1@sha256:" + hexA + "}\nspec:\n  containers: [{image: " +
				"a.example/a:1@sha256:" + hexB + "}]\n",
			"list:3: a.example/a:1 is pinned to…",
		},
	})
}

// What is larger or deeper than anything real is refused, and aliases of aliases are not followed.
func TestManifestsBounds(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"large", "a: " + strings.Repeat("x", maxYAML), "list:1: the YAML document is larger than 8 MiB: divide it"},
		{"deep", strings.Repeat("[", maxManifestDepth+10) + strings.Repeat("]", maxManifestDepth+10),
			"the YAML is nested deeper than 500"},
		{"aliases", "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, " +
			"*b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n" +
			"e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e]\ng: &g [*f, *f, *f, *f, " +
			"*f, *f, *f, *f]\nimage: a.example/a:1\n", "list:8 a.example/a:1"},
	} {
		if got := given((*Parser).Manifests, c.in); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %.300s", c.name, got)
		}
	}
	var l Parser
	l.Manifests("large", io.LimitReader(endless("---\n"), maxListSize+1))
	if _, err := l.Wanted(); err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("got %v", err)
	}
}

func FuzzManifests(f *testing.F) {
	for _, s := range []string{"image: a", "spec: {containers: [{image: a.example/b:1}]}", "---\nimage: {repository: " +
		"a, tag: 1}\n---\nkind: ConfigMap\ndata:\n  a: |\n    image: b:1\n",
		"image: {{ x }}\n", "a: &a {image: b}\nc: *a\n", "env: [{name: IMAGE, value: " +
			"a.example/b:1}]", "- !!binary x\n- ? {a: b}\n  : c\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var l Parser
		l.Manifests("list", strings.NewReader(s))
		w, err := l.Wanted()
		if err != nil {
			return
		}
		for _, i := range w.Images {
			if _, err := ParseReference(i.Ref()); err != nil {
				t.Fatalf("%q: %v", i.Ref(), err)
			}
		}
	})
}
