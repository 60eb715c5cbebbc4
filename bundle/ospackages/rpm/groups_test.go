package rpm

import (
	"context"
	"iter"
	"slices"
	"strings"
	"testing"
)

const compsXML = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE comps PUBLIC "-//Red Hat, Inc.//DTD Comps info//EN" "comps.dtd">
<comps>
  <group><id>core</id><name>Core</name><name xml:lang="de">Kern</name><packagelist>
    <packagereq type="mandatory">a</packagereq>
    <packagereq type="default"> b </packagereq>
    <packagereq type="optional">c</packagereq>
    <packagereq type="conditional" requires="a">d</packagereq>
    <packagereq type="default">nowhere</packagereq>
    <packagereq>e</packagereq>
    <packagereq type="mandatory">*</packagereq>
    <packagereq type="mandatory">@empty</packagereq>
  </packagelist></group>
  <group><id>empty</id><packagelist/></group>
  <environment><id>minimal</id><grouplist><groupid>core</groupid></grouplist></environment>
</comps>`

func TestGroups(t *testing.T) {
	packages := func() *rpmRepo {
		return newRepo(pkg("a", "1-1", "Requires: lib"), pkg("b", "1-1"), pkg("c", "1-1"), pkg("d", "1-1"),
			pkg("e", "1-1"), pkg("lib", "1-1"))
	}
	for name, c := range map[string]struct {
		comps  string
		wanted []string
		want   string // the packages
		says   string // a note, the error, or why it is unavailable
	}{
		"mandatory and default": {compsXML, []string{"@core"}, "a-1-1 b-1-1 e-1-1 lib-1-1",
			"p.list:1: the package nowhere is left out, because no repository has it"},
		"with a package":      {compsXML, []string{"c", "@core"}, "a-1-1 b-1-1 c-1-1 e-1-1 lib-1-1", ""},
		"a wrong ID":          {compsXML, []string{"@cor"}, "", "no repository has a group of this ID, near @core"},
		"a group of nothing":  {compsXML, []string{"@empty"}, "", "no repository has a group of this ID"},
		"an environment":      {compsXML, []string{"@minimal"}, "", "no repository has a group of this ID"},
		"no groups":           {"", []string{"@core"}, "", "no repository has a group of this ID"},
		"they cannot be read": {"<comps><group>", []string{"@core"}, "", "group.xml.gz: it cannot be read"},
		"nobody reads them":   {"<comps><group>", []string{"c"}, "c-1-1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := newSite(), packages()
			r.groups = c.comps
			r.publish(s)
			opt := options(t, aRepo(), c.wanted...)
			opt.Near = func(_ string, names iter.Seq[string]) string {
				return ", near " + strings.Join(slices.Sorted(names), " ")
			}
			said := ""
			res, err := Collect(context.Background(), s, opt)
			if err != nil {
				said = err.Error()
			} else {
				said = strings.Join(res.Notes, "\n")
				for _, u := range res.Unavailable {
					said += u.Where + ": " + u.Name + ": " + u.Err.Error()
				}
				if got := names(res); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			}
			if !strings.Contains(said, c.says) {
				t.Errorf("it says %q, want %q", said, c.says)
			}
		})
	}
}

func TestLargeGroups(t *testing.T) {
	many := "<comps><group><id>core</id><packagelist>" + strings.Repeat("<packagereq>a</packagereq>",
		maxGroupMembers+1) + "</packagelist></group></comps>"
	if err := (groups{}).read(strings.NewReader(many)); err == nil || !strings.Contains(err.Error(), "50000 packages") {
		t.Error(err)
	}
	if err := (groups{}).read(spaces{}); err == nil || !strings.Contains(err.Error(), "more than 16 MiB") {
		t.Error(err)
	}
}

// spaces is a document without an end.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func FuzzGroups(f *testing.F) {
	f.Add(compsXML)
	f.Fuzz(func(t *testing.T, text string) {
		g := groups{}
		if g.read(strings.NewReader(text)) != nil {
			return
		}
		for id, members := range g {
			if slices.ContainsFunc(members, func(m string) bool { return m == "" || strings.ContainsAny(m, "*?@") }) {
				t.Errorf("the group %q has %q", id, members)
			}
		}
	})
}
