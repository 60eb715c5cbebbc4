package nodeconf

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// KubesprayRelease describes what differs between releases of Kubespray in using the bastions. It is read from a
// checkout, or built in.
type KubesprayRelease struct {
	Release string `json:"release"` // "v2.31.0"
	// URLs and Images are the variables whose defaults contain a public host, as written.
	URLs   map[string]string `json:"urls"`
	Images map[string]string `json:"images"`
	// MirrorServer and MirrorCA: containerd_registries_mirrors supports server, and ca.
	MirrorServer bool `json:"mirror_server"`
	MirrorCA     bool `json:"mirror_ca"`
	// CiliumCLI: the Cilium CLI downloads its chart. CiliumChart: the chart's location can be configured.
	CiliumCLI   bool `json:"cilium_cli"`
	CiliumChart bool `json:"cilium_chart"`
}

// NewestKubespray is the newest release that is known without a checkout.
const NewestKubespray = "v2.31.0"

// The known releases are 2.oldest to 2.newest: before, each file has its own variable.
const oldestKubespray, newestKubespray = 25, 31

var releaseName = regexp.MustCompile(`^v?2\.([0-9]{1,3})\.([0-9]{1,3})$`)

// KnownKubespray returns the built-in description of a release; "" is the newest. The variables' names are the same
// in all patch releases.
func KnownKubespray(version string) (*KubesprayRelease, error) {
	if version == "" {
		version = NewestKubespray
	}
	minor := 0
	if m := releaseName.FindStringSubmatch(version); m != nil {
		minor, _ = strconv.Atoi(m[1])
	}
	if minor < oldestKubespray || minor > newestKubespray {
		return nil, fmt.Errorf("version %q of Kubespray is not known, only v2.%d.0 to %s: give its checkout with "+
			"--kubespray DIR",
			version, oldestKubespray, NewestKubespray)
	}
	k := &KubesprayRelease{Release: "v" + strings.TrimPrefix(version, "v"), MirrorServer: true, MirrorCA: minor >= 28,
		CiliumCLI: minor >= 28, CiliumChart: minor >= 29}
	const docker = "https://download.docker.com/linux/"
	el, argo := "rhel", "v"
	if minor < 28 {
		el, argo = "centos", ""
	}
	k.URLs = map[string]string{
		"github_url": "https://github.com", "dl_k8s_io_url": "https://dl.k8s.io",
		"storage_googleapis_url": "https://storage.googleapis.com", "get_helm_url": "https://get.helm.sh",
		"argocd_install_url": "https://raw.githubusercontent.com/argoproj/argo-cd/" + argo +
			"{{ argocd_version }}/manifests/install.yaml",
		"kubelet_csr_approver_repository_url": "https://postfinance.github.io/kubelet-csr-approver",
		"nvidia_gpu_gtx_base_url":             "http://us.download.nvidia.com/XFree86/Linux-x86_64/",
		"nvidia_gpu_tesla_base_url":           "https://us.download.nvidia.com/tesla/",
		"docker_debian_repo_base_url":         docker + "debian", "docker_debian_repo_gpgkey": docker + "debian/gpg",
		"docker_ubuntu_repo_base_url": docker + "ubuntu", "docker_ubuntu_repo_gpgkey": docker + "ubuntu/gpg",
		"docker_fedora_repo_base_url": docker + "fedora/{{ ansible_distribution_major_version }}/$basearch/stable",
		"docker_fedora_repo_gpgkey":   docker + "fedora/gpg",
		"docker_rh_repo_base_url":     docker + el + "/{{ ansible_distribution_major_version }}/$basearch/stable",
		"docker_rh_repo_gpgkey":       docker + el + "/gpg",
	}
	k.Images = map[string]string{
		"kube_image_repo": "registry.k8s.io", "gcr_image_repo": "gcr.io", "github_image_repo": "ghcr.io",
		"docker_image_repo": "docker.io", "quay_image_repo": "quay.io",
		"azure_csi_image_repo":        "mcr.microsoft.com/oss/kubernetes-csi",
		"azure_csi_plugin_image_repo": "mcr.microsoft.com/k8s/csi", "gcp_pd_csi_image_repo": "gke.gcr.io",
		"local_path_provisioner_helper_image_repo":    "busybox",
		"external_huawei_cloud_controller_image_repo": "swr.ap-southeast-1.myhuaweicloud.com",
		"nvidia_driver_install_centos_container":      "atzedevries/nvidia-centos-driver-installer:2",
		"nvidia_driver_install_ubuntu_container":      "registry.k8s.io/ubuntu-nvidia-driver-installer@sha256:7df76a0f0a17294e86f691c81de6bbb7c04a1b4b3d4ea4e7e2cccdc42e1f6d63",
		"nvidia_gpu_device_plugin_container":          "registry.k8s.io/nvidia-gpu-device-plugin@sha256:0842734032018be107fa2490c98156992911e3e1f2a21e059ff0105b07dd8e9e",
	}
	if minor < 27 {
		k.Images["external_openstack_cloud_controller_image_repo"] =
			"registry.k8s.io/provider-os/openstack-cloud-controller-manager"
	} else {
		k.Images["external_oracle_cloud_controller_image_repo"] = "ghcr.io/oracle/cloud-provider-oci"
	}
	if minor < 28 {
		k.URLs["containerd_debian_repo_base_url"], k.URLs["containerd_ubuntu_repo_base_url"] = docker+"debian",
			docker+"ubuntu"
	}
	return k, nil
}

var variableName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,99}$`)

// sound refuses text that no checkout contains: it goes into YAML, and through Ansible to every node.
func (k *KubesprayRelease) sound() error {
	if len(k.Release) > 40 || strings.Trim(k.Release, "abcdefghijklmnopqrstuvwxyz0123456789.-+") != "" ||
		k.Release == "" {
		return fmt.Errorf("a release of Kubespray must have the form v2.31.0, got %q", k.Release)
	}
	for _, m := range []map[string]string{k.URLs, k.Images} {
		for name, value := range m {
			if !variableName.MatchString(name) {
				return fmt.Errorf("a variable of Kubespray must consist of letters, digits and _, got %q", name)
			}
			if len(value) > 1000 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
				return fmt.Errorf("the variable %s must be one line of ASCII, got %q", name, value)
			}
		}
	}
	return nil
}

// KubesprayModes are the modes of KubesprayVars.
var KubesprayModes = []string{"dns", "mirror"}

// KubesprayVars writes variables for Kubespray's inventory. Mode "dns" is for nodes that use the bastions as
// resolvers: all names stay as they are, and only Kubespray's own resolver settings have to be right. Mode "mirror"
// is for nodes that keep their resolver: every file and image is requested under the bastions' own names.
func KubesprayVars(s *Site, mode string, k *KubesprayRelease) (*Conf, error) {
	if !slices.Contains(KubesprayModes, mode) {
		return nil, fmt.Errorf("the mode must be %s, got %q", strings.Join(KubesprayModes, " or "), mode)
	}
	if err := s.sound(); err != nil {
		return nil, err
	}
	if err := k.sound(); err != nil {
		return nil, err
	}
	c := &Conf{}
	if mode == "dns" {
		c.file("group_vars/all/casemate.yml", s.kubesprayDNS(k))
		c.note("nodes and the machine that runs Ansible need the CA and the bastions as resolvers before Kubespray " +
			"starts: casemate enroll")
		if s.dualStack() {
			c.note("the bastions have IPv4 and IPv6 addresses, and the variables have both: if the nodes and pods " +
				"have one family only, remove the other's addresses")
		}
		return c, nil
	}
	c.file("group_vars/all/offline.yml", s.kubesprayOffline(k, c))
	c.file("group_vars/all/containerd.yml", s.kubesprayContainerd(k, c))
	c.note("nodes and the machine that runs Ansible need the CA and the bastions' names before Kubespray starts: " +
		"the line of casemate enroll, with --no-resolver at its end")
	return c, nil
}

// One place of the three that glibc reads is for the cluster's own DNS, and CoreDNS forwards to 15 servers at most.
const kubesprayNameservers, corednsUpstreams = 2, 15

// kubesprayDNS returns the few variables that Kubespray needs in mode "dns".
func (s *Site) kubesprayDNS(k *KubesprayRelease) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Kubespray %s with the bastions as resolvers: files and images keep their names, so "+
		"offline.yml stays as it is.\n---\n", k.Release)
	b.WriteString("# Kubespray writes these to resolv.conf or NetworkManager. glibc reads three lines, and after the " +
		"installation the first of them is the cluster's own DNS.\n")
	addrs := Resolvers(s.Nodes, kubesprayNameservers)
	yamlList(&b, "nameservers", addrs[:min(kubesprayNameservers, len(addrs))])
	b.WriteString("# The cluster DNS's upstream servers for external names, and systemd-resolved's FallbackDNS; " +
		"CoreDNS accepts at most 15.\n")
	addrs = Resolvers(s.Nodes, corednsUpstreams)
	yamlList(&b, "upstream_dns_servers", addrs[:min(corednsUpstreams, len(addrs))])
	b.WriteString("# Only applies with http_proxy or https_proxy: names that the bastions serve do not go through a " +
		"proxy.\n")
	names := []string{s.Domain}
	for _, o := range s.Origins {
		names = append(append(names, o.Host), o.Aliases...)
	}
	slices.Sort(names[1:])
	fmt.Fprintf(&b, "additional_no_proxy: \"%s\"\n", strings.Join(slices.Compact(names), ","))
	return b.String()
}

func yamlList(b *strings.Builder, name string, addrs []netip.Addr) {
	b.WriteString(name + ":\n")
	for _, a := range addrs {
		fmt.Fprintf(b, "  - \"%s\"\n", a)
	}
}

// firstURLs are the variables at the top of offline.yml, in its order.
var firstURLs = []string{"github_url", "dl_k8s_io_url", "storage_googleapis_url", "get_helm_url"}
var firstImages = []string{"kube_image_repo", "gcr_image_repo", "github_image_repo", "docker_image_repo",
	"quay_image_repo"}

// kubesprayOffline makes Kubespray download everything from the bastions: files below files.<domain>/HOST, images
// below registry.<domain>/HOST. With the host in the name the content is unambiguous, unlike with the flat names of
// many guides.
func (s *Site) kubesprayOffline(k *KubesprayRelease, c *Conf) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Kubespray %s without DNS override: every file and image under the bastions' own names.\n---\n",
		k.Release)
	fmt.Fprintf(&b, "registry_host: \"registry.%s\"\nfiles_repo: \"https://files.%s\"\n", s.Domain, s.Domain)
	fmt.Fprintf(&b, "# Only applies with http_proxy or https_proxy.\nadditional_no_proxy: \"%s\"\n", s.Domain)
	var left []string
	write := func(m map[string]string, first []string, to func(string) (value, host string)) {
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(n string) bool {
			return slices.Contains(first, n)
		})
		for _, name := range append(slices.Clone(first), names...) {
			text, ok := m[name]
			if !ok {
				continue
			}
			if value, host := to(text); s.answers(host) {
				fmt.Fprintf(&b, "%s: %s\n", name, yamlText(value))
			} else {
				left = append(left, name+" ("+host+")")
			}
		}
	}
	b.WriteString("\n# Images: the path starts with the registry's name.\n")
	write(k.Images, firstImages, mirrorImage)
	b.WriteString("pod_infra_image_repo: \"{{ kube_image_repo }}/pause\"\n")
	b.WriteString("\n# Files: the path starts with the file's original host.\n")
	write(k.URLs, firstURLs, mirrorURL)
	switch {
	case k.CiliumChart:
		b.WriteString(ciliumVars)
	case k.CiliumCLI:
		c.note("Kubespray %s downloads Cilium's chart from helm.cilium.io, which no variable can change: with "+
			"Cilium, the first control plane node must resolve that name to the bastions",
			k.Release)
	}
	if len(left) > 0 {
		slices.Sort(left)
		c.note("not changed, because their hosts are not origins (to add them: casemate origin add): %s",
			strings.Join(left, ", "))
	}
	return b.String()
}

// ciliumVars makes the Cilium CLI use the bastions' chart. The chart pins images by digest, but Kubespray downloads
// them by tag, and only those digests are stored.
const ciliumVars = `
# Cilium: the CLI gets the chart from here, and uses the images that Kubespray lists, not those that the chart pins.
cilium_install_extra_flags: "--repository {{ files_repo }}/helm.cilium.io/"
cilium_extra_values:
  image:
    useDigest: false
  operator:
    image:
      useDigest: false
  hubble:
    relay:
      image:
        useDigest: false
    ui:
      backend:
        image:
          useDigest: false
      frontend:
        image:
          useDigest: false
  certgen:
    image:
      useDigest: false
  envoy:
    image:
      useDigest: false
`

// mirrorImage prefixes a repository with the registry's own name. One without a host is Docker Hub's.
func mirrorImage(text string) (value, host string) {
	host, rest, _ := strings.Cut(text, "/")
	switch {
	case strings.Contains(host, ".") && rest != "" || plainHost(host):
	case rest == "":
		host, text = "docker.io", "docker.io/library/"+text
	default:
		host, text = "docker.io", "docker.io/"+text
	}
	return "{{ registry_host }}/" + text, host
}

// mirrorURL prefixes a URL with the file server's own name.
func mirrorURL(text string) (value, host string) {
	_, rest, _ := strings.Cut(text, "://")
	host, _, _ = strings.Cut(rest, "/")
	if _, err := url.Parse("https://" + host); err != nil {
		host = ""
	}
	return "{{ files_repo }}/" + rest, host
}

// answers reports whether the bastions serve a host.
func (s *Site) answers(host string) bool {
	return slices.ContainsFunc(s.Origins, func(o Origin) bool {
		return o.Host == host || slices.Contains(o.Aliases, host)
	})
}

// yamlText quotes a text; sound accepted only one line of ASCII.
func yamlText(s string) string {
	if strings.ContainsAny(s, `"\`) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return `"` + s + `"`
}

// kubesprayCA is where casemate enroll writes all roots to one file.
const kubesprayCA = "/etc/casemate/ca.crt"

// kubesprayContainerd lists every bastion for registry.<domain>, so that one that is down costs little, and for the
// upstream names, which the charts and manifests that Kubespray applies use for images.
func (s *Site) kubesprayContainerd(k *KubesprayRelease, c *Conf) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Kubespray %s: containerd uses only the bastions, in this order. This list replaces "+
		"Kubespray's own.\n---\n", k.Release)
	if k.MirrorCA {
		fmt.Fprintf(&b, "# The file to which casemate enroll writes the CA.\ncasemate_ca_file: \"%s\"\n", kubesprayCA)
	} else {
		b.WriteString("# This release's hosts.toml has no ca: containerd uses the system's trust store, to which " +
			"casemate enroll adds the CA.\n")
	}
	own := "registry." + s.Domain
	b.WriteString("containerd_registries_mirrors:\n")
	for _, name := range append([]string{own}, s.Pulled()...) {
		fmt.Fprintf(&b, "  - prefix: \"%s\"\n", name)
		if k.MirrorServer {
			fmt.Fprintf(&b, "    server: \"https://%s\"\n", own)
		}
		b.WriteString("    mirrors:\n")
		for _, n := range s.Nodes {
			fmt.Fprintf(&b, "      - host: \"https://%s\"\n        capabilities: [\"pull\", \"resolve\"]\n        "+
				"skip_verify: false\n", s.Host(n))
			if k.MirrorCA {
				b.WriteString("        ca: [\"{{ casemate_ca_file }}\"]\n")
			}
		}
	}
	if !k.MirrorServer {
		c.note("the hosts.toml of Kubespray %s has the registry itself as the last server: if the bastions do not "+
			"have an image, containerd waits for the Internet until it times out", k.Release)
	}
	return b.String()
}
