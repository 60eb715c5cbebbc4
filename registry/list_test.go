package registry

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

type tagList struct {
	Name string
	Tags []string
}

func TestTags(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesAll))
	for _, tag := range []string{"b", "a", "C", "a.1", "a-1"} {
		s.image("registry.k8s.io/pause", tag, tag)
	}
	s.image("pause", "local", "l")
	s.image("pause", "a", "la")
	origin := []string{"C", "a", "a-1", "a.1", "b"}
	for _, c := range []struct {
		view       View
		path, name string
		tags       []string
	}{
		{on("registry.k8s.io"), "/v2/pause/tags/list", "pause", origin},
		{s.own, "/v2/registry.k8s.io/pause/tags/list", "registry.k8s.io/pause", origin},
		{s.own, "/v2/pause/tags/list?ns=registry.k8s.io", "pause", origin},
		{s.own, "/v2/pause/tags/list", "pause", []string{"C", "a", "a-1", "a.1", "b", "local"}},
		// all that a pull would find
	} {
		res := s.ask(c.view, "GET", c.path)
		got := decode[tagList](t, res)
		if res.StatusCode != 200 || got.Name != c.name || !slices.Equal(got.Tags, c.tags) ||
			res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %+v, want %s %q", c.path, res.StatusCode, got, c.name, c.tags)
		}
	}
	if _, luck := s.taken(); len(luck) != 0 {
		t.Errorf("luck %q", luck)
	}
	// A tolerance lists the tags that it would resolve, and is counted.
	if got := decode[tagList](t, s.ask(s.own, "GET", "/v2/registry.k8s.io/library/pause/tags/list")); !slices.Equal(
		got.Tags, origin) {
		t.Errorf("through a tolerance: %+v", got)
	}
	if _, luck := s.taken(); !slices.Equal(luck, []string{"registry.k8s.io/library/pause < registry.k8s.io/pause"}) {
		t.Errorf("luck %q", luck)
	}
	// A repository of blobs alone is one, without tags.
	s.layer("team/empty", "x")
	res := s.ask(s.own, "GET", "/v2/team/empty/tags/list")
	if got := body(t, res); res.StatusCode != 200 || got != `{"name":"team/empty","tags":[]}` {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	// Several namesakes: which was meant?
	s.image("quay.io/a/x", "1", "x")
	s.image("quay.io/b/x", "1", "x")
	if res := s.ask(on("quay.io"), "GET", "/v2/x/tags/list"); res.StatusCode != 404 || code(t, res) != "NAME_UNKNOWN" {
		t.Errorf("an ambiguous name: %d", res.StatusCode)
	}
	if misses, _ := s.taken(); !slices.Equal(misses, []string{"quay.io/x: ambiguous: quay.io/a/x, quay.io/b/x"}) {
		t.Errorf("misses %q", misses)
	}
}

// Following the links of every page size brings everything once, in order, and keeps the view.
func TestPages(t *testing.T) {
	s := newShelf(t)
	var tags, repos []string
	for i := range 7 {
		tags = append(tags, fmt.Sprintf("v1.%d", i))
		s.image("registry.k8s.io/pause", tags[i], tags[i])
		repos = append(repos, fmt.Sprintf("team/a%d", i))
		s.image("registry.k8s.io/"+repos[i], "1", "x")
	}
	repos = append([]string{"pause"}, repos...)
	follow := func(v View, target string) (all []string, pages int) {
		for target != "" {
			res := s.ask(v, "GET", target)
			if res.StatusCode != 200 {
				t.Fatalf("%s: %d", target, res.StatusCode)
			}
			got := decode[struct{ Tags, Repositories []string }](t, res)
			all = append(append(all, got.Tags...), got.Repositories...)
			pages++
			link, _, _ := strings.Cut(res.Header.Get("Link"), ">")
			target = strings.TrimPrefix(link, "<")
		}
		return all, pages
	}
	for n := 1; n <= 9; n++ {
		for _, c := range []struct {
			view   View
			target string
			want   []string
		}{
			{on("registry.k8s.io"), "/v2/pause/tags/list?n=%d", tags},
			{s.own, "/v2/pause/tags/list?ns=registry.k8s.io&n=%d", tags},
			{on("registry.k8s.io"), "/v2/_catalog?n=%d", repos},
			{s.own, "/v2/_catalog?ns=registry.k8s.io:443&n=%d", repos},
		} {
			got, pages := follow(c.view, fmt.Sprintf(c.target, n))
			if want := (len(c.want) + n - 1) / n; !slices.Equal(got, c.want) || pages != want {
				t.Errorf("%s, n=%d: %q in %d pages, want %q in %d", c.target, n, got, pages, c.want, want)
			}
		}
	}
	for _, c := range []struct {
		query  string
		status int
		tags   []string
		link   bool
	}{
		{"n=0", 200, []string{}, false},
		{"last=v1.5", 200, []string{"v1.6"}, false},
		{"last=v1.55", 200, []string{"v1.6"}, false},
		{"last=zzz", 200, []string{}, false},
		{"n=1&last=v1.2", 200, []string{"v1.3"}, true},
		{"n=-1", 400, nil, false},
		{"n=x", 400, nil, false},
	} {
		res := s.ask(on("registry.k8s.io"), "GET", "/v2/pause/tags/list?"+c.query)
		if res.StatusCode != c.status || (res.Header.Get("Link") != "") != c.link {
			t.Errorf("%s: %d, Link %q", c.query, res.StatusCode, res.Header.Get("Link"))
		}
		if c.status == 200 {
			if got := decode[tagList](t, res); got.Tags == nil || !slices.Equal(got.Tags, c.tags) {
				t.Errorf("%s: %q, want %q", c.query, got.Tags, c.tags)
			}
		} else if got := code(t, res); got != "PAGINATION_NUMBER_INVALID" {
			t.Errorf("%s: %s", c.query, got)
		}
	}
}

func TestCatalog(t *testing.T) {
	s := newShelf(t)
	for _, repo := range []string{"registry.k8s.io/pause", "docker.io/library/nginx", "team/app", "team/app/sub",
		"team-b/app", "docker.io/library/nginx-extra"} {
		s.image(repo, "1", repo)
	}
	for _, c := range []struct {
		view  View
		query string
		want  []string
	}{
		{s.own, "", []string{"docker.io/library/nginx", "docker.io/library/nginx-extra", "registry.k8s.io/pause",
			"team-b/app", "team/app", "team/app/sub"}},
		{s.own, "?ns=casemate.internal", []string{"docker.io/library/nginx", "docker.io/library/nginx-extra",
			"registry.k8s.io/pause", "team-b/app", "team/app", "team/app/sub"}},
		{s.own, "?ns=registry-1.docker.io", []string{"library/nginx", "library/nginx-extra"}},
		{on("docker.io"), "", []string{"library/nginx", "library/nginx-extra"}},
		{on("quay.io"), "", []string{}},
	} {
		got := decode[struct{ Repositories []string }](t, s.ask(c.view, "GET", "/v2/_catalog"+c.query))
		if got.Repositories == nil || !slices.Equal(got.Repositories, c.want) {
			t.Errorf("%s%s: %q, want %q", c.view.Host, c.query, got.Repositories, c.want)
		}
	}
}
