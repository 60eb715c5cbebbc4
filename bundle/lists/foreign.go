package lists

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// foreign reads a document that is a list of another tool. It returns false for other documents, such as Kubernetes
// manifests.
func (m *yamlReader) foreign(doc *yaml.Node) bool {
	root := doc
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		root = doc.Content[0]
	}
	if root.Kind == yaml.SequenceNode {
		return m.sequence(root)
	}
	if root.Kind != yaml.MappingNode {
		return false
	}
	version, _ := text(field(root, "apiVersion"))
	kind, _ := text(field(root, "kind"))
	group, _, _ := strings.Cut(version, "/")
	switch {
	case strings.HasPrefix(group, "content.hauler."):
		m.hauler(root, kind)
	case group == "mirror.openshift.io" && kind == "ImageSetConfiguration":
		m.imageSet(root)
	case kind == "ZarfPackageConfig":
		m.refuse(
			root.Line,
			errors.New(
				"packages of zarf are not supported: write the images one a line (--images), and the files (--files)",
			),
		)
	case kind == "Kustomization" || strings.HasPrefix(group, "kustomize."):
		m.refuse(
			root.Line,
			errors.New(
				"a kustomization does not name whole images: render it (kubectl kustomize DIR > FILE) and use "+
					"the result",
			),
		)
	case kind == "" && field(root, "sync") != nil && field(root, "version") != nil:
		m.refuse(
			root.Line,
			errors.New("configurations of regsync are not supported: write the sources one a line (--images)"),
		)
	case kind == "" && (version == "v1" || version == "v2") && field(root, "name") != nil && field(root,
		"version") != nil:
		m.refuse(
			root.Line,
			errors.New(
				"a Chart.yaml names no images: render the chart (helm template CHART > FILE) and use the result",
			),
		)
	case kind == "" && version == "" && isSkopeoSync(root):
		m.skopeo(root)
	default:
		return false
	}
	return true
}

// sequence reads a YAML list of references. A list with anything else in it may have images deeper down.
func (m *yamlReader) sequence(root *yaml.Node) bool {
	if slices.ContainsFunc(root.Content, func(n *yaml.Node) bool { _, ok := text(n); return !ok }) {
		return false
	}
	for _, n := range root.Content {
		ref, _ := text(n)
		m.take(n.Line, ref)
	}
	return true
}

// take adds a string that is certainly meant as a reference.
func (m *yamlReader) take(line int, ref string) {
	if err := m.lists.image(m.where(line), ref); err != nil {
		m.refuse(line, err)
	}
}

// hauler reads a manifest of hauler's (hauler.dev, apis/hauler.cattle.io): Images, Files, Charts.
func (m *yamlReader) hauler(root *yaml.Node, kind string) {
	spec := field(root, "spec")
	switch kind {
	case "Images":
		registry, _ := text(field(field(field(root, "metadata"), "annotations"), "hauler.dev/registry"))
		m.elements(root, spec, "images", func(n *yaml.Node) {
			own, _ := text(field(n, "registry"))
			name, _ := text(field(n, "name"))
			if own == "" {
				own = registry
			}
			if host, _, ok := strings.Cut(name, "/"); own != "" && !(ok && strings.ContainsAny(host, ".:")) {
				name = strings.TrimSuffix(own, "/") + "/" + name
			}
			m.take(n.Line, name)
		})
	case "Files":
		m.elements(root, spec, "files", func(n *yaml.Node) {
			path, _ := text(field(n, "path"))
			m.file(n.Line, path)
		})
	case "Charts":
		m.elements(root, spec, "charts", func(n *yaml.Node) { m.chart(n, "repoURL") })
	default:
		m.refuse(
			root.Line,
			fmt.Errorf(
				"hauler's %s is not supported, only Images, Files and Charts: write the images one a line (--images)",
				shown(kind),
			),
		)
	}
}

// imageSet reads the images that an ImageSetConfiguration of oc-mirror names itself. The others are in catalogs that
// only oc-mirror resolves.
func (m *yamlReader) imageSet(root *yaml.Node) {
	mirror := field(root, "mirror")
	for _, key := range []string{"platform", "operators", "samples"} {
		if n := field(mirror, key); n != nil && len(n.Content) > 0 {
			m.lists.note(
				m.where(n.Line),
				"mirror.%s is left out: oc-mirror finds its images in catalogs; oc-mirror list prints them",
				key,
			)
		}
	}
	if n := field(field(mirror, "helm"), "local"); n != nil && len(n.Content) > 0 {
		m.lists.note(
			m.where(n.Line),
			"mirror.helm.local is left out: render the charts (helm template) and use the result",
		)
	}
	helm := field(field(mirror, "helm"), "repositories")
	if field(mirror, "additionalImages") == nil && helm == nil {
		m.refuse(
			root.Line,
			errors.New(
				"it names no image: of an ImageSetConfiguration, mirror.additionalImages and mirror.helm.repositories "+
					"are read",
			),
		)
		return
	}
	if field(mirror, "additionalImages") != nil {
		m.elements(root, mirror, "additionalImages", func(n *yaml.Node) {
			name, _ := text(field(n, "name"))
			m.take(n.Line, name)
		})
	}
	if helm == nil {
		return
	}
	for _, repo := range helm.Content {
		url, _ := text(field(repo, "url"))
		m.elements(repo, repo, "charts", func(n *yaml.Node) { m.chartOf(n, url) })
	}
}

// elements calls take for each element of a list, and refuses an empty one.
func (m *yamlReader) elements(of, in *yaml.Node, key string, take func(*yaml.Node)) {
	list := field(in, key)
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		m.refuse(of.Line, fmt.Errorf("its list of %s is empty", key))
		return
	}
	for _, n := range list.Content {
		if n.Kind != yaml.MappingNode {
			m.refuse(n.Line, fmt.Errorf("an element of %s is not a mapping", key))
			continue
		}
		take(n)
	}
}

func (m *yamlReader) file(line int, path string) {
	url, err := ParseFileURL(path)
	if err != nil {
		m.refuse(line, err)
		return
	}
	if err := m.lists.addFile(File{URL: url, Where: m.where(line)}); err != nil {
		m.refuse(line, err)
	}
}

// chart reads a chart with a repository beside its name.
func (m *yamlReader) chart(n *yaml.Node, key string) {
	repo, _ := text(field(n, key))
	m.chartOf(n, repo)
}

func (m *yamlReader) chartOf(n *yaml.Node, repo string) {
	name, _ := text(field(n, "name"))
	version, _ := text(field(n, "version"))
	words := []string{repo, name}
	var err error
	switch {
	case strings.HasPrefix(repo, "oci://"):
		words = []string{strings.TrimSuffix(repo, "/") + "/" + name}
		if version != "" {
			words = append(words, version)
		}
		err = m.lists.ociChart(m.where(n.Line), words)
	case repo == "":
		err = fmt.Errorf(
			"the chart %s has no repository: render a chart on the disk (helm template) and use the result",
			shown(name),
		)
	default:
		if version != "" {
			words = append(words, version)
		}
		err = m.lists.classicChart(m.where(n.Line), words)
	}
	if err != nil {
		m.refuse(n.Line, err)
	}
}

// Keys below a registry in skopeo sync's YAML (skopeo-sync(1), "YAML FILE CONTENT").
var skopeoKeys = []string{"images", "images-by-tag-regex", "images-by-semver", "credentials", "tls-verify", "cert-dir"}

// isSkopeoSync reports whether a mapping has registries as keys, each with the images to copy.
func isSkopeoSync(root *yaml.Node) bool {
	for i := 0; i+1 < len(root.Content); i += 2 {
		host, of := root.Content[i].Value, root.Content[i+1]
		if of.Kind != yaml.MappingNode || !strings.ContainsAny(host, ".:") && host != "localhost" {
			return false
		}
		for j := 0; j < len(of.Content); j += 2 {
			if !slices.Contains(skopeoKeys, of.Content[j].Value) {
				return false
			}
		}
	}
	return len(root.Content) > 0
}

func (m *yamlReader) skopeo(root *yaml.Node) {
	for i := 0; i+1 < len(root.Content); i += 2 {
		host, of := root.Content[i].Value, root.Content[i+1]
		for _, key := range skopeoKeys[1:3] {
			if n := field(of, key); n != nil && len(n.Content) > 0 {
				m.refuse(
					n.Line,
					fmt.Errorf("%s selects tags that the registry lists: write the tags under images", key),
				)
			}
		}
		images := field(of, "images")
		if images == nil {
			continue
		}
		for j := 0; j+1 < len(images.Content); j += 2 {
			repo, tags := images.Content[j], images.Content[j+1]
			if tags.Kind != yaml.SequenceNode || len(tags.Content) == 0 {
				m.refuse(
					repo.Line,
					fmt.Errorf("%s/%s without tags means all of them: write the tags to copy", host, repo.Value),
				)
				continue
			}
			for _, t := range tags.Content {
				tag, _ := text(t)
				between := ":"
				if strings.Contains(tag, ":") { // a digest
					between = "@"
				}
				m.take(t.Line, host+"/"+repo.Value+between+tag)
			}
		}
	}
}
