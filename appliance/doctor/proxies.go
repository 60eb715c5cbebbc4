package doctor

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// units are the services that pull and download on a node.
var units = []string{"containerd", "docker", "crio", "cri-o", "kubelet", "k3s", "k3s-agent", "rke2-server",
	"rke2-agent", "buildkit", "buildkitd"}

// proxies checks the proxy settings of every environment that programs on the node may have.
func (o *overrules) proxies() {
	o.proxy("the environment", environment(o.r.cfg.Env))
	if text, ok := o.read("/etc/environment"); ok {
		var env []string
		for line := range strings.Lines(text) {
			line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
			if k, v, ok := strings.Cut(line, "="); ok {
				env = append(env, k+"="+strings.Trim(v, `"'`))
			}
		}
		o.proxy("/etc/environment", environment(env))
	}
	for _, unit := range units {
		for _, dir := range []string{"/etc/systemd/system/", "/run/systemd/system/", "/usr/lib/systemd/system/",
			"/lib/systemd/system/"} {
			// The environments of all drop-ins are merged: one may set the proxy and another the exceptions.
			var env, files []string
			for _, f := range o.r.glob(dir + unit + ".service.d/*.conf") {
				text, ok := o.read(f)
				if !ok {
					continue
				}
				was := len(env)
				for _, v := range parseUnit(text, "Service", "Environment") {
					env = append(env, words(v)...)
				}
				if len(env) > was {
					files = append(files, filepath.Base(f))
				}
			}
			if len(files) > 0 {
				o.proxy(dir+unit+".service.d/"+files[0], environment(env))
			}
		}
	}
}

// aptProxy matches a line that configures a proxy for apt (apt.conf(5), apt-transport-http(1)); a line with a host
// applies to that host only.
var aptProxy = regexp.MustCompile(`(?mi)^\s*Acquire::https?::proxy(?:::([a-z0-9.-]+))?\s+"([^"]*)"`)

// packages checks the proxies of package managers.
func (o *overrules) packages() {
	report := func(file, proxy, names string) {
		if proxy != "" && !strings.EqualFold(proxy, "DIRECT") && proxy != "_none_" && o.elsewhere(proxy) {
			if u, err := url.Parse(proxy); err == nil {
				proxy = u.Redacted()
			}
			o.c.warn("package-proxy", values{"file": file, "detail": clip(proxy), "names": names})
		}
	}
	for _, f := range append([]string{"/etc/apt/apt.conf"}, o.r.glob("/etc/apt/apt.conf.d/*")...) {
		text, _ := o.read(f)
		for _, m := range aptProxy.FindAllStringSubmatch(text, -1) {
			if host := strings.ToLower(m[1]); host == "" {
				report(f, m[2], "every host")
			} else if o.concerns(host) {
				report(f, m[2], host)
			}
		}
	}
	for _, f := range []string{"/etc/dnf/dnf.conf", "/etc/yum.conf"} {
		text, _ := o.read(f)
		for _, v := range parseUnit(text, "main", "proxy") {
			report(f, v, "every host")
		}
	}
}

// environment returns the proxy settings in the variables; lower case takes precedence (as in net/http).
func environment(env []string) (c httpproxy.Config) {
	get := map[string]string{}
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok {
			get[k] = v
		}
	}
	one := func(name string) string {
		if v := get[name]; v != "" {
			return v
		}
		return get[strings.ToLower(name)]
	}
	return httpproxy.Config{HTTPProxy: one("HTTP_PROXY"), HTTPSProxy: one("HTTPS_PROXY"), NoProxy: one("NO_PROXY")}
}

// proxy reports names that a configuration would send to a proxy that is not a bastion.
func (o *overrules) proxy(file string, cfg httpproxy.Config) {
	if cfg.HTTPProxy == "" && cfg.HTTPSProxy == "" {
		return
	}
	through := cfg.ProxyFunc()
	var taken []string
	to := ""
	for _, n := range o.r.asked() {
		if p, err := through(&url.URL{Scheme: "https", Host: n, Path: "/"}); err == nil && p != nil {
			taken, to = append(taken, n), p.Redacted()
		}
	}
	if taken != nil {
		o.c.fail("proxy", values{"file": file, "names": some(taken), "detail": clip(to)})
	}
}

// words splits the value of Environment= (systemd.exec(5)) at blanks outside quotes.
func words(s string) (list []string) {
	var b strings.Builder
	quote, in := rune(0), false
	for _, c := range s {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				list = append(list, b.String())
			}
			b.Reset()
			in = false
		default:
			b.WriteRune(c)
			in = true
		}
	}
	if in {
		list = append(list, b.String())
	}
	return list
}
