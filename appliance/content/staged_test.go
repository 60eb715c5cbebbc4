package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/bundle"
	"casemate/cluster"
	"casemate/cluster/tree"
)

// by is the context of somebody.
func (s *site) by(name string) context.Context {
	return tree.WithActor(s.t.Context(), tree.Actor{Name: name, How: "password"})
}

// needsApproval sets whether imports need an approval.
func (s *site) needsApproval(on bool) {
	s.t.Helper()
	require := func(b cluster.Batch) error { cluster.RequireApproval(b, on); return nil }
	if err := s.tree.Update(s.t.Context(), require); err != nil {
		s.t.Fatal(err)
	}
}

// stages imports a pack as alice, which has to end staged.
func (s *site) stages(name string, p *pack) *Result {
	s.t.Helper()
	r, err := s.Import(s.by("alice"), Request{Name: name, Inputs: []bundle.Input{{Name: p.file, File: p}}})
	if err != nil || r.State != Staged {
		s.t.Fatalf("%+v, %v", r, err)
	}
	return r
}

func (s *site) diff(name string) *Effect {
	s.t.Helper()
	d, err := s.Diff(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func TestAStagedImport(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{bundle.KindBundle, bundle.KindTree} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := sample("a.tar")
			p.kind = kind
			s.needsApproval(true)
			r := s.stages("", p)
			if r.Name != "a" || r.Maker != "alice" || r.Images != 2 || r.Files != 2 || r.New == 0 ||
				!strings.Contains(r.Message, "somebody other than alice") {
				t.Errorf("%+v", r)
			}
			if got := s.sees(p); !maps.Equal(got, none(p)) {
				t.Errorf("names before the approval: %v", got)
			}
			for d := range s.tree.Kept() {
				t.Errorf("an inventory would promise %s", d)
			}

			// It waits for days, over restarts and collections, and the same again changes nothing.
			s.restart()
			s.pass(13 * 24 * time.Hour)
			s.gc()
			if err := s.Upkeep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if again := s.stages("", p); again.Name != "a" {
				t.Errorf("%+v", again)
			}
			list, err := s.List()
			if err != nil || len(list) != 1 || list[0].State != Staged || list[0].Maker != "alice" ||
				list[0].KeptUntil.IsZero() {
				t.Errorf("%+v, %v", list, err)
			}
			if d, err := s.Show("a"); err != nil || d.State != Staged || len(d.Names) != r.New {
				t.Errorf("%+v, %v", d, err)
			}

			d := s.diff("a")
			if len(d.Changes) != r.New || d.New != r.New || d.ID != r.ID {
				t.Errorf("%+v", d)
			}
			done, err := s.Approve(s.by("bob"), "a", d.Diff)
			if err != nil || done.State != Imported || done.Approver != "bob" || done.Maker != "alice" {
				t.Fatalf("%+v, %v", done, err)
			}
			differ(t, s.sees(p), wanted(p))
			s.gc()
			if n := s.whole(p); n != len(p.order) {
				t.Errorf("%d of %d blobs are whole", n, len(p.order))
			}
			stored, err := s.readRecord("a")
			if err != nil || stored.Approver != "bob" || stored.Maker != "alice" || !s.intact(stored) {
				t.Errorf("%+v, %v", stored, err)
			}
			if again := s.must("", p); again.State != Unchanged {
				t.Errorf("%+v", again)
			}
			if _, err := s.Remove(s.by("alice"), "a"); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a rejection or the expiry leaves is nothing; the content can be imported again.
func TestRejectedAndExpired(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *site) error{
		"rejected": func(s *site) error { return s.Reject(s.by("bob"), "a") },
		"withdrawn": func(s *site) error {
			if r, bytes, err := s.WouldRemove("a"); err != nil || bytes == 0 || len(r.Vanished) != 0 {
				s.t.Errorf("%+v, %d, %v", r, bytes, err)
			}
			_, err := s.Remove(s.by("alice"), "a")
			return err
		},
		"expired": func(s *site) error { s.pass(15 * 24 * time.Hour); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			before := s.world()
			p := sample("a.tar")
			s.needsApproval(true)
			s.stages("", p)
			diff := s.diff("a").Diff
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Approve(s.by("bob"), "a", diff); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			s.gc()
			if _, err := s.Approve(s.by("bob"), "a", diff); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			differ(t, s.world(), before)
			if n := s.whole(p); n != 0 {
				t.Errorf("%d blobs stay", n)
			}
			if err := s.Reject(s.by("bob"), "a"); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			s.stages("", p)
		})
	}
}

// Every way round the second person is refused with one sentence, and nothing appears. The state's own table
// (cluster/state/held_test.go) has the commands that no room sends.
func TestWaysRoundTheSecondPerson(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		try  func(s *site, diff string) error
		want error
		says string
	}{
		"the maker approves": {func(s *site, diff string) error {
			_, err := s.Approve(s.by("alice"), "a", diff)
			return err
		}, cluster.ErrApproval, "was made by alice"},
		"who has created the maker's API key approves": {func(s *site, _ string) error {
			if err := s.Reject(s.by("alice"), "a"); err != nil {
				return err
			}
			p := sample("a.tar")
			_, err := s.Import(s.by("key/ci"), Request{Name: "a", Inputs: []bundle.Input{{Name: p.file, File: p}}})
			if err == nil {
				_, err = s.Approve(s.by("carol"), "a", s.diff("a").Diff)
			}
			return err
		}, cluster.ErrApproval, "made by key/ci, which is an API key of carol"},
		"the node itself approves": {func(s *site, diff string) error {
			_, err := s.Approve(s.t.Context(), "a", diff)
			return err
		}, cluster.ErrApproval, ""},
		"without the diff": {func(s *site, _ string) error {
			_, err := s.Approve(s.by("bob"), "a", "")
			return err
		}, fs.ErrExist, "casemate import diff a"},
		"a name was pushed meanwhile": {func(s *site, diff string) error {
			key, err := s.fileKey("https://dl.k8s.io/v1/kubeadm")
			if err == nil {
				err = s.tree.Update(s.by("carol"), func(b cluster.Batch) error {
					b.Put("files/"+key, []byte("x"))
					return nil
				})
			}
			if err == nil {
				_, err = s.Approve(s.by("bob"), "a", diff)
			}
			return err
		}, fs.ErrExist, "something else"},
		"the bundle was replaced": {func(s *site, diff string) error {
			if err := s.Reject(s.by("alice"), "a"); err != nil {
				return err
			}
			other := sample("a.tar")
			other.addFile("https://dl.k8s.io/backdoor", []byte("evil"))
			s.stages("a", other)
			_, err := s.Approve(s.by("bob"), "a", diff)
			return err
		}, fs.ErrExist, "something else"},
		"other content takes the name": {func(s *site, _ string) error {
			other := sample("a.tar")
			other.addFile("https://dl.k8s.io/backdoor", []byte("evil"))
			_, err := s.do("a", other)
			return err
		}, fs.ErrExist, "belongs to an import of other content"},
		"a batch with the import's claim": {func(s *site, _ string) error {
			return s.tree.Update(s.by("bob"), func(b cluster.Batch) error {
				cluster.As(b, "a").Put("files/dl.k8s.io/v1/kubeadm", []byte("x"))
				return nil
			})
		}, cluster.ErrApproval, ""},
		"a large batch with another claim": {func(s *site, _ string) error {
			return s.tree.Update(s.by("bob"), func(b cluster.Batch) error {
				for i := range 20000 {
					cluster.As(b, "z").Put(fmt.Sprintf("files/dl.k8s.io/%d", i), []byte("x"))
				}
				return nil
			})
		}, cluster.ErrApproval, ""},
		"an approval of an effect that nobody has computed": {func(s *site, _ string) error {
			return s.tree.Update(s.by("bob"), func(b cluster.Batch) error {
				cluster.Approve(b, s.tree.Held()[0].ID, "sha256:"+strings.Repeat("0", 64))
				return nil
			})
		}, fs.ErrExist, ""},
		"an approval that is no digest": {func(s *site, _ string) error {
			return s.tree.Update(s.by("bob"), func(b cluster.Batch) error {
				cluster.Approve(b, s.tree.Held()[0].ID, "yes")
				return nil
			})
		}, fs.ErrInvalid, ""},
		"the setting is turned off": {func(s *site, _ string) error {
			s.needsApproval(false)
			if again := s.stages("", sample("a.tar")); again.State != Staged {
				s.t.Errorf("%+v", again)
			}
			_, err := s.Approve(s.by("alice"), "a", s.diff("a").Diff)
			return err
		}, cluster.ErrApproval, "made by alice"},
		"the policy has changed": {func(s *site, diff string) error {
			s.policy(Policy{Origins: []string{"quay.io"}})
			_, err := s.Approve(s.by("bob"), "a", diff)
			return err
		}, fs.ErrPermission, "import.policy.origins"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var policy Policy
			s := newSite(t, func(c *Config) {
				c.Policy = func() Policy { return policy }
				c.Behind = func(actor string) string { return map[string]string{"key/ci": "carol"}[actor] }
			})
			s.policy = func(p Policy) { policy = p }
			p := sample("a.tar")
			s.needsApproval(true)
			s.stages("", p)
			before := s.sees(p)
			err := c.try(s, s.diff("a").Diff)
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("got %v, want %v and %q", err, c.want, c.says)
			}
			if strings.HasPrefix(name, "a name was pushed") {
				return
			}
			differ(t, s.sees(p), before)
		})
	}
}

// Of several approvers one publishes; all others are told that nothing waits.
func TestApproversRace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.needsApproval(true)
	p := sample("a.tar")
	s.stages("", p)
	diff := s.diff("a").Diff
	results := make(chan error, 4)
	for i := range cap(results) {
		go func() {
			_, err := s.Approve(s.by(fmt.Sprint("approver-", i)), "a", diff)
			results <- err
		}()
	}
	var list []error
	for range cap(results) {
		list = append(list, <-results)
	}
	done := slices.DeleteFunc(slices.Clone(list), func(err error) bool { return err != nil })
	refused := slices.DeleteFunc(slices.Clone(list), func(err error) bool { return !errors.Is(err, fs.ErrNotExist) })
	if len(done) != 1 || len(refused) != len(list)-1 {
		t.Errorf("%v", list)
	}
	differ(t, s.sees(p), wanted(p))
}

// What the policy forbids is refused with one sentence before anything is stored.
func TestImportPolicy(t *testing.T) {
	t.Parallel()
	built := func(p *pack, ref, created string) *pack {
		config := p.blob([]byte(`{"architecture":"amd64","os":"linux","created":"` + created + `"}`))
		p.manifest(ref, mediaManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":`+
			`"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, mediaManifest, config,
			len(p.blobs[config])))
		return p
	}
	old, fresh := "2025-12-01T00:00:00Z", "2026-01-01T12:00:00Z" // the site's clock is at 2026-01-02
	week := Policy{MinAge: 7 * 24 * time.Hour}
	for name, c := range map[string]struct {
		policy Policy
		pack   *pack
		says   string // "": it is imported
	}{
		"too large":     {Policy{MaxSize: 10}, sample("a.tar"), "more than import.policy.max_size allows (10 bytes)"},
		"not too large": {Policy{MaxSize: 1 << 30}, sample("a.tar"), ""},
		"another host": {Policy{Origins: []string{"quay.io"}}, sample("a.tar"),
			"is not one of import.policy.origins (quay.io)"},
		"an alias": {Policy{Origins: []string{"docker.io"}}, built(newPack("a"),
			"index.docker.io/x:1", old), ""},
		"a local name": {Policy{Origins: []string{"docker.io"}}, built(newPack("a"), "team/x:1", old), ""},
		"built yesterday": {week, built(newPack("a"), "docker.io/x:1", fresh), "was built on 2026-01-01, and " +
			"import.policy.min_age is 168h0m0s: import it after 2026-01-08 12:00:00"},
		"built long ago": {week, built(newPack("a"), "docker.io/x:1", old), ""},
		"no date":        {week, sample("a.tar"), ""},
		"reproducible":   {week, built(newPack("a"), "docker.io/x:1", "1970-01-01T00:00:00Z"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, func(con *Config) { con.Policy = func() Policy { return c.policy } })
			_, err := s.do("", c.pack)
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (!errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v, want %q", err, c.says)
			case c.says != "" && !maps.Equal(s.sees(c.pack), none(c.pack)):
				t.Error("it is visible")
			}
		})
	}
}

// A held import is published by who has made it, once, with what was seen; by another person too; and by nobody else
// where the policy asks for an approval by then.
func TestHeldForReview(t *testing.T) {
	t.Parallel()
	hold := func(s *site, p *pack) string {
		s.t.Helper()
		r, err := s.Import(s.by("alice"), Request{Inputs: []bundle.Input{{Name: p.file, File: p}}, Hold: true})
		if err != nil || r.State != Staged || r.NeedsApproval ||
			!strings.Contains(r.Message, "until alice publishes it") {
			s.t.Fatalf("%+v, %v", r, err)
		}
		if got := s.sees(p); !maps.Equal(got, none(p)) {
			s.t.Errorf("names before it is published: %v", got)
		}
		if list := s.Waiting(); len(list) != 1 || list[0].Name != "a" || list[0].NeedsApproval || s.Staged() != 1 {
			s.t.Errorf("%+v", list)
		}
		return s.diff("a").Diff
	}
	for _, kind := range []string{bundle.KindBundle, bundle.KindTree} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := sample("a.tar")
			p.kind = kind
			diff := hold(s, p)
			s.restart()
			s.pass(13 * 24 * time.Hour)
			s.gc()
			if _, err := s.PublishStaged(s.by("bob"), "a", diff); !errors.Is(err, ErrOtherMaker) {
				t.Errorf("somebody else: %v", err)
			}
			wrong := "sha256:" + strings.Repeat("0", 64)
			if _, err := s.PublishStaged(s.by("alice"), "a", wrong); !errors.Is(err, fs.ErrExist) {
				t.Errorf("another diff: %v", err)
			}
			if _, err := s.Approve(s.by("alice"), "a", diff); !errors.Is(err, cluster.ErrApproval) ||
				!strings.Contains(err.Error(), "casemate import publish a") {
				t.Errorf("an approval by its maker: %v", err)
			}
			done, err := s.PublishStaged(s.by("alice"), "a", diff)
			if err != nil || done.State != Imported || done.Maker != "alice" || done.Approver != "" {
				t.Fatalf("%+v, %v", done, err)
			}
			differ(t, s.sees(p), wanted(p))
			s.gc()
			s.pass(2 * time.Hour)
			s.gc()
			if n := s.whole(p); n != len(p.order) {
				t.Errorf("%d of %d blobs are whole", n, len(p.order))
			}
			if stored, err := s.readRecord("a"); err != nil || stored.Maker != "alice" || !s.intact(stored) {
				t.Errorf("%+v, %v", stored, err)
			}
			if _, err := s.PublishStaged(s.by("alice"), "a", diff); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("twice: %v", err)
			}
			if again := s.must("", p); again.State != Unchanged || len(s.Waiting()) != 0 {
				t.Errorf("%+v", again)
			}
		})
	}
	t.Run("by another person", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		p := sample("a.tar")
		done, err := s.Approve(s.by("bob"), "a", hold(s, p))
		if err != nil || done.Approver != "bob" {
			t.Fatalf("%+v, %v", done, err)
		}
		differ(t, s.sees(p), wanted(p))
	})
	t.Run("approvals are on by then", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		p := sample("a.tar")
		diff := hold(s, p)
		s.needsApproval(true)
		if _, err := s.PublishStaged(s.by("alice"), "a", diff); !errors.Is(err, cluster.ErrApproval) {
			t.Errorf("its maker: %v", err)
		}
		// The state of the cluster decides, not this room: the setting may change at the last moment.
		h, _ := s.staged("a")
		err := s.tree.Update(s.by("alice"), func(b cluster.Batch) error { cluster.Release(b, h.ID); return nil })
		if !errors.Is(err, cluster.ErrApproval) {
			t.Errorf("a release: %v", err)
		}
		if got := s.sees(p); !maps.Equal(got, none(p)) || s.Staged() != 1 {
			t.Errorf("%v", got)
		}
		if _, err := s.Approve(s.by("bob"), "a", diff); err != nil {
			t.Error(err)
		}
	})
	t.Run("its names have changed", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		p := sample("a.tar")
		diff := hold(s, p)
		other := newPack("b.tar")
		other.addFile("https://dl.k8s.io/v1/kubeadm", []byte("another kubeadm"))
		s.must("", other)
		if now := s.diff("a").Diff; now == diff {
			t.Fatal("the diff is the same after another import has shown a name of it")
		}
		if _, err := s.PublishStaged(s.by("alice"), "a", diff); !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		p := sample("a.tar")
		_, err := s.Import(t.Context(), Request{Inputs: []bundle.Input{{Name: p.file, File: p}}, Hold: true,
			DryRun: true})
		if !errors.Is(err, fs.ErrInvalid) {
			t.Error(err)
		}
	})
}
