package kubespray

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"

	"casemate/bundle/lists"
	"casemate/bundle/lists/jinja"
)

// Options select the cluster for which the lists of a checkout are computed. The zero value is the unchanged release,
// for amd64.
type Options struct {
	// Arch is the architecture of the nodes in the notation of container images; "" is amd64. The lists are for one
	// architecture.
	Arch string
	// Inventory overrides the checkout's defaults; nil: no inventory. The lists are those of all its hosts together.
	Inventory *Inventory
	// Vars are files of variables; later ones override earlier ones, and all override everything else, as those of
	// ansible-playbook --extra-vars do.
	Vars []Vars
	// Domain is the domain of the bastions whose own names, in Inventory and Vars, are replaced by what they mirror:
	// files.DOMAIN/HOST/… is https://HOST/…. "" recognises them by their form.
	Domain string
	// Given are the inventories in the checkout, as "inventory/mycluster", that this call or another one reads; all
	// others in it are noted. With Mirrors none is noted.
	Given []string
	// OS is the system of nodes whose packages are listed; nil: none are.
	OS *OS
	// Mirrors keeps the bastions' own names as they are.
	Mirrors bool
}

// Vars is one YAML file of variables.
type Vars struct {
	Name string // for messages
	R    io.Reader
}

// Lists is everything that a release of Kubespray downloads.
type Lists struct {
	// Release is the version in the checkout's galaxy.yml, "v2.31.0"; between releases it is that of the next one.
	Release string
	// Images and Files are the lists that the checkout's own contrib/offline/generate_list.sh writes, in its order,
	// with the digests that the checkout has.
	Images []lists.Image
	Files  []lists.File
	// Forgotten is what that script leaves out although the checkout's roles can download it: most of it belongs to
	// add-ons that are off by default.
	Forgotten []Forgotten
	// Packages are those of Options.OS that the roles install. Optional ones depend on what the cluster has; some are
	// in repositories that the roles add.
	Packages []lists.Package
	// Checksums are the checkout's.
	Checksums *lists.Checksums
	// Notes say what is remarkable, one sentence each: files without a checksum, templates that could not be read.
	Notes []string
}

// Forgotten is one image, one file or one chart; the other fields are nil.
type Forgotten struct {
	Image *lists.Image
	File  *lists.File
	Chart *lists.Chart
	// Variable is the source of the name: a variable, or the variables in the template that uses them.
	Variable string
	// Where is FILE:LINE in the checkout.
	Where string
}

// Name is its reference, its URL, or the chart's repository and name.
func (f Forgotten) Name() string {
	switch {
	case f.Image != nil:
		return f.Image.Ref()
	case f.File != nil:
		return f.File.URL
	}
	return strings.TrimSpace(f.Chart.Repo + " " + f.Chart.Name + " " + f.Chart.Version)
}

// kubesprayRoles are the role's names: with an underscore since v2.28.
var kubesprayRoles = []string{"roles/kubespray_defaults", "roles/kubespray-defaults"}

const generateList = "contrib/offline/generate_list.sh"

// Read computes what a checkout, v2.24 or newer, downloads. It runs nothing of the checkout: it reads the variables and
// evaluates them itself. A variable that cannot be evaluated is an error that names the variable, its file and line.
func Read(fsys fs.FS, opt Options) (*Lists, error) {
	c, err := readCheckout(fsys)
	if err != nil {
		return nil, err
	}
	over := map[string]definition{}
	for _, file := range opt.Vars {
		f, err := readGivenVars(file.Name, file.R)
		if err != nil {
			return nil, err
		}
		maps.Copy(over, f.defs)
	}
	var hosts iter.Seq2[clusterHost, error] = oneHost
	if opt.Inventory != nil {
		if hosts, err = c.hostsOf(opt.Inventory); err != nil {
			return nil, err
		}
	}
	lists, err := c.forHosts(opt, hosts, over)
	if err == nil && !opt.Mirrors {
		c.noteInventories(opt, lists)
	}
	return lists, err
}

// kubespray computes the lists of one host.
type kubespray struct {
	*checkout
	facts     map[string]definition // of a node
	inventory map[string]definition // of the host
	over      map[string]definition // of Options.Vars
	vars      *variables            // all of them
	asked     map[string]bool       // the variables that the result depends on
	given     bool                  // set by an inventory or by Vars
	mirrors   *mirrorNames          // nil: names stay as they are
	entries   []downloadEntry
	failures  []failure
	lists     Lists
	os        *OS
}

// cluster prepares the computation for one host.
func (c *checkout) cluster(opt Options, inventory, over map[string]definition) *kubespray {
	k := &kubespray{
		checkout:  c,
		facts:     facts(opt.Arch),
		inventory: maps.Clone(inventory),
		over:      maps.Clone(over),
		asked:     map[string]bool{},
		given:     len(inventory)+len(over) > 0,
		os:        opt.OS,
	}
	k.lists.Release, k.lists.Checksums = c.release, c.checksums
	k.vars = k.scope(nil, nil)
	if k.given && !opt.Mirrors {
		k.readMirrors(opt.Domain)
	}
	return k
}

func (k *kubespray) compute() (*Lists, error) {
	if err := k.readEntries(); err != nil {
		return nil, err
	}
	k.listFiles()
	k.listImages()
	if err := k.listKubeImages(); err != nil {
		return nil, err
	}
	if err := k.failed(); err != nil {
		return nil, err
	}
	k.forgottenFiles()
	k.searchRoles()
	k.forgottenByCilium()
	k.noteHosts()
	if k.os != nil {
		if err := k.listPackages(k.os); err != nil {
			return nil, err
		}
	}
	return &k.lists, nil
}

// downloadEntry is one entry of the variable downloads.
type downloadEntry struct {
	name   string
	fields *jinja.Dict
	where  string
}

// field evaluates a field of an entry to a text. ok is false if the entry does not have the field.
func (k *kubespray) field(e downloadEntry, name string) (s string, ok bool, err error) {
	x, ok := e.fields.Values[name]
	if !ok {
		return "", false, nil
	}
	if x, err = k.vars.Force(x); err == nil {
		s, err = jinja.Text(x)
	}
	if err != nil {
		err = fmt.Errorf("downloads.%s.%s: %w", e.name, name, err)
	}
	return strings.TrimSpace(s), true, err
}

// listFiles lists every variable of download.yml whose name ends in download_url, as the script does.
func (k *kubespray) listFiles() {
	for _, name := range k.download.names {
		if !strings.HasSuffix(name, "download_url") {
			continue
		}
		where := k.vars.defs[name].where
		nameOf := func(k *kubespray) (string, error) {
			s, err := k.vars.text(name)
			if err != nil {
				return "", err
			}
			return lists.ParseFileURL(strings.TrimSpace(s))
		}
		s, err := nameOf(k)
		if err != nil {
			k.fail(named(name, where, err), nameOf)
		} else if !k.hasFile(k.mirrors.file(s)) {
			k.lists.Files = append(k.lists.Files, k.file(s, where))
		}
	}
}

func (k *kubespray) hasFile(u string) bool {
	return slices.ContainsFunc(k.lists.Files, func(f lists.File) bool { return f.URL == u })
}

// named adds the name of the variable to an error that has none.
func named(name, where string, err error) error {
	var inner *variableError
	if errors.As(err, &inner) {
		return err
	}
	return &variableError{name, where, err}
}

// file returns the file at a URL of the checkout, with its digest: that of the entry of downloads which downloads it,
// or else the one that is found in the tables.
func (k *kubespray) file(u, where string) lists.File {
	f := lists.File{URL: k.mirrors.file(u), Where: where}
	digest, known, found := k.lists.Checksums.Find(f.URL)
	for _, e := range k.entries {
		if s, _, err := k.field(e, "url"); err != nil || s != u {
			continue
		}
		// An entry can be a file or an image; then its checksum is the image's.
		if file, err := k.vars.Force(e.fields.Values["file"]); err != nil || !jinja.Bool(file) {
			continue
		}
		sum, err := k.checksum(e)
		switch {
		case jinja.IsUndefined(err):
			k.note("%s has no checksum in the checkout: %v", f.URL, err)
		case err != nil:
			k.note("%s is not checked: %v", f.URL, err)
		case sum == "" || sum == "0":
			k.note("%s has no checksum in the checkout; perhaps the file does not exist for this architecture", f.URL)
		default:
			if f.Digest, err = lists.ParseChecksum(sum); err != nil {
				k.note("%s is not checked: %v", f.URL, err)
				break
			}
			if f.Known = fmt.Sprintf("%s: downloads.%s", e.where, e.name); found && digest == f.Digest {
				f.Known = known
			}
		}
		return f
	}
	if !found {
		k.note("%s is in no entry of downloads, so its checksum is not known", f.URL)
	}
	f.Digest, f.Known = digest, known
	return f
}

// checksum returns the checksum of an entry; before v2.25 the field is sha256.
func (k *kubespray) checksum(e downloadEntry) (string, error) {
	sum, ok, err := k.field(e, "checksum")
	if !ok {
		sum, _, err = k.field(e, "sha256")
	}
	return sum, err
}

func (k *kubespray) note(format string, args ...any) {
	k.lists.note(format, args...)
}

// listImages lists every entry of downloads that has a repository and a tag, enabled or not, as the script does.
func (k *kubespray) listImages() {
	for _, e := range k.entries {
		nameOf := func(k *kubespray) (string, error) { return k.imageOf(e) }
		ref, err := nameOf(k)
		if err == nil && ref != "" {
			if err = k.image(ref, e.where); err != nil {
				err = fmt.Errorf("%s: downloads.%s: %w", e.where, e.name, err)
			}
		}
		if err != nil {
			k.fail(err, nameOf)
		}
	}
}

// imageOf returns the reference in an entry of downloads, "" if there is none.
func (k *kubespray) imageOf(e downloadEntry) (string, error) {
	repo, ok, err := k.field(e, "repo")
	if err != nil || !ok {
		return "", err
	}
	tag, ok, err := k.field(e, "tag")
	if err != nil || !ok {
		return "", err
	}
	ref := repo + ":" + tag
	digest, err := k.imageDigest(e)
	if digest != "" {
		ref += "@" + digest
	}
	return ref, err
}

// imageDigest returns the digest to which an inventory pins an image (nginx_digest_checksum); then Kubespray pulls by
// it.
func (k *kubespray) imageDigest(e downloadEntry) (string, error) {
	container, err := k.vars.Force(e.fields.Values["container"])
	if err != nil {
		return "", fmt.Errorf("downloads.%s.container: %w", e.name, err)
	}
	if !jinja.Bool(container) {
		return "", nil
	}
	sum, _, err := k.field(e, "checksum")
	if sum == "" || err != nil {
		return "", err
	}
	return lists.ParseChecksum(sum)
}

func (k *kubespray) image(ref, where string) error {
	w, err := lists.ParseReference(ref)
	if err != nil {
		return err
	}
	w = k.mirrors.image(w)
	if w.Where = where; !k.has(w) {
		k.lists.Images = append(k.lists.Images, w)
	}
	return nil
}

func (k *kubespray) has(w lists.Image) bool {
	return slices.ContainsFunc(
		k.lists.Images,
		func(i lists.Image) bool { return i.Repository == w.Repository && i.Tag == w.Tag },
	)
}

var (
	kubeImages = regexp.MustCompile(`^KUBE_IMAGES="([a-z0-9 -]+)"`)
	kubeImage  = regexp.MustCompile(`^\s*echo "([^"]*)\$i([^"]*)"`)
)

// listKubeImages lists the images that kubeadm pulls. Their names are only in the script: in KUBE_IMAGES, and in the
// line that its loop writes.
func (k *kubespray) listKubeImages() error {
	f, err := k.fsys.Open(generateList)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxVarsFile))
	if err != nil {
		return fmt.Errorf("%s: %w", generateList, err)
	}
	var images []string
	for i, line := range strings.Split(string(b), "\n") {
		where := fmt.Sprintf("%s:%d", generateList, i+1)
		if m := kubeImages.FindStringSubmatch(line); m != nil {
			images = strings.Fields(m[1])
		} else if m := kubeImage.FindStringSubmatch(line); m != nil && images != nil {
			for _, name := range images {
				nameOf := func(k *kubespray) (string, error) {
					x, err := k.vars.evaluate(m[1] + name + m[2])
					if err != nil {
						return "", err
					}
					return jinja.Text(x)
				}
				ref, err := nameOf(k)
				if err == nil {
					err = k.image(ref, where)
				}
				if err != nil {
					k.fail(fmt.Errorf("%s: %w", where, err), nameOf)
				}
			}
			return nil
		}
	}
	return fmt.Errorf("%s: no KUBE_IMAGES and the line that lists them, this release is not supported", generateList)
}
