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

// maxRoleFile is the maximum number of bytes that are read of a role's template; the largest have 500 KiB.
const maxRoleFile = 4 << 20

// forgottenFiles finds the entries of downloads whose URL is in no variable that the script reads.
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

// forgottenFile adds a file. Images in it are not searched, because it has not been fetched.
func (k *kubespray) forgottenFile(f lists.File, variable string) {
	if k.hasFile(f.URL) {
		return
	}
	k.forget(Forgotten{File: &f, Variable: variable, Where: f.Where})
	if ext := path.Ext(f.URL); ext == ".yaml" || ext == ".yml" {
		k.note("%s may name images: fetch it and pass it as a manifest too", f.URL)
	}
}

// role is one role of the checkout.
type role struct {
	dir            string
	defaults, vars map[string]definition
	isDownload     bool // its defaults are used by all roles, and do not show that something is used
}

// imageText is an image in a template of a role.
type imageText struct {
	role        *role
	text, where string
}

// readRoles finds out what all roles use: in templates, which are applied in the end, and in defaults.
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

// cutRole splits the name of a file into its role and the rest.
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
	helmLine  = regexp.MustCompile(
		`^(\s*)(repository|repositry|tag):\s+(.*\S)\s*$`,
	) // one release has this typing error
	blockTag  = regexp.MustCompile(`\{%.*?%\}`)
	imageName = regexp.MustCompile(`_(image|container)$`)
	fileName  = regexp.MustCompile(`_(install|manifest|manifests|download)_url$`)
	fileEnd   = regexp.MustCompile(`\.(yaml|yml|tgz|tar\.gz|zip)$`)
)

// readTemplate looks for "image:" in a template, with a reference after it or with repository and tag below it. It
// works on lines, because a template is not YAML before it is rendered, and rendering it would need a cluster.
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
		// Each branch of a condition is used by some installation.
		for _, text := range blockTag.Split(value, -1) {
			text = unquote(strings.TrimSpace(text))
			if strings.Contains(text, "{{") ||
				strings.Contains(text, "/") && lists.Explicit(text) && !strings.Contains(text, " ") {
				c.images = append(c.images, imageText{r, text, fmt.Sprintf("%s:%d", name, i+1)})
			}
		}
	}
	return nil
}

// helmImage joins the repository and tag on lines that are indented deeper than indent.
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

// unquote removes the quotes around a YAML scalar that is a template.
func unquote(s string) string {
	if len(s) > 1 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// forgottenImage adds the image in a text of a role, if the script does not list it.
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
		k.note("%s: cannot find out which image %s is: %v", where, text, err)
		return
	}
	if w.Tag == "0" || w.Tag == "v0" {
		k.note("%s: %s is left out: Kubespray uses version 0 where there is none for this Kubernetes", where, text)
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
	if f.Image != nil && k.has(*f.Image) ||
		slices.ContainsFunc(k.lists.Forgotten, func(o Forgotten) bool { return o.Name() == f.Name() }) {
		return
	}
	k.lists.Forgotten = append(k.lists.Forgotten, f)
}

// searchDefaults looks in a role's defaults for images and files in a single variable, and for charts of classic
// repositories.
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

// known returns a variable's text, "" for one that only an inventory sets. A value that exists and is not known here is
// noted.
func (k *kubespray) known(vars *variables, name, where string) (string, bool) {
	s, err := vars.text(name)
	if isUnreadable(err) {
		k.note("%s: cannot find out what %s is: %v", where, name, err)
	}
	return s, err == nil
}

// forgottenChart adds a chart for which a role has NAME_chart_ref, NAME_chart_version, NAME_repository_name and
// NAME_repository_url.
func (k *kubespray) forgottenChart(vars *variables, prefix, where string) {
	ref, ok1 := k.known(vars, prefix+"_chart_ref", where)
	repo, ok2 := k.known(vars, prefix+"_repository_url", where)
	repoName, ok3 := k.known(vars, prefix+"_repository_name", where)
	version, ok4 := k.known(vars, prefix+"_chart_version", where)
	chart, ok := strings.CutPrefix(ref, repoName+"/")
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok || repo == "" || version == "" {
		return // only an inventory sets it, or it is in a registry
	}
	if u, err := lists.ParseFileURL(k.mirrors.file(repo)); err == nil && lists.ChartName.MatchString(chart) {
		c := lists.Chart{Repo: strings.TrimSuffix(u, "/"), Name: chart, Version: version, Where: where}
		k.forget(Forgotten{Chart: &c, Variable: prefix + "_chart_ref", Where: where})
		k.note("the chart %s names more images: render it (helm template) and pass the result as a manifest", chart)
	}
}

const (
	ciliumTasks  = "roles/network_plugin/cilium/tasks/apply.yml"
	ciliumValues = "roles/network_plugin/cilium/templates/values.yaml.j2"
	ciliumCharts = "https://helm.cilium.io"
)

// forgottenByCilium adds what no file of Kubespray contains: since v2.28 it installs Cilium with Cilium's own command
// line, which fetches the chart from Cilium's repository, and the chart appends "-generic" to the operator's
// repository.
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
