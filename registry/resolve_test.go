package registry

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// The same content through each of the four views.
func TestFourViews(t *testing.T) {
	s := newShelf(t)
	d, layer := s.image("registry.k8s.io/pause", "3.10", "pause")
	address := View{Host: "10.0.0.11:5000"}
	for _, ref := range []string{"manifests/3.10", "manifests/" + d.String()} {
		s.want(on("registry.k8s.io"), "/v2/pause/"+ref, d)
		s.want(s.own, "/v2/registry.k8s.io/pause/"+ref, d)
		s.want(s.own, "/v2/registry.k8s.io:443/pause/"+ref, d)
		s.want(s.own, "/v2/pause/"+ref+"?ns=registry.k8s.io", d)
		s.want(s.own, "/v2/registry.k8s.io/pause/"+ref+"?ns=registry.k8s.io:443", d)
		s.want(address, "/v2/registry.k8s.io/pause/"+ref, d)
		s.want(s.own, "/v2/pause/"+ref, d)
		s.want(address, "/v2/pause/"+ref, d)
	}
	s.want(s.own, "/v2/pause/blobs/"+layer.String(), layer)
	s.want(on("registry.k8s.io"), "/v2/pause/blobs/"+layer.String(), layer)
	misses, luck := s.taken()
	if len(misses) != 0 || len(luck) != 0 {
		t.Errorf("exact reads were reported: misses %q, luck %q", misses, luck)
	}
	s.want(on("quay.io"), "/v2/pause/manifests/3.10", "")
	s.want(s.own, "/v2/quay.io/pause/manifests/3.10", "")
	s.want(s.own, "/v2/quay.io/pause/manifests/3.10?ns=registry.k8s.io", "") // they differ: the prefix wins
}

// What was imported from an origin that is no longer enabled can still be read by its name.
func TestUnknownOrigin(t *testing.T) {
	s := newShelf(t)
	d, _ := s.image("gone.example/team/app", "1", "app")
	s.want(s.own, "/v2/gone.example/team/app/manifests/1", d)
	s.want(s.own, "/v2/gone.example:5000/team/app/manifests/1", d)
	s.want(s.own, "/v2/team/app/manifests/1?ns=gone.example:5000", d)
}

// A name with a dot under ns may be meant literally where the prefix is no origin of ours.
func TestPrefixOrNamespace(t *testing.T) {
	s := newShelf(t)
	d, _ := s.image("quay.io/my.org/app", "1", "app")
	s.want(s.own, "/v2/my.org/app/manifests/1?ns=quay.io", d)
	other, _ := s.image("my.org/app", "1", "other")
	s.want(s.own, "/v2/my.org/app/manifests/1?ns=quay.io", other)
	s.want(on("quay.io"), "/v2/my.org/app/manifests/1", d)
	s.image("quay.io/x/app", "1", "namesake") // so that the last path element says nothing
	s.want(on("quay.io"), "/v2/quay.io/my.org/app/manifests/1", d)
	s.image("registry.k8s.io/quay.io/your.org/app", "1", "literally below ns")
	s.want(s.own, "/v2/quay.io/your.org/app/manifests/1?ns=registry.k8s.io",
		"") // the prefix is an origin of ours: it wins
}

// Flat tries the exact repository in the origins' order, then local ones, then the tolerances; each by reference.
func TestFlatOrder(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesAll))
	at := func(tag string) string { return "/v2/app/manifests/" + tag }
	namesake, _ := s.image("quay.io/team/app", "1", "namesake")
	s.want(s.own, at("1"), namesake)
	library, _ := s.image("docker.io/library/app", "1", "library")
	s.want(s.own, at("1"), library)
	local, _ := s.image("app", "1", "local")
	s.want(s.own, at("1"), local)
	third, _ := s.image("quay.io/app", "1", "third")
	s.want(s.own, at("1"), third)
	first, _ := s.image("docker.io/app", "1", "first")
	s.want(s.own, at("1"), first)

	// Not by repository: each reference is found where it is.
	only, _ := s.image("quay.io/app", "2", "only there")
	s.want(s.own, at("2"), only)
	two, _ := s.image("app", "3", "local three")
	s.want(s.own, at("3"), two)
	lib, _ := s.image("docker.io/library/app", "4", "library four")
	s.want(s.own, at("4"), lib)
	s.want(s.own, at("5"), "")
}

// Two candidates with different digests are reported, until they agree again.
func TestConflicts(t *testing.T) {
	s := newShelf(t)
	a, _ := s.image("docker.io/app", "1", "a")
	s.image("quay.io/app", "1", "a")
	s.want(s.own, "/v2/app/manifests/1", a)
	if c := s.reg.Conflicts(); len(c) != 0 {
		t.Errorf("the same content twice is no conflict: %v", c)
	}
	b, _ := s.image("quay.io/app", "1", "b")
	l, _ := s.image("app", "1", "l")
	s.want(s.own, "/v2/app/manifests/1", a)
	want := fmt.Sprint([]Conflict{{"app:1", []string{"docker.io/app@" + a.String(), "quay.io/app@" + b.String(),
		"app@" + l.String()}}})
	if c := fmt.Sprint(s.reg.Conflicts()); c != want {
		t.Errorf("conflicts %s, want %s", c, want)
	}
	s.want(s.own, "/v2/quay.io/app/manifests/1", b) // and with the origin said there is none
	s.image("quay.io/app", "1", "a")
	s.image("app", "1", "a")
	s.want(s.own, "/v2/app/manifests/1", a)
	if c := s.reg.Conflicts(); len(c) != 0 {
		t.Errorf("the conflict is over, but: %v", c)
	}
}

func TestConflictsAreBounded(t *testing.T) {
	var c conflicts
	for i := range 2 * maxConflicts {
		c.record(fmt.Sprint("app:", i), hit{repo: "a"}, []hit{{repo: "b"}})
	}
	if len(c.byName) != maxConflicts {
		t.Errorf("%d conflicts are remembered, want %d", len(c.byName), maxConflicts)
	}
	c.record("app:0", hit{repo: "a"}, []hit{{repo: "b"}, {repo: "c"}})
	if n := len(c.byName["app:0"].Candidates); n != 3 {
		t.Errorf("a known conflict was not brought up to date: %d candidates", n)
	}
}

// Every tolerance, in the views where it helps; each is counted.
func TestTolerances(t *testing.T) {
	for _, c := range []struct {
		why, held, target string
		view              View
	}{
		{"library/ left out, flat", "docker.io/library/nginx", "/v2/nginx", View{}},
		{"library/ left out, prefix", "docker.io/library/nginx", "/v2/docker.io/nginx", View{}},
		{"library/ left out, ns", "docker.io/library/nginx", "/v2/nginx?ns=docker.io", View{}},
		{"library/ left out, origin", "docker.io/library/nginx", "/v2/nginx", on("docker.io")},
		{"library/ added, flat", "registry.k8s.io/nginx", "/v2/library/nginx", View{}},
		{"library/ added, origin", "registry.k8s.io/nginx", "/v2/library/nginx", on("registry.k8s.io")},
		{"library/ added, local", "nginx", "/v2/library/nginx", View{}},
		{"library/ left out, local", "library/nginx", "/v2/nginx", View{}},
		{"coredns for coredns/coredns", "registry.k8s.io/coredns/coredns", "/v2/coredns", View{}},
		{"coredns for coredns/coredns, origin", "registry.k8s.io/coredns/coredns", "/v2/coredns",
			on("registry.k8s.io")},
		{"coredns/coredns for coredns", "registry.k8s.io/coredns", "/v2/coredns/coredns", View{}},
		{"coredns below a path", "k8s/coredns/coredns", "/v2/k8s/coredns", View{}},
		{"last path element, flat", "quay.io/calico/node", "/v2/node", View{}},
		{"last path element, flat, with a path", "quay.io/calico/node", "/v2/mirror/node", View{}},
		{"last path element, origin", "quay.io/calico/node", "/v2/node", on("quay.io")},
		{"last path element, ns", "quay.io/calico/node", "/v2/other/node?ns=quay.io", View{}},
		{"last path element, local", "team/tools/node", "/v2/node", View{}},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := newShelf(t, namesakes(NamesakesAll))
			if c.view.Host == "" {
				c.view = s.own
			}
			d, layer := s.image(c.held, "1", c.why)
			path, query, _ := strings.Cut(c.target, "?")
			s.want(c.view, path+"/manifests/1?"+query, d)
			misses, luck := s.taken()
			want := " < " + c.held + ":1"
			if strings.HasPrefix(c.why, "last path element") {
				want += " of another publisher"
			}
			if len(luck) != 2 || len(misses) != 0 || !strings.HasSuffix(luck[0], want) {
				t.Errorf("misses %q, luck %q; want to be told twice that %s:1 answered", misses, luck, c.held)
			}
			// The client continues by digest under the same name.
			s.want(c.view, path+"/manifests/"+d.String()+"?"+query, d)
			s.want(c.view, path+"/blobs/"+layer.String()+"?"+query, layer)
			s.want(c.view, path+"/manifests/2?"+query, "")
		})
	}
}

func namesakes(allowed string) func(*Config) {
	return func(c *Config) { c.Namesakes = func() string { return allowed } }
}

// registry.namesakes: a repository with only the last element in common with the requested name is another publisher's.
// It answers an origin's name only if that is enabled, and never without a warning.
func TestNamesakes(t *testing.T) {
	const none, local, all = "never", "local", "all"
	for _, c := range []struct {
		held, target string
		view         View
		from         string // the least setting with which it answers
	}{
		{"docker.io/evilcorp/redis", "/v2/library/redis", on("docker.io"), all},
		{"docker.io/evilcorp/redis", "/v2/redis", on("docker.io"), all},
		{"docker.io/evilcorp/redis", "/v2/bitnami/redis", on("docker.io"), all},
		{"docker.io/evilcorp/redis", "/v2/bitnami/redis?ns=docker.io", View{}, all},
		{"docker.io/evilcorp/redis", "/v2/docker.io/bitnami/redis", View{}, all},
		{"docker.io/library/redis", "/v2/bitnami/redis", on("docker.io"), all},
		{"docker.io/evilcorp/redis", "/v2/redis", View{}, all},
		{"docker.io/evilcorp/redis", "/v2/bitnami/redis", View{}, all},
		{"quay.io/calico/node", "/v2/node", View{}, all},
		{"registry.k8s.io/sig/storage/pause", "/v2/pause", on("registry.k8s.io"), all},
		{"gone.example/evilcorp/redis", "/v2/redis", View{}, all}, // no origin of ours, or not any more
		{"team-a/redis", "/v2/redis", View{}, local},
		{"team-a/redis", "/v2/team-b/redis", View{}, local},
		{"team-a/redis", "/v2/library/redis", on("docker.io"), none}, // registry.local_fallback is of "redis" alone
		{"quay.io/evilcorp/redis", "/v2/library/redis", on("docker.io"), none},
		{"quay.io/evilcorp/redis", "/v2/docker.io/library/redis", View{}, none},
	} {
		for _, setting := range []string{"", NamesakesOff, NamesakesLocal, NamesakesAll} {
			t.Run(setting+" "+c.held+" for "+c.target, func(t *testing.T) {
				s := newShelf(t)
				if setting != "" {
					s = newShelf(t, namesakes(setting))
				}
				view := c.view
				if view.Host == "" && view.Origin == "" {
					view = s.own
				}
				d, layer := s.image(c.held, "1", "x")
				path, query, _ := strings.Cut(c.target, "?")
				good := c.from == all && setting == NamesakesAll || c.from == local && setting != NamesakesOff
				want := digest.Digest("")
				if good {
					want = d
				}
				s.want(view, path+"/manifests/1?"+query, want)
				s.want(view, path+"/manifests/"+d.String()+"?"+query, want)
				if res := s.ask(view, "GET", path+"/blobs/"+layer.String()+"?"+query); (res.StatusCode == 200) != good {
					t.Errorf("the layer: %d", res.StatusCode)
				}
				if res := s.ask(view, "GET", path+"/tags/list?"+query); (res.StatusCode == 200) != good {
					t.Errorf("the tags: %d", res.StatusCode)
				}
				if !good {
					return
				}
				for _, method := range []string{"GET", "HEAD"} {
					res := s.ask(view, method, path+"/manifests/1?"+query)
					if w := res.Header.Get("Warning"); !strings.HasPrefix(w, `299 - "`) || !strings.Contains(w,
						c.held) {
						t.Errorf("%s: warning %q", method, w)
					}
				}
			})
		}
	}
}

// What is no namesake needs no setting and no warning.
func TestOtherTolerancesDoNotWarn(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesOff))
	for held, target := range map[string]string{
		"docker.io/library/nginx":         "/v2/docker.io/nginx",
		"registry.k8s.io/coredns/coredns": "/v2/registry.k8s.io/coredns",
		"pause":                           "/v2/pause?ns=registry.k8s.io",
	} {
		d, _ := s.image(held, "1", held)
		path, query, _ := strings.Cut(target, "?")
		s.want(s.own, path+"/manifests/1?"+query, d)
		if w := s.ask(s.own, "GET", path+"/manifests/1?"+query).Header.Get("Warning"); w != "" {
			t.Errorf("%s: warning %q", target, w)
		}
	}
}

// A last path element leads nowhere outside of the origin that was named.
func TestToleranceStaysInOrigin(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesAll))
	s.image("quay.io/calico/node", "1", "node")
	s.want(on("docker.io"), "/v2/node/manifests/1", "")
	s.want(s.own, "/v2/docker.io/calico/node/manifests/1", "")
	s.want(s.own, "/v2/node/manifests/1?ns=registry.k8s.io", "")
	s.image("docker.io.example/node", "1", "another origin that begins alike")
	s.want(on("docker.io"), "/v2/node/manifests/1", "")
}

// A host without a dot is no origin, and a local repository that is called like it is not below it.
func TestHostWithoutDot(t *testing.T) {
	s := newShelf(t)
	d, _ := s.image("harbor/team/app", "1", "app")
	s.want(s.own, "/v2/harbor/team/app/manifests/1", d)
	s.want(s.own, "/v2/harbor:5000/team/app/manifests/1", "")
	s.want(s.own, "/v2/team/app/manifests/1?ns=harbor:5000", "")
}

// An ambiguous tolerance is a 404 with the candidates in the missing book; one by reference, or with the same content,
// is none.
func TestAmbiguousTolerance(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesAll))
	s.image("quay.io/calico/node", "1", "a")
	s.image("docker.io/library/other/node", "1", "b")
	s.want(s.own, "/v2/node/manifests/1", "")
	misses, luck := s.taken()
	want := "node:1: ambiguous, held with different content: docker.io/library/other/node, quay.io/calico/node"
	if len(luck) != 0 || !slices.Equal(misses, []string{want, want}) {
		t.Errorf("misses %q, luck %q, want twice %q", misses, luck, want)
	}
	res := s.ask(s.own, "GET", "/v2/node/manifests/1")
	if c := code(t, res); c != "MANIFEST_UNKNOWN" {
		t.Errorf("code %s", c)
	}
	only, layer := s.image("quay.io/calico/node", "2", "c")
	s.want(s.own, "/v2/node/manifests/2", only)
	s.want(s.own, "/v2/node/blobs/"+layer.String(), layer)
	same, _ := s.image("quay.io/calico/node", "3", "d")
	s.image("docker.io/library/other/node", "3", "d")
	s.want(s.own, "/v2/node/manifests/3", same)

	s.image("quay.io/library/nginx", "1", "e")
	s.image("docker.io/library/nginx", "1", "f")
	s.want(s.own, "/v2/nginx/manifests/1", "") // whose library was meant is not said
}

// registry.local_fallback: people push pause:3.10 flat and then pull it with ns=registry.k8s.io.
func TestLocalFallback(t *testing.T) {
	on1 := on("registry.k8s.io")
	fallback := true
	s := newShelf(t, namesakes(NamesakesAll), func(c *Config) { c.LocalFallback = func() bool { return fallback } })
	d, layer := s.image("pause", "3.10", "pushed")
	for _, want := range []struct {
		view   View
		target string
	}{
		{s.own, "/v2/pause/%s?ns=registry.k8s.io"},
		{s.own, "/v2/registry.k8s.io/pause/%s"},
		{s.own, "/v2/harbor.example:5000/pause/%s"},
		{s.own, "/v2/pause/%s?ns=harbor:5000"},
		{on1, "/v2/pause/%s"},
		{on1, "/v2/sig/storage/pause/%s"}, // then of its last element
		{s.own, "/v2/docker.io/library/pause/%s"},
	} {
		s.want(want.view, fmt.Sprintf(want.target, "manifests/3.10"), d)
		s.want(want.view, fmt.Sprintf(want.target, "manifests/"+d.String()), d)
		s.want(want.view, fmt.Sprintf(want.target, "blobs/"+layer.String()), layer)
	}
	deep, _ := s.image("sig/storage/pause", "3.10", "deep")
	s.want(on1, "/v2/sig/storage/pause/manifests/3.10", deep) // that path before its last element
	origin, _ := s.image("registry.k8s.io/pause", "3.10", "the origin's own")
	s.want(on1, "/v2/pause/manifests/3.10", origin) // only where the origin lacks the reference
	newer, _ := s.image("pause", "3.11", "newer")
	s.want(on1, "/v2/pause/manifests/3.11", newer)

	fallback = false
	s.want(on1, "/v2/pause/manifests/3.10", origin)
	s.want(on1, "/v2/pause/manifests/3.11", "")
	s.want(on1, "/v2/sig/storage/pause/manifests/3.10", origin) // a namesake of the same origin
	s.want(s.own, "/v2/pause/manifests/3.11", newer)
}

// The fallback is to local repositories: a path that begins like an origin is not one.
func TestLocalFallbackIsLocal(t *testing.T) {
	s := newShelf(t)
	s.image("quay.io/app/x", "1", "x")
	s.want(on("docker.io"), "/v2/quay.io/app/x/manifests/1", "")
}

// With too many namesakes there is no telling, and none is looked into.
func TestNamesakesAreBounded(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesAll))
	for i := range maxNamesakes {
		s.layer(fmt.Sprintf("team%d/app", i), "x")
	}
	d, _ := s.image("team0/app", "1", "one")
	s.want(s.own, "/v2/app/manifests/1", d)
	s.image("quay.io/one/more/app", "1", "two")
	s.want(s.own, "/v2/app/manifests/1", "")
	only, _ := s.image("quay.io/one/more/app", "2", "three")
	s.want(on("quay.io"), "/v2/app/manifests/2", only)
	for i := range maxNamesakes {
		s.layer(fmt.Sprintf("quay.io/team%d/app", i), "x")
	}
	s.want(on("quay.io"), "/v2/app/manifests/2", "")
}

// The directories are read again after a change, but under a storm for a tenth of the time only.
func TestNamesBudget(t *testing.T) {
	s := newShelf(t)
	n := s.reg.read.names
	now := time.Unix(1e9, 0)
	cost := 300 * time.Millisecond
	n.now = func() time.Time { now = now.Add(cost / 2); return now } // one reading takes from now to now
	n.last = now
	reads := 0
	for i := range 20 {
		s.layer(fmt.Sprintf("team%d/app", i), "x")
		if before := n.current; n.fresh() != before {
			reads++
		}
	}
	if reads < 3 || reads > 12 {
		t.Errorf("read %d times out of 20 within %v", reads, now.Sub(time.Unix(1e9, 0)))
	}
	now = now.Add(time.Minute)
	if got := len(n.fresh().repos); got != 20 {
		t.Errorf("after a pause %d repositories are known, want 20", got)
	}
	if before := n.current; n.fresh() != before {
		t.Error("read again though nothing had changed")
	}
}

// The index follows other nodes' writes to the tree, in both directions.
func TestNamesFollowTheTree(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesAll))
	s.want(s.own, "/v2/node/manifests/1", "")
	d, _ := s.image("quay.io/calico/node", "1", "node")
	s.want(s.own, "/v2/node/manifests/1", d)
	if err := s.tree.Update(context.Background(), func(b Batch) error {
		b.Remove(repoDir("quay.io/calico"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.want(s.own, "/v2/node/manifests/1", "")
	if n := len(s.reg.read.names.fresh().repos); n != 0 {
		t.Errorf("%d repositories are known of an empty tree", n)
	}
}

// A pusher sees the manifests of the named repository and of no other; otherwise it would not tag manifests that exist
// elsewhere. Blobs are named in that repository by then (TestAPushersHeadMounts).
func TestPushersSeeOneRepository(t *testing.T) {
	s := newShelf(t, func(c *Config) {
		c.Account = func(_ context.Context, id string) (*Account, error) { return mayAll(id), nil }
	})
	d, layer := s.image("docker.io/library/nginx", "1", "nginx")
	sign := func(subject string, actions ...string) string {
		c := claims{Issuer: s.reg.cfg.Domain, Subject: subject, Audience: s.reg.cfg.Domain,
			NotBefore: time.Now().Unix() - 30, IssuedAt: time.Now().Unix() - 30,
			Expires: time.Now().Add(tokenLife).Unix(), Access: []access{{"repository", "nginx", actions}}}
		token, err := signToken(s.reg.cfg.TokenKey, c)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + token
	}
	for _, path := range []string{"manifests/1", "manifests/" + d.String(), "blobs/" + layer.String()} {
		for _, c := range []struct {
			token  string
			status int
		}{
			{sign("ci", "pull", "push"), map[bool]int{true: 200, false: 404}[strings.HasPrefix(path, "blobs/")]},
			{sign("ci", "pull"), 200},
			{sign("", "pull"), 200},
			{"Bearer nonsense", 200},
			{"Basic Y2k6Y2k=", 200},
		} {
			s.taken()
			res := s.ask(s.own, http.MethodHead, "/v2/nginx/"+path, "Authorization", c.token)
			misses, _ := s.taken()
			if res.StatusCode != c.status || len(misses) != 0 {
				t.Errorf("HEAD %s with %.40s: %d, misses %q; want %d and none", path, c.token, res.StatusCode, misses,
					c.status)
			}
			if res := s.ask(s.own, http.MethodGet, "/v2/nginx/"+path, "Authorization", c.token); res.StatusCode != 200 {
				t.Errorf("GET %s with %.40s: %d", path, c.token, res.StatusCode)
			}
		}
	}
}

// The index knows which origins have images without asking each, and is never behind an acknowledged write.
func TestHeldOrigins(t *testing.T) {
	origins := []string{"a.example", "b.example", "c.example"}
	stats := &statCounter{}
	s := newShelf(t, func(c *Config) {
		stats.Tree, c.Tree = c.Tree, stats
		c.Origins = func() []string { return origins }
	})
	s.want(s.own, "/v2/app/manifests/1", "")
	d, _ := s.image("c.example/app", "1", "c")
	s.want(s.own, "/v2/app/manifests/1", d)
	stats.n = 0
	s.want(s.own, "/v2/app/manifests/1", d)
	if stats.n != 4 { // GET and HEAD: the one origin and the local name
		t.Errorf("%d look-ups, want 4", stats.n)
	}
	first, _ := s.image("a.example/app", "1", "a")
	s.want(s.own, "/v2/app/manifests/1", first)
	origins = []string{"c.example", "a.example"}
	s.want(s.own, "/v2/app/manifests/1", d)
	s.update(func(b Batch) { b.Remove(repoDir("c.example")) })
	s.want(s.own, "/v2/app/manifests/1", first)
}

type statCounter struct {
	Tree
	n int
}

func (c *statCounter) Stat(name string) (fs.FileInfo, error) {
	c.n++
	return c.Tree.Stat(name)
}

// Who got an image through a tolerance asks for its signatures by the same name.
func TestReferrersFollowTolerance(t *testing.T) {
	s := newShelf(t)
	d, _ := s.image("docker.io/library/nginx", "1", "nginx")
	signature := s.manifest("docker.io/library/nginx", "",
		fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":"%s","artifactType":"a/b","config":{"digest":"%s"},"subject":{"digest":"%s"}}`, typeOCIManifest, sha, d), "")
	s.update(func(b Batch) {
		b.Link(referrerPath("docker.io/library/nginx", d, signature), signature.String())
	})
	for target, want := range map[string]int{"/v2/nginx": 1, "/v2/library/nginx": 1, "/v2/docker.io/nginx": 1,
		"/v2/quay.io/nginx": 0} {
		res := s.ask(s.own, "GET", target+"/referrers/"+d.String())
		got := decode[struct{ Manifests []descriptor }](t, res)
		if res.StatusCode != 200 || len(got.Manifests) != want || want == 1 && got.Manifests[0].Digest != signature {
			t.Errorf("%s: %d %+v, want %d referrer", target, res.StatusCode, got, want)
		}
	}
}
