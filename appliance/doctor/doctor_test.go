package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestNothingWrong: on a correctly configured node no trouble is found and no check is skipped.
func TestNothingWrong(t *testing.T) {
	f := newFakes(t, 3)
	r := f.run(f.config())
	if r.Failed+r.Warnings+r.Skipped != 0 || len(r.Checks) != 10 || len(r.Bastions) != 3 {
		t.Errorf("\n%s", text(r))
	}
	f.write(EnrolledFile, "# by enroll\nmode dns\n127.0.0.2\n")
	f.write("/etc/resolv.conf", "nameserver 127.0.0.53\n")
	f.write(behindStub, "nameserver 127.0.0.1\nnameserver 127.0.0.2\n")
	r = f.run(f.config())
	// nothing listens at the stub
	if r.Failed != 1 || !slices.Equal(found(r), []string{"lookup-timeout"}) || len(r.Bastions) != 3 {
		t.Errorf("\n%s", text(r))
	}
}

// TestMirrorMode: on a correctly configured node in mirror mode no trouble is found either, and no resolver is asked
// for an origin.
func TestMirrorMode(t *testing.T) {
	f := newFakes(t, 3)
	f.mirrored()
	f.write("/etc/resolv.conf", "nameserver 192.0.2.1\n")
	f.answer = func(_ netip.Addr, q dnsmessage.Question) (dnsmessage.RCode, []netip.Addr, bool) {
		t.Errorf("a bastion is asked for %s", q.Name)
		return 0, nil, false
	}
	r := f.run(f.config())
	if r.Failed+r.Warnings+r.Skipped != 0 || len(r.Checks) != 9 || len(r.Bastions) != 3 {
		t.Errorf("\n%s", text(r))
	}
	for _, want := range []string{"registry.casemate.internal/" + smallImage,
		"https://files.casemate.internal/dl.k8s.io/kubeadm", "known by " + EnrolledFile} {
		if !strings.Contains(text(r), want) {
			t.Errorf("no %s in\n%s", want, text(r))
		}
	}
}

// TestTroubles makes one thing wrong at a time.
func TestTroubles(t *testing.T) {
	status := func(code int, path string) func(f *fakes) {
		return func(f *fakes) {
			f.serve = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, path) {
					w.WriteHeader(code)
					return true
				}
				return false
			}
		}
	}
	write := func(name, text string) func(f *fakes) { return func(f *fakes) { f.write(name, text) } }
	// spoil changes the bytes of blobs of at least that size.
	spoil := func(least int, how func(w http.ResponseWriter, r *http.Request, data []byte)) func(f *fakes) {
		return func(f *fakes) {
			f.serve = func(w http.ResponseWriter, r *http.Request) bool {
				data := f.blobs[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
				if len(data) < least || !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				w.Header().Set("Content-Length", strconv.Itoa(len(data)))
				how(w, r, data)
				return true
			}
		}
	}
	for _, c := range []struct {
		name    string
		n       int
		mirror  bool
		without []string // of every bastion
		wrong   func(f *fakes)
		edit    func(c *Config)
		want    string
	}{
		{name: "port 443 is closed", n: 1, without: []string{"https"}, want: "refused"},
		{name: "port 53 is closed over TCP", n: 1, without: []string{"tcp"}, want: "refused"},
		{name: "port 53 is closed over UDP", n: 1, without: []string{"udp"}, want: "lookup-timeout refused"},
		{name: "one of three is down", n: 3, without: []string{"n2"}, want: "refused?"},
		{name: "the first of three is down", n: 3, without: []string{"n1"}, want: "refused?",
			wrong: write("/etc/resolv.conf", "nameserver 127.0.0.2\nnameserver 127.0.0.1\nnameserver 127.0.0.3\n")},
		{name: "another web server", n: 1, wrong: func(f *fakes) {
			f.plain = func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, "<html>"); return true }
		}, edit: func(c *Config) { c.Bastions = []string{"127.0.0.1"} }, want: "not-casemate"},
		{name: "a site without an end", n: 1, wrong: func(f *fakes) {
			f.plain = func(w http.ResponseWriter, r *http.Request) bool {
				for b := make([]byte, 1<<20); ; {
					if _, err := w.Write(b); err != nil {
						return true
					}
				}
			}
		}, edit: func(c *Config) { c.Bastions = []string{"127.0.0.1"} }, want: "not-casemate"},
		{name: "a site that is an attack on a terminal", n: 1, wrong: func(f *fakes) {
			f.site.Origins[0].Host = "\x1b[2Jdl.k8s.io"
		},
			edit: func(c *Config) { c.Bastions = []string{"127.0.0.1"} }, want: "not-casemate"},
		{name: "resolvers that are no bastions", n: 1, wrong: func(f *fakes) {
			f.plain = func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(404); return true }
		}, want: "no-bastion"},
		{name: "no resolver", n: 1, wrong: write("/etc/resolv.conf", "# none\n"), edit: func(c *Config) {
			c.Bastions = []string{"127.0.0.1"}
		}, want: "no-resolver"},
		{name: "a foreign resolver", n: 1, wrong: write("/etc/resolv.conf", "nameserver 192.0.2.1\n"),
			edit: func(c *Config) { c.Bastions = []string{"127.0.0.1"} }, want: "foreign-only"},
		{name: "a foreign resolver first", n: 1, wrong: write("/etc/resolv.conf",
			"nameserver 192.0.2.1\nnameserver 127.0.0.1\n"), edit: func(c *Config) {
			c.Bastions = []string{"127.0.0.1"}
		}, want: "foreign-among"},
		{name: "a foreign resolver behind", n: 1, wrong: write("/etc/resolv.conf",
			"nameserver 127.0.0.1\nnameserver 192.0.2.1\n"), edit: func(c *Config) {
			c.Bastions = []string{"127.0.0.1"}
		}, want: "foreign-among?"},
		{name: "more than three resolvers", n: 1, wrong: write("/etc/resolv.conf",
			strings.Repeat("nameserver 127.0.0.1\n", 4)), want: "many-resolvers?"},
		{name: "nsswitch", n: 1, wrong: write("/etc/nsswitch.conf", "hosts: files mdns4\n"), want: "nsswitch"},
		{name: "DNSSEC", n: 1, wrong: func(f *fakes) {
			f.write("/etc/resolv.conf", "# This is /run/systemd/resolve/resolv.conf managed by "+
				"man:systemd-resolved(8).\nnameserver 127.0.0.1\n")
			f.write("/etc/systemd/resolved.conf", "[Resolve]\nDNSSEC=no\n")
			f.write("/etc/systemd/resolved.conf.d/x.conf", "[Resolve]\nDNSSEC=yes\n")
		}, want: "dnssec"},
		{name: "NetworkManager's global DNS", n: 1, wrong: write("/etc/NetworkManager/conf.d/dns.conf",
			"[global-dns-domain-*]\nservers=192.0.2.1,127.0.0.1\n"), want: "global-dns"},
		{name: "a name that the bastion does not know", n: 1, wrong: func(f *fakes) {
			f.answer = func(_ netip.Addr, q dnsmessage.Question) (dnsmessage.RCode, []netip.Addr, bool) {
				return dnsmessage.RCodeNameError, nil, q.Name.String() == "quay.io."
			}
		}, want: "name-lost name-unknown"},
		{name: "a resolver that lies", n: 2, wrong: func(f *fakes) {
			f.site.Nodes = f.site.Nodes[1:] // the first one is not a bastion: a resolver that knows all names itself
			f.answer = func(at netip.Addr, q dnsmessage.Question) (dnsmessage.RCode, []netip.Addr, bool) {
				return dnsmessage.RCodeSuccess, []netip.Addr{netip.MustParseAddr("192.0.2.7")},
					at == netip.MustParseAddr("127.0.0.1")
			}
		}, edit: func(c *Config) { c.Bastions = []string{"127.0.0.2"} }, want: "name-elsewhere"},
		{name: "no IPv6 is no name", n: 1, wrong: func(f *fakes) {
			f.answer = func(_ netip.Addr, q dnsmessage.Question) (dnsmessage.RCode, []netip.Addr, bool) {
				return dnsmessage.RCodeNameError, nil, q.Type == dnsmessage.TypeAAAA
			}
		}, want: "aaaa"},
		{name: "REFUSED", n: 1, wrong: func(f *fakes) {
			f.answer = func(netip.Addr, dnsmessage.Question) (dnsmessage.RCode, []netip.Addr, bool) {
				return dnsmessage.RCodeRefused, nil, true
			}
		}, want: "dns-refused lookup-timeout"},
		{name: "an old line in the hosts file", n: 1, wrong: write("/etc/hosts", "192.0.2.1 Registry.k8s.io # old\n"),
			want: "hosts-file"},
		{name: "the clock is behind", n: 1, edit: func(c *Config) {
			c.Now = func() time.Time { return time.Now().Add(-6 * time.Minute) }
		}, want: "clock"},
		{name: "the clock is a little ahead", n: 1, edit: func(c *Config) {
			c.Now = func() time.Time { return time.Now().Add(2 * time.Minute) }
		}, want: "clock?"},
		{name: "the clock is ahead by a day", n: 1, edit: func(c *Config) {
			c.Now = func() time.Time { return time.Now().Add(30 * time.Hour) }
		}, want: "clock"},
		{name: "the CA is not trusted", n: 1, wrong: write("/etc/ssl/certs/ca-certificates.crt", ""),
			want: "unknown-authority"},
		{name: "there is no trust store", n: 1, wrong: write("/etc/ssl/certs/ca-certificates.crt", "nonsense"),
			want: "unknown-authority"},
		{name: "the second root is not trusted", n: 1, wrong: func(f *fakes) {
			f.site.Roots += newAuthority(f.t, "second").pem()
		}, want: "new-root?"},
		{name: "somebody in between", n: 1, wrong: func(f *fakes) {
			other := newAuthority(f.t, "other")
			f.leaf = func(name string) (*tls.Certificate, error) {
				return other.leaf(name, time.Now().Add(time.Hour)), nil
			}
		}, want: "other-root"},
		{name: "a certificate for another name", n: 1, wrong: func(f *fakes) {
			f.leaf = func(string) (*tls.Certificate, error) {
				return f.ca.leaf("example.com", time.Now().Add(time.Hour)), nil
			}
		}, want: "wrong-name"},
		{name: "an expired certificate", n: 1, wrong: func(f *fakes) {
			f.leaf = func(name string) (*tls.Certificate, error) {
				return f.ca.leaf(name, time.Now().Add(-time.Minute)), nil
			}
		}, want: "expired"},
		{name: "no certificate", n: 1, wrong: func(f *fakes) {
			f.leaf = func(name string) (*tls.Certificate, error) { return nil, errors.New("no") }
		}, want: "tls-alert"},
		{name: "a runtime that is older than the trust store", n: 1, wrong: func(f *fakes) {
			f.write("/proc/stat", "cpu 1\nbtime 1000000000\n")
			f.write("/proc/77/comm", "containerd\n")
			f.write("/proc/77/stat", "77 (cont) ainerd) S "+strings.Repeat("0 ", 18)+"5000 0")
			f.write("/proc/78/comm", "bash\n")
		}, want: "stale-trust?"},
		{name: "a runtime that is younger than the root, in a store that was written anew since", n: 1,
			wrong: func(f *fakes) {
				f.write("/usr/local/share/ca-certificates/casemate-1.crt", f.site.Roots)
				f.running("containerd", time.Now().Add(time.Hour))
				f.changed("/etc/ssl/certs/ca-certificates.crt", time.Now().Add(2*time.Hour))
			}, want: ""},
		{name: "a runtime that is older than the root, which was copied with its old time", n: 1,
			wrong: func(f *fakes) {
				f.write("/etc/pki/ca-trust/source/anchors/casemate.crt", f.site.Roots)
				f.changed("/etc/pki/ca-trust/source/anchors/casemate.crt", time.Now().Add(-48*time.Hour))
				f.running("dockerd", time.Now().Add(-time.Hour))
				f.changed("/etc/ssl/certs/ca-certificates.crt", time.Now().Add(2*time.Hour))
			}, want: "stale-trust?"},
		{name: "a runtime in a store that was written anew with nobody knows what", n: 1, wrong: func(f *fakes) {
			f.write("/usr/local/share/ca-certificates/other.crt", newAuthority(f.t, "other").pem())
			f.running("crio", time.Now().Add(time.Hour))
			f.changed("/etc/ssl/certs/ca-certificates.crt", time.Now().Add(2*time.Hour))
		}, want: "stale-trust?"},
		{name: "a runtime that is younger than one root and older than the other", n: 1, wrong: func(f *fakes) {
			second := newAuthority(f.t, "second").pem()
			f.write("/usr/local/share/ca-certificates/casemate-1.crt", f.site.Roots)
			f.write("/usr/local/share/ca-certificates/casemate-2.crt", second)
			f.site.Roots += second
			f.write("/etc/ssl/certs/ca-certificates.crt", f.site.Roots)
			f.running("containerd", time.Now().Add(time.Hour))
			f.changed("/usr/local/share/ca-certificates/casemate-2.crt", time.Now().Add(2*time.Hour))
			f.changed("/etc/ssl/certs/ca-certificates.crt", time.Now().Add(3*time.Hour))
		}, want: "stale-trust?"},
		{name: "hosts.toml leads elsewhere", n: 1, wrong: write("/etc/containerd/certs.d/registry.k8s.io/hosts.toml",
			"server = \"https://registry.k8s.io\"\n[host.\"https://harbor.example.com\"]\n  capabilities = "+
				"[\"pull\",\n \"resolve\"]\n"), want: "mirror-elsewhere"},
		{name: "hosts.toml of another registry", n: 1,
			wrong: write("/etc/containerd/certs.d/harbor.example.com/hosts.toml",
				"server = \"https://harbor.example.com\"\n"), want: ""},
		{name: "hosts.toml of a bastion", n: 1, wrong: write("/etc/containerd/certs.d/registry.k8s.io/hosts.toml",
			"server = \"https://n1.casemate.internal\"\n[host.\"https://127.0.0.1\"]\n"), want: ""},
		{name: "hosts.toml without verification", n: 1, wrong: write("/etc/containerd/certs.d/_default/hosts.toml",
			"[host.\"https://n1.casemate.internal\"]\nskip_verify = true\n"), want: "mirror-insecure?"},
		{name: "hosts.toml with a CA file that is not there", n: 1,
			wrong: write("/etc/containerd/certs.d/quay.io/hosts.toml",
				"ca = \"ca.crt\"\nserver = \"https://quay.io\"\n"), want: "mirror-ca"},
		{name: "hosts.toml that is none", n: 1, wrong: write("/etc/containerd/certs.d/quay.io/hosts.toml",
			"server: https://quay.io\n"), want: "mirror-unreadable"},
		{name: "Docker's folder", n: 1, wrong: write("/etc/docker/certs.d/quay.io/ca.crt", "nonsense"),
			want: "mirror-ca"},
		{name: "Docker's mirror", n: 1, wrong: write("/etc/docker/daemon.json",
			`{"registry-mirrors":["https://mirror.example.com"],"insecure-registries":["quay.io"]}`),
			want: "mirror-elsewhere? mirror-insecure?"},
		{name: "registries.conf", n: 1, wrong: write("/etc/containers/registries.conf.d/x.conf",
			"[[registry]]\nprefix = \"docker.io/library\"\nlocation = "+
				"\"mirror.example.com/hub\"\n[[registry.mirror]]\nlocation = \"quay.io\"\ninsecure = "+
				"true\n[[registry]]\nlocation = \"quay.io\"\nblocked = true\n"),
			want: "blocked mirror-elsewhere mirror-insecure?"},
		{name: "a proxy in the environment", n: 1, edit: func(c *Config) {
			c.Env = []string{"https_proxy=http://user:secret@proxy.example.com:3128", "NO_PROXY=.k8s.io"}
		}, want: "proxy"},
		{name: "a proxy that is not for the origins", n: 1, edit: func(c *Config) {
			c.Env = []string{"HTTPS_PROXY=http://proxy.example.com:3128", "no_proxy=k8s.io,docker.io,quay.io"}
		}, want: ""},
		{name: "a proxy of containerd", n: 1, wrong: write("/etc/systemd/system/containerd.service.d/http-proxy.conf",
			"[Service]\nEnvironment=\"HTTPS_PROXY=http://proxy.example.com:3128\" 'NO_PROXY=quay.io'\n"),
			want: "proxy"},
		{name: "a proxy of apt", n: 1, wrong: func(f *fakes) {
			f.write("/etc/apt/apt.conf.d/90proxy",
				"// x\nAcquire::http::Proxy "+
					"\"http://user:secret@proxy.example.com:3142\";\nAcquire::http::Proxy::quay.io \"DIRECT\";\n")
			f.write("/etc/dnf/dnf.conf", "[main]\nproxy=_none_\n")
		}, want: "package-proxy?"},
		{name: "the root is in the folder only", n: 1, wrong: func(f *fakes) {
			f.write("/etc/ssl/certs/ca-certificates.crt", newAuthority(f.t, "other").pem())
			f.write("/etc/ssl/certs/casemate.pem", f.ca.pem())
		}, want: "bundle-lacks?"},
		{name: "a challenge", n: 1, wrong: func(f *fakes) {
			f.serve = func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("WWW-Authenticate", "Bearer realm=x")
				w.WriteHeader(401)
				return true
			}
		}, want: "challenge file-missing"},
		{name: "503", n: 1, wrong: status(503, "/v2/"), want: "registry-status"},
		{name: "an image that is not there", n: 1, edit: func(c *Config) { c.Image = "registry.k8s.io/none:1" },
			want: "manifest-unknown"},
		{name: "an image for another platform", n: 1, wrong: func(f *fakes) {
			f.tags["quay.io/vax:1"] = f.blob([]byte(
				`{"manifests":[{"digest":"sha256:0","platform":{"os":"linux","architecture":"vax"}}]}`))
		}, edit: func(c *Config) { c.Image = "quay.io/vax:1" }, want: "no-platform"},
		{name: "a damaged layer", n: 1, wrong: spoil(1000, func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Write(append([]byte("x"), data[1:]...))
		}), want: "digest"},
		{name: "a layer that breaks off", n: 1, wrong: spoil(1000,
			func(w http.ResponseWriter, _ *http.Request, data []byte) {
				w.Write(data[:500])
				panic(http.ErrAbortHandler)
			}), want: "cut"},
		{name: "a file that is not there", n: 1, edit: func(c *Config) { c.File = "https://dl.k8s.io/none" },
			want: "file-missing"},
		{name: "ranges are ignored", n: 1, wrong: func(f *fakes) {
			f.serve = func(w http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false }
		}, want: "range"},
		{name: "a range of other bytes", n: 1, wrong: func(f *fakes) {
			f.serve = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") != "" {
					r.Header.Set("Range", "bytes=0-33")
				}
				return false
			}
		}, want: "range"},
		{name: "BASTION is a name", n: 2, wrong: write("/etc/hosts", "127.0.0.2 b2.site.example\n"),
			edit: func(c *Config) { c.Bastions = []string{"B2.site.example."} }, want: ""},
		{name: "config_path by an import", n: 1, wrong: func(f *fakes) {
			f.write(containerdConf, "imports = ['x/*.toml']\n")
			f.write("/etc/containerd/x/1.toml", "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = "+
				"\"/etc/containerd/certs.d/\"\n")
			f.write("/etc/containerd/certs.d/quay.io/hosts.toml", "server = \"https://quay.io\"\n")
		}, want: ""},
		{name: "config_path is another's", n: 1, wrong: func(f *fakes) {
			f.write(containerdConf, "[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = "+
				"''\n[plugins.'io.containerd.transfer.v1.local']\nconfig_path = '/etc/containerd/certs.d'\n")
			f.write("/etc/containerd/certs.d/quay.io/hosts.toml", "server = \"https://quay.io\"\n")
		}, want: "config-path?"},
		{name: "hosts.toml in another directory", n: 1, wrong: func(f *fakes) {
			f.write(containerdConf, "[plugins.cri.registry]\nconfig_path = \"/etc/x\"\n")
			f.write("/etc/x/quay.io/hosts.toml", "server = \"https://harbor.example.com\"\n")
		}, want: "mirror-elsewhere"},
		{name: "registries.yaml", n: 1, wrong: write("/etc/rancher/k3s/registries.yaml",
			"mirrors:\n  \"*\":\n  quay.io: {endpoint: [\"https://harbor.example.com\"]}\n  harbor.example.com: "+
				"{endpoint: [\"https://x\"]}\n"+
				"configs:\n  quay.io: {auth: {username: x}, tls: {insecure_skip_verify: true}}\n  registry.k8s.io: "+
				"{tls: {ca_file: /etc/none}}\n"), want: "mirror-ca mirror-elsewhere mirror-insecure?"},
		{name: "registries.yaml that is none", n: 1, wrong: write("/etc/rancher/rke2/registries.yaml", "mirrors: [\n"),
			want: "mirror-unreadable"},
		{name: "a CA file of another CA", n: 1, wrong: func(f *fakes) {
			f.write("/etc/containerd/certs.d/quay.io/hosts.toml", "server = \"https://quay.io\"\nca = \"ca.crt\"\n")
			f.write("/etc/containerd/certs.d/quay.io/ca.crt", newAuthority(f.t, "other").pem())
		}, want: "mirror-ca-root?"},

		{name: "mirrors: one of three is down", n: 3, mirror: true, without: []string{"n2"}, want: "refused?"},
		{name: "mirrors: nobody listens at port 53", n: 1, mirror: true, without: []string{"tcp", "udp"}, want: ""},
		{name: "mirrors: without what enroll leaves", n: 2, mirror: true, wrong: write(EnrolledFile, ""),
			edit: func(c *Config) { c.Mode = "mirror" }, want: ""},
		{name: "mirrors: nothing names a bastion", n: 1, wrong: func(*fakes) {}, edit: func(c *Config) {
			c.Mode = "mirror"
		}, want: "not-enrolled"},
		{name: "mirrors: the hosts file has no lines", n: 2, mirror: true,
			wrong: write("/etc/hosts", "127.0.0.1 localhost\n"), want: "own-name-lost"},
		{name: "mirrors: a bastion that came later", n: 2, mirror: true, wrong: func(f *fakes) {
			f.write("/etc/hosts", "127.0.0.1 n1.casemate.internal registry.casemate.internal files.casemate.internal "+
				"casemate.internal\n")
		}, want: "own-name-lost?"},
		{name: "mirrors: old lines in the hosts file", n: 1, mirror: true,
			wrong: write("/etc/hosts", "192.0.2.1 n1.casemate.internal registry.casemate.internal "+
				"files.casemate.internal casemate.internal\n"), want: "hosts-file"},
		{name: "mirrors: a resolver that lies", n: 1, mirror: true, wrong: func(f *fakes) {
			f.write("/etc/hosts", "")
			f.answer = func(_ netip.Addr, q dnsmessage.Question) (dnsmessage.RCode, []netip.Addr, bool) {
				return dnsmessage.RCodeSuccess, []netip.Addr{netip.MustParseAddr("192.0.2.7")},
					q.Type == dnsmessage.TypeA
			}
		}, want: "own-name-elsewhere"},
		{name: "mirrors: the CA is not trusted", n: 1, mirror: true, wrong: write("/etc/ssl/certs/ca-certificates.crt",
			""), want: "unknown-authority"},
		{name: "mirrors: the CA file is gone", n: 1, mirror: true, wrong: func(f *fakes) {
			os.Remove(filepath.Join(f.root, "/etc/casemate/ca.crt"))
		}, want: "mirror-ca"},
		{name: "mirrors: a proxy for the own names", n: 1, mirror: true, edit: func(c *Config) {
			c.Env = []string{"HTTPS_PROXY=http://proxy.example.com", "NO_PROXY=k8s.io"}
		}, want: "proxy"},
		{name: "mirrors: a proxy for others", n: 1, mirror: true, edit: func(c *Config) {
			c.Env = []string{"HTTPS_PROXY=http://proxy.example.com", "NO_PROXY=casemate.internal"}
		}, want: ""},
		{name: "mirrors: a registry without a mirror", n: 1, mirror: true, wrong: func(f *fakes) {
			os.Remove(filepath.Join(f.root, "/etc/containerd/certs.d/quay.io/hosts.toml"))
			os.Remove(filepath.Join(f.root, "/etc/containerd/certs.d/_default/hosts.toml"))
		}, want: "mirror-lacking?"},
		{name: "mirrors: a registry that the catch-all has", n: 1, mirror: true, wrong: func(f *fakes) {
			os.Remove(filepath.Join(f.root, "/etc/containerd/certs.d/quay.io/hosts.toml"))
		}, want: ""},
		{name: "mirrors: the registry itself is the last", n: 1, mirror: true, wrong: func(f *fakes) {
			f.write("/etc/containerd/certs.d/quay.io/hosts.toml", "[host.\"https://n1.casemate.internal\"]\n")
			os.Remove(filepath.Join(f.root, "/etc/rancher/k3s/config.yaml.d/50-casemate.yaml"))
		}, want: "mirror-last?"},
		{name: "mirrors: none is a bastion", n: 1, mirror: true, wrong: func(f *fakes) {
			f.write("/etc/containerd/certs.d/quay.io/hosts.toml", "server = \"https://quay.io\"\n")
			f.write("/etc/containers/registries.conf.d/60-x.conf",
				"[[registry]]\nprefix = \"*.k8s.io\"\nlocation = \"registry.k8s.io\"\n")
		}, want: "mirror-elsewhere"}, // the catch-alls have the rest
		{name: "mirrors: a password", n: 1, mirror: true, wrong: status(401, "/token"), want: "challenge"},
		{name: "mirrors: a token of somebody else", n: 1, mirror: true, wrong: func(f *fakes) {
			f.serve = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/v2/" {
					return false
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="https://auth.example.com/token"`)
				w.WriteHeader(401)
				return true
			}
		}, want: "challenge"},
		{name: "mirrors: an image that is not there", n: 1, mirror: true, edit: func(c *Config) {
			c.Image = "quay.io/none:1"
		}, want: "manifest-unknown"},
		{name: "mirrors: an image by the own name", n: 1, mirror: true, edit: func(c *Config) {
			c.Image, c.File = "registry.casemate.internal/"+smallImage,
				"https://files.casemate.internal/dl.k8s.io/kubeadm"
		}, want: ""},
		{name: "mirrors: a node that is one of DNS", n: 1, mirror: true,
			wrong: write("/etc/resolv.conf", "nameserver 192.0.2.1\n"), edit: func(c *Config) {
				c.Mode = "dns"
			}, want: "foreign-only"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFakes(t, c.n, c.without...)
			if c.mirror {
				f.mirrored()
			}
			if c.wrong != nil {
				c.wrong(f)
			}
			cfg := f.config()
			if c.edit != nil {
				c.edit(&cfg)
			}
			r := f.run(cfg)
			if got := strings.Join(found(r), " "); got != c.want {
				t.Errorf("found %q, want %q\n%s", got, c.want, text(r))
			}
			failed := slices.ContainsFunc(strings.Fields(c.want), func(id string) bool {
				return !strings.HasSuffix(id, "?")
			})
			if failed != (r.Failed > 0) {
				t.Errorf("%d failed\n%s", r.Failed, text(r))
			}
			for _, line := range strings.Split(text(r), "\n") {
				if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) ||
					strings.Contains(line, "secret") {
					t.Errorf("it prints %q", line)
				}
			}
		})
	}
}

// TestStall: a connection that begins and then stalls is reported when its limit has passed, at one of several
// bastions too. On a busy machine something else may exceed these short limits; the verdict is then the same.
func TestStall(t *testing.T) {
	site, stall := siteTime, stallTime
	siteTime, stallTime = 2*time.Second, time.Second/2
	defer func() { siteTime, stallTime = site, stall }()
	t.Run("an answer", func(t *testing.T) {
		f := newFakes(t, 2)
		f.plain = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.Host, "127.0.0.2:") {
				return false
			}
			w.Header().Set("Content-Length", "5000")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}
		cfg := f.config()
		cfg.Bastions = []string{"127.0.0.1"}
		if r := f.run(cfg); r.Failed == 0 || !slices.Equal(found(r), []string{"stall"}) {
			t.Errorf("found %q\n%s", found(r), text(r))
		}
	})
	t.Run("a layer", func(t *testing.T) {
		f := newFakes(t, 1)
		f.serve = func(w http.ResponseWriter, r *http.Request) bool {
			data := f.blobs[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
			if len(data) < minLarge {
				return false
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Write(data[:100])
			w.(http.Flusher).Flush()
			<-r.Context().Done() // until doctor has given up
			return true
		}
		if r := f.run(f.config()); r.Failed == 0 || !slices.Equal(found(r), []string{"stall"}) {
			t.Errorf("found %q\n%s", found(r), text(r))
		}
	})
}

func TestWrongArguments(t *testing.T) {
	for _, c := range []Config{{Bastions: []string{"a b"}}, {Bastions: []string{"10.0.0.300"}}, {
		Bastions: []string{"b1:53"}}, {Mode: "both"}, {Image: "quay.io/../x"}, {Image: "quay.io/x@sha256:1"}, {
		File: "/etc/passwd"}} {
		c.Root = t.TempDir()
		if _, err := Run(context.Background(), c); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// A valid name that does not resolve: no check is possible.
	if _, err := Run(context.Background(), Config{Root: t.TempDir(),
		Bastions: []string{"b1.site.example"}}); err == nil || errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Config{Root: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestReferences(t *testing.T) {
	for s, want := range map[string]string{
		"nginx": "registry-1.docker.io/library/nginx:latest", "docker.io/a/b:1": "registry-1.docker.io/a/b:1",
		"quay.io/a/b": "quay.io/a/b:latest", "team/x:1": "registry-1.docker.io/team/x:1",
		"registry.k8s.io/pause@sha256:" + strings.Repeat("0a", 32): "registry.k8s.io/pause@sha256:" +
			strings.Repeat("0a", 32),
	} {
		if f, err := parseRef(s); err != nil || f.String() != want {
			t.Errorf("%s: %s %v", s, f, err)
		}
	}
}
