package lists

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxYAML          = 8 << 20 // bytes of one YAML document; parsed, it takes some hundred bytes for each value
	maxManifestDepth = 500     // nesting depth
)

// Manifests reads the images out of Kubernetes manifests, rendered charts or a chart's values: YAML of any number of
// documents, or JSON. name is the file's name in messages. Images are
//
// - "image: REFERENCE" anywhere: in containers of all kinds, in custom resources, in compose files; and other keys that
// end in "Image" if their value has a tag
//
//	or digest;
//
// - "image: {registry, repository, tag, digest}", as in a chart's values; one without tag and digest is refused,
// because the chart would fill it in;
//   - "image: {reference: REFERENCE}", an image volume;
//
// - arguments ("--prometheus-config-reloader=quay.io/…:v0.8") and environment variables with IMAGE in their names, when
// their value is a reference with a host
//
//	  and a tag or digest: a heuristic, for operators that start other images;
//	- all of these in YAML that stands in a ConfigMap.
//
// Templates that are not rendered are refused.
//
// Lists of other tools are read as what they are: skopeo sync's YAML, hauler's Images, Files and Charts, oc-mirror's
// ImageSetConfiguration, a YAML list of references. What is known and cannot be read is refused.
func (l *Parser) Manifests(name string, r io.Reader) {
	in := bufio.NewReaderSize(&bounded{r: r, left: maxListSize}, 64<<10)
	var doc []byte
	begin := 1 // the line of the file at which doc begins
	atBegin := true
	for line := 1; ; {
		b, err := in.ReadSlice('\n')
		// A line that begins with "---" divides documents wherever it is (YAML 1.2, 9.1.2).
		if atBegin && bytes.HasPrefix(b, []byte("---")) && (len(b) == 3 || strings.IndexByte(" \t\r\n", b[3]) >= 0) {
			l.document(name, begin, doc)
			doc, begin = doc[:0], line
		}
		if len(doc)+len(b) > maxYAML {
			l.refuse(
				fmt.Sprintf("%s:%d", name, begin),
				fmt.Errorf("the YAML document is larger than %d MiB: divide it", maxYAML>>20),
			)
			return
		}
		doc = append(doc, b...)
		atBegin = err == nil
		if atBegin {
			line++
		}
		switch {
		case err == io.EOF:
			l.document(name, begin, doc)
			return
		case err != nil && err != bufio.ErrBufferFull:
			l.refuse(fmt.Sprintf("%s:%d", name, line), fmt.Errorf("read: %w", err))
			return
		}
	}
}

var (
	yamlLine = regexp.MustCompile(`\bline (\d+): `)
	// templateLine matches a line that only a template has: "{{" as a key, as a value or alone.
	templateLine = regexp.MustCompile(`(?m)^[ \t]*(- )?([\w.-]+:[ \t]+)?["']?\{\{`)
)

var errTemplate = errors.New("this is a template: render it first (helm template CHART > FILE) and use the result")

// document reads one YAML document that begins at a line of a file.
func (l *Parser) document(name string, begin int, doc []byte) {
	if len(bytes.TrimSpace(bytes.TrimPrefix(doc, []byte("---")))) == 0 {
		return
	}
	m := yamlReader{lists: l, name: name, before: begin - 1}
	var root yaml.Node
	if err := yaml.Unmarshal(doc, &root); err != nil {
		if at := templateLine.FindIndex(doc); at != nil {
			m.refuse(1+bytes.Count(doc[:at[0]], []byte("\n")), errTemplate)
			return
		}
		line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
		if at := yamlLine.FindStringSubmatch(text); at != nil {
			line, _ = strconv.Atoi(at[1])
			text = strings.Replace(text, at[0], "", 1)
		}
		m.refuse(line, fmt.Errorf("not YAML (%.200s): pass Kubernetes manifests here, and lists with --images", text))
		return
	}
	if !m.foreign(&root) {
		m.walk(&root, place{})
	}
}

// yamlReader reads one document.
type yamlReader struct {
	lists    *Parser
	name     string
	before   int  // number of lines before it in the file
	embedded bool // in a ConfigMap: unsupported values are ignored
	bad      bool // a template was found; it is reported once
}

func (m *yamlReader) where(line int) string { return fmt.Sprintf("%s:%d", m.name, m.before+line) }

func (m *yamlReader) refuse(line int, err error) {
	if !m.embedded {
		m.lists.refuse(m.where(line), err)
	}
}

// place is a position in a document.
type place struct {
	depth     int
	key       string // the key whose value, or list element, this is
	container bool   // an element of a list of containers
}

// walk visits a node and everything below it. Aliases are not followed: their targets are in the same document.
func (m *yamlReader) walk(n *yaml.Node, at place) {
	if at.depth > maxManifestDepth {
		if !m.bad {
			m.refuse(n.Line, fmt.Errorf("the YAML is nested deeper than %d", maxManifestDepth))
		}
		m.bad = true
		return
	}
	at.depth++
	switch n.Kind {
	case yaml.DocumentNode:
		for _, c := range n.Content {
			m.walk(c, at)
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			switch at.key {
			case "containers", "initContainers", "ephemeralContainers":
				at.container = true
			case "args", "command":
				if s, ok := text(c); ok {
					_, value, flag := strings.Cut(s, "=")
					if !flag {
						value = s
					}
					m.guess(c.Line, value)
				}
			}
			m.walk(c, at)
		}
	case yaml.MappingNode:
		m.mapping(n, at)
	}
}

func (m *yamlReader) mapping(n *yaml.Node, at place) {
	container := at.container
	at.container = false
	if kind, _ := text(field(n, "kind")); kind == "ConfigMap" {
		m.configMap(field(n, "data"))
	}
	if name, _ := text(field(n, "name")); strings.Contains(strings.ToUpper(name), "IMAGE") && at.key == "env" {
		if value := field(n, "value"); value != nil {
			s, _ := text(value)
			m.guess(value.Line, s)
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.MappingNode { // "{{ … }}" is a mapping in a mapping's key
			if !m.bad {
				m.refuse(k.Line, errTemplate)
			}
			m.bad = true
			return
		}
		s, scalar := text(v)
		switch {
		case k.Value == "image" && scalar:
			m.image(v.Line, s, container)
		case scalar && strings.HasSuffix(k.Value, "Image") && Explicit(s):
			m.guess(v.Line, s)
		case v.Kind == yaml.MappingNode && (k.Value == "image" || strings.HasSuffix(k.Value, "Image")):
			m.imageMap(v)
		}
		at.key = k.Value
		m.walk(v, at)
	}
}

// image reads the value of a key that is called image.
func (m *yamlReader) image(line int, s string, container bool) {
	switch {
	case s == "" || s == "auto": // set when the pod is admitted, for example by Istio's injection
		return
	case strings.Contains(s, "{{"):
		m.refuse(line, errTemplate)
		return
	case !container && isMediaFile(s):
		return
	}
	if err := m.lists.image(m.where(line), s); err != nil && container {
		m.refuse(line, err)
	}
}

// imageMap reads an image that is written in parts.
func (m *yamlReader) imageMap(n *yaml.Node) {
	if ref, ok := text(field(n, "reference")); ok && ref != "" {
		m.image(n.Line, ref, true)
		return
	}
	repository, ok := text(field(n, "repository"))
	if !ok || repository == "" {
		return
	}
	registry, _ := text(field(n, "registry"))
	tag, _ := text(field(n, "tag"))
	digest, _ := text(field(n, "digest"))
	ref := repository
	if registry != "" {
		ref = strings.TrimSuffix(registry, "/") + "/" + ref
	}
	tag, pinned, _ := strings.Cut(tag, "@") // charts also use "tag: v1@sha256:…"
	if digest == "" {
		digest = pinned
	}
	if tag != "" {
		ref += ":" + tag
	}
	if digest != "" {
		ref += "@" + digest
	}
	if !Explicit(ref) {
		m.refuse(
			n.Line,
			fmt.Errorf(
				"image %s has neither tag nor digest, the chart would set it: write the tag here, or render the chart "+
					"(helm template) and use the result",
				shown(ref),
			),
		)
		return
	}
	m.image(n.Line, ref, true)
}

// publicHost matches a host's name with a dot, perhaps with a port, but no address: "0.0.0.0/x:8080" is not an image.
var publicHost = regexp.MustCompile(`\.[A-Za-z][A-Za-z0-9-]*(:[0-9]+)?$`)

// guess adds a string that may be an image, only if it has a host and a tag or digest.
func (m *yamlReader) guess(line int, s string) {
	host, _, ok := strings.Cut(s, "/")
	if !ok || !publicHost.MatchString(host) || !Explicit(s) || isMediaFile(s) || strings.Contains(s, "://") {
		return
	}
	if w, err := ParseReference(s); err == nil {
		w.Where = m.where(line)
		if err := m.lists.addImage(w); err != nil {
			m.refuse(line, err)
		}
	}
}

// configMap reads the YAML in a ConfigMap, from which a controller may create pods.
func (m *yamlReader) configMap(data *yaml.Node) {
	if data == nil || data.Kind != yaml.MappingNode || m.embedded {
		return
	}
	for i := 1; i < len(data.Content); i += 2 {
		v := data.Content[i]
		if v.Kind != yaml.ScalarNode || v.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 ||
			!strings.Contains(v.Value, "image:") {
			continue
		}
		var root yaml.Node
		if yaml.Unmarshal([]byte(v.Value), &root) == nil {
			in := yamlReader{lists: m.lists, name: m.name, before: m.before + v.Line, embedded: true}
			in.walk(&root, place{})
		}
	}
}

// field returns the value of a key, or nil.
func field(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// text returns the value of a scalar or of an alias of one. null is "".
func text(n *yaml.Node) (string, bool) {
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind != yaml.ScalarNode {
		return "", false
	}
	if n.ShortTag() == "!!null" {
		return "", true
	}
	return n.Value, true
}

// Explicit reports whether a reference has a tag or a digest.
func Explicit(ref string) bool {
	return strings.ContainsAny(ref[strings.LastIndexByte(ref, '/')+1:], ":@")
}

// isMediaFile reports whether an "image" is a picture.
func isMediaFile(s string) bool {
	for _, end := range []string{".png", ".svg", ".jpg", ".jpeg", ".gif", ".ico", ".webp"} {
		if strings.HasSuffix(strings.ToLower(s), end) {
			return true
		}
	}
	return strings.HasPrefix(s, "data:")
}
