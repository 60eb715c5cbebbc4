package kubespray

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"casemate/bundle/lists"
	"casemate/bundle/lists/jinja"
)

// maxRoleFile is how much of a role's template is read, in bytes; the largest have 500 KiB.
const maxRoleFile = 4 << 20

// forgottenFiles finds the entries of downloads whose URL is in no variable that the script looks at.
func (k *kubespray) forgottenFiles() {
	for _, e := range k.entries {
		u, ok, err := k.field(e, "url")
		if !ok {
			continue
		}
		if err == nil {
			u, err = lists.ParseFileURL(u)
		}
		if err != nil {
			k.note("downloads.%s is left out: %v", e.name, err)
			continue
		}
		if !k.hasFile(k.mirrors.file(u)) {
			k.forgottenFile(k.file(u, e.where), "downloads."+e.name)
		}
	}
}

// forgottenFile adds a file. Its images are not looked for, because it is not here yet.
func (k *kubespray) forgottenFile(f lists.File, variable string) {
	if k.hasFile(f.URL) {
		return
	}
	k.forget(Forgotten{File: &f, Variable: variable, Where: f.Where})
	if ext := path.Ext(f.URL); ext == ".yaml" || ext == ".yml" {
		k.note("%s may name images: fetch it and give it as a manifest too", f.URL)
	}
}

// role is one role of the checkout.
type role struct {
	dir            string
	defaults, vars map[string]definition
	isDownload     bool // its defaults are everybody's, and no sign that something is used
}

// imageText is what a template of a role names as an image.
type imageText struct {
	role        *role
	text, where string
}

// readRoles looks into all roles for what they use: in templates, because that is what is applied in the end, and in
// defaults.
func (c *checkout) readRoles() error {
	roles := map[string]*role{}
	err := fs.WalkDir(c.fsys, "roles", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch path.Base(name) {
			case "molecule", "tests":
				return fs.SkipDir
			}
			return nil
		}
		dir, rest, ok := cutRole(name)
		if !ok || !d.Type().IsRegular() {
			return nil
		}
		r := roles[dir]
		if r == nil {
			if r, err = c.readRole(dir); err != nil {
				return err
			}
			roles[dir] = r
		}
		if strings.HasPrefix(rest, "templates/") {
			return c.readTemplate(r, name)
		}
		return nil
	})
	for _, dir := range slices.Sorted(maps.Keys(roles)) {
		c.roles = append(c.roles, roles[dir])
	}
	return err
}

// searchRoles adds the images and charts that roles use.
func (k *kubespray) searchRoles() {
	scopes := map[*role]*variables{}
	for _, r := range k.roles {
		if scopes[r] = k.vars; !r.isDownload {
			scopes[r] = k.scope(r.defaults, r.vars)
		}
	}
	for _, t := range k.images {
		k.forgottenImage(scopes[t.role], t.text, t.where)
	}
	for _, r := range k.roles {
		if !r.isDownload {
			k.searchDefaults(r, scopes[r])
		}
	}
}

// cutRole divides the name of a file into its role and the rest.
func cutRole(name string) (dir, rest string, ok bool) {
	for _, kind := range []string{"/templates/", "/defaults/"} {
		if i := strings.Index(name, kind); i >= 0 {
			return name[:i], name[i+1:], true
		}
	}
	return "", "", false
}

func (c *checkout) readRole(dir string) (*role, error) {
	if dir == c.role {
		return &role{dir: dir, isDownload: true}, nil
	}
	defaults, err := c.readDefinitions(dir, "defaults")
	if err != nil {
		return nil, err
	}
	vars, err := c.readDefinitions(dir, "vars")
	return &role{dir: dir, defaults: defaults, vars: vars}, err
}

var (
	imageLine = regexp.MustCompile(`^(\s*)(?:- )?["']?image["']?:(?:\s+(.*\S))?\s*$`)
	helmLine  = regexp.MustCompile(`^(\s*)(repository|repositry|tag):\s+(.*\S)\s*$`) // one release has the typing error
	blockTag  = regexp.MustCompile(`\{%.*?%\}`)
	imageName = regexp.MustCompile(`_(image|container)$`)
	fileName  = regexp.MustCompile(`_(install|manifest|manifests|download)_url$`)
	fileEnd   = regexp.MustCompile(`\.(yaml|yml|tgz|tar\.gz|zip)$`)
)

// readTemplate looks for "image:" in a template, with a reference after it or with repository and tag below it. It
// looks at lines, because a template is no YAML before it is rendered, and rendering it would need a cluster.
func (c *checkout) readTemplate(r *role, name string) error {
	f, err := c.fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRoleFile))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	lines := strings.Split(string(b), "\n")
	for i, line := range lines {
		m := imageLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		value := m[2]
		if value == "" {
			value = helmImage(len(m[1]), lines[i+1:])
		}
		// Both branches of a condition are somebody's image.
		for _, text := range blockTag.Split(value, -1) {
			text = unquote(strings.TrimSpace(text))
			if strings.Contains(text, "{{") || strings.Contains(text, "/") && lists.Explicit(text) && !strings.Contains(text, " ") {
				c.images = append(c.images, imageText{r, text, fmt.Sprintf("%s:%d", name, i+1)})
			}
		}
	}
	return nil
}

// helmImage puts the repository and tag together that stand, further in than indent, at the begin of lines.
func helmImage(indent int, lines []string) string {
	repository, tag := "", ""
	for _, line := range lines[:min(len(lines), 8)] {
		m := helmLine.FindStringSubmatch(line)
		if m == nil || len(m[1]) <= indent {
			break
		}
		if m[2] == "tag" {
			tag = unquote(m[3])
		} else {
			repository = unquote(m[3])
		}
	}
	if repository == "" || tag == "" {
		return ""
	}
	return repository + ":" + tag
}

// unquote takes away the quotes around a YAML scalar that is a template.
func unquote(s string) string {
	if len(s) > 1 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// forgottenImage adds the image that a text of a role names, if the script does not list it.
func (k *kubespray) forgottenImage(vars *variables, text, where string) {
	x, err := vars.evaluate(text)
	if u, not := x.(jinja.Undefined); not {
		err = u
	}
	if err == nil && (x == nil || x == false || x == "") {
		return // switched off
	}
	var ref string
	if err == nil {
		ref, err = jinja.Text(x)
	}
	var w lists.Image
	if err == nil {
		w, err = lists.ParseReference(ref)
	}
	if err != nil {
		k.note("%s: which image %s is cannot be known: %v", where, text, err)
		return
	}
	if w.Tag == "0" || w.Tag == "v0" {
		k.note("%s: %s is left out: Kubespray has version 0 where there is none for this Kubernetes", where, text)
		return
	}
	w.Where = where
	k.forget(Forgotten{Image: &w, Variable: text, Where: where})
}

func (k *kubespray) forget(f Forgotten) {
	if f.Image != nil {
		upstream := k.mirrors.image(*f.Image)
		f.Image = &upstream
	}
	if f.Image != nil && k.has(*f.Image) || slices.ContainsFunc(k.lists.Forgotten, func(o Forgotten) bool { return o.Name() == f.Name() }) {
		return
	}
	k.lists.Forgotten = append(k.lists.Forgotten, f)
}

// searchDefaults looks for images and files that are written as one variable, and for charts of classic repositories,
// in a role's defaults.
func (k *kubespray) searchDefaults(r *role, vars *variables) {
	for _, name := range slices.Sorted(maps.Keys(r.defaults)) {
		where := r.defaults[name].where
		if imageName.MatchString(name) {
			if s, ok := k.known(vars, name, where); ok && strings.Contains(s, "/") && lists.Explicit(s) {
				if w, err := lists.ParseReference(s); err == nil {
					w.Where = where
					k.forget(Forgotten{Image: &w, Variable: name, Where: where})
				}
			}
		}
		if fileName.MatchString(name) {
			if s, ok := k.known(vars, name, where); ok && fileEnd.MatchString(s) {
				if u, err := lists.ParseFileURL(s); err == nil {
					k.forgottenFile(k.file(u, where), name)
				}
			}
		}
		if prefix, ok := strings.CutSuffix(name, "_chart_ref"); ok {
			k.forgottenChart(vars, prefix, where)
		}
	}
}

// known is a variable's text. One that only an inventory sets is none; one that has a value which nobody knows here is
// said.
func (k *kubespray) known(vars *variables, name, where string) (string, bool) {
	s, err := vars.text(name)
	if isUnreadable(err) {
		k.note("%s: what %s names cannot be known: %v", where, name, err)
	}
	return s, err == nil
}

// forgottenChart adds a chart of which a role has NAME_chart_ref, NAME_chart_version, NAME_repository_name and
// NAME_repository_url.
func (k *kubespray) forgottenChart(vars *variables, prefix, where string) {
	ref, ok1 := k.known(vars, prefix+"_chart_ref", where)
	repo, ok2 := k.known(vars, prefix+"_repository_url", where)
	repoName, ok3 := k.known(vars, prefix+"_repository_name", where)
	version, ok4 := k.known(vars, prefix+"_chart_version", where)
	chart, ok := strings.CutPrefix(ref, repoName+"/")
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok || repo == "" || version == "" {
		return // it is set by an inventory only, or stands in a registry
	}
	if u, err := lists.ParseFileURL(k.mirrors.file(repo)); err == nil && lists.ChartName.MatchString(chart) {
		c := lists.Chart{Repo: strings.TrimSuffix(u, "/"), Name: chart, Version: version, Where: where}
		k.forget(Forgotten{Chart: &c, Variable: prefix + "_chart_ref", Where: where})
		k.note("the chart %s names images of its own: render it (helm template) and give what it wrote as a manifest", chart)
	}
}

const (
	ciliumTasks  = "roles/network_plugin/cilium/tasks/apply.yml"
	ciliumValues = "roles/network_plugin/cilium/templates/values.yaml.j2"
	ciliumCharts = "https://helm.cilium.io"
)

// forgottenByCilium adds what no file of Kubespray says: since v2.28 it installs Cilium with Cilium's own command
// line, which takes the chart from Cilium's repository, and the chart adds "-generic" to the operator's repository.
func (k *kubespray) forgottenByCilium() {
	if _, err := fs.Stat(k.fsys, ciliumValues); err != nil {
		return
	}
	version, err := k.vars.text("cilium_version")
	if err != nil {
		k.note("Cilium's chart is left out: %v", err)
		return
	}
	where := k.vars.defs["cilium_version"].where
	chart := lists.Chart{Repo: ciliumCharts, Name: "cilium", Version: version, Where: where}
	k.forget(Forgotten{Chart: &chart, Variable: "cilium_version", Where: ciliumTasks + ":1"})
	repo, ok1 := k.known(k.vars, "cilium_operator_image_repo", ciliumTasks)
	tag, ok2 := k.known(k.vars, "cilium_operator_image_tag", ciliumTasks)
	if !ok1 || !ok2 || strings.HasSuffix(repo, "-generic") {
		return
	}
	if w, err := lists.ParseReference(repo + "-generic:" + tag); err == nil {
		w.Where = k.vars.defs["cilium_operator_image_repo"].where
		k.forget(Forgotten{Image: &w, Variable: "cilium_operator_image_repo", Where: w.Where})
	}
}
