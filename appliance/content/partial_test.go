package content

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"casemate/bundle"
)

// partly imports what can be taken of packs.
func (s *site) partly(name string, packs ...*pack) (*Result, error) {
	req := Request{Name: name, Partial: true}
	for _, p := range packs {
		req.Inputs = append(req.Inputs, bundle.Input{Name: p.file, File: p})
	}
	return s.Import(s.t.Context(), req)
}

func refusedNames(r *Result) (list []string) {
	for _, l := range r.Refused {
		list = append(list, l.Name)
	}
	slices.Sort(list)
	return list
}

// TestObstaclesAtOnce: everything that an import cannot store is reported at once and nothing is imported, or it is
// left out with its reason.
func TestObstaclesAtOnce(t *testing.T) {
	for _, kind := range []string{bundle.KindBundle, bundle.KindLayout} {
		s := newSite(t)
		p := sample("mixed.tar")
		p.kind = kind
		p.image("no.path:1.0", []byte("no place"))
		p.image("index.docker.io/library/nginx:1.29", []byte("means the same as another"))
		p.addFile("https://dl.k8s.io/"+strings.Repeat("x", 256), []byte("too long"))
		_, err := s.do("", p)
		if err == nil || !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("%s: got %v", kind, err)
		}
		for _, want := range []string{"3 names cannot be imported", "looks like a host",
			"two of its names resolve to the same name", strings.Repeat("x", 100)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", kind, err, want)
			}
		}
		differ(t, s.sees(sample("x")), none(sample("x")))
		r, err := s.partly("", p)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"https://dl.k8s.io/" + strings.Repeat("x", 256), "index.docker.io/library/nginx:1.29",
			"no.path:1.0"}
		if got := refusedNames(r); r.State != Imported || !slices.Equal(got, want) || r.Refused[0].Why == "" {
			t.Errorf("%s: %+v", kind, r)
		}
		if s.tag("docker.io/library/nginx:1.29") != "" || s.tag("quay.io/team/app:2") == "" ||
			s.file("https://dl.k8s.io/v1/kubeadm") == "" {
			t.Errorf("%s: not what was to be seen", kind)
		}
		// The same again changes nothing, and still says what it leaves out.
		if r, err := s.partly("", p); err != nil || r.State != Unchanged || len(r.Refused) != 3 {
			t.Errorf("%s: again: %+v, %v", kind, r, err)
		}
		s.close()
	}
}

// TestPartialWithoutLayers: an image whose layers nobody has is left out, and comes with the whole content later.
func TestPartialWithoutLayers(t *testing.T) {
	s := newSite(t)
	defer s.close()
	whole := sample("whole.tar")
	lost := *whole
	lost.order = slices.DeleteFunc(slices.Clone(whole.order), func(d string) bool {
		return strings.HasPrefix(string(whole.blobs[d]), "large ") || string(whole.blobs[d]) == "kubeadm"
	})
	if _, err := s.do("", &lost); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	for range 2 {
		r, err := s.partly("", &lost)
		if err != nil {
			t.Fatal(err)
		}
		if got := refusedNames(r); !slices.Equal(got, []string{"https://dl.k8s.io/v1/kubeadm", "quay.io/team/app:2"}) {
			t.Errorf("refused %q", got)
		}
	}
	if s.tag("quay.io/team/app:2") != "" || s.tag("docker.io/library/nginx:1.29") == "" {
		t.Error("not what was to be seen")
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	s.must("", whole)
	differ(t, s.sees(whole), wanted(whole))
}

// TestManagedFiles: a file that others write is refused by name.
func TestManagedFiles(t *testing.T) {
	s := newSite(t, func(c *Config) {
		c.Managed = func(key string) bool { return strings.HasPrefix(key, "packages.test/tools/") }
	})
	p := newPack("own.tar")
	p.addFile("https://packages.test/tools/dists/stable/InRelease", []byte("another"))
	p.addFile("https://packages.test/simple/a/a-1.tar.gz", []byte("a package of Python"))
	if _, err := s.do("", p); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "casemate package put") {
		t.Errorf("got %v", err)
	}
	r, err := s.partly("", p)
	if err != nil || !slices.Equal(refusedNames(r), []string{"https://packages.test/tools/dists/stable/InRelease"}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestNothingIsNoImport: an input without any name is refused.
func TestNothingIsNoImport(t *testing.T) {
	s := newSite(t)
	defer s.close()
	for _, kind := range []string{bundle.KindBundle, bundle.KindHaul} {
		p := newPack("empty.tar")
		p.kind = kind
		if _, err := s.do("", p); !errors.Is(err, fs.ErrInvalid) ||
			!strings.Contains(err.Error(), "it has no image and no file") {
			t.Errorf("%s: got %v", kind, err)
		}
	}
	p := newPack("refused.tar")
	p.image("no.path:1", []byte("x"))
	if _, err := s.partly("", p); err == nil || !strings.Contains(err.Error(), "nothing of it can be stored here") {
		t.Errorf("got %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := (&Checker{}).Check(t.Context(), CheckRequest{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a check of nothing: %v", err)
	}
}
