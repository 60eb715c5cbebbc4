package repositories

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"casemate/cluster/tree"
	"casemate/cluster/treetest"
)

// followed is an index of a tree in memory, running until the test ends.
type followed struct {
	*Index
	tree *treetest.Mem
}

// follow runs f in a bubble with an index that follows its tree.
func follow(t *testing.T, f func(t *testing.T, x *followed)) {
	synctest.Test(t, func(t *testing.T) {
		m := treetest.New(t)
		x := &followed{New(m, slog.New(slog.DiscardHandler)), m}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			x.Run(ctx)
		}()
		f(t, x)
		stop()
		<-done
	})
}

// put writes files, URL and content in turns; a content of "" removes the file.
func (x *followed) put(t *testing.T, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := strings.TrimPrefix(files[i], "https://") + "?"
		w, err := x.tree.CreateBlob("")
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write([]byte(files[i+1]))
		digest, err2 := w.Commit(t.Context(), "")
		err3 := x.tree.Update(t.Context(), func(b tree.Batch) error {
			if b.Link(name, digest); files[i+1] == "" {
				b.Remove(name)
			}
			return nil
		})
		if err := errors.Join(err, err2, err3, w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Minute) // of the bubble: longer than maxPause
	synctest.Wait()
}

func (x *followed) list(t *testing.T) string {
	t.Helper()
	all, err := x.Counted(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range all {
		until := "always"
		if !r.ValidUntil.IsZero() {
			until = r.ValidUntil.Format(time.DateOnly)
		}
		fmt.Fprintf(&b, "%s %s %d %s %v\n", r.Format, r.Name(), r.Packages, until, len(r.SignedBy))
	}
	return b.String()
}

const (
	stable = "Origin: Example\nSuite: stable\nCodename: c\nDate: Sat, 14 Jun 2025 08:00:00 UTC\n" +
		"Components: main\nArchitectures: amd64\n"
	security = "Suite: stable-security\nDate: Sat, 14 Jun 2025 08:00:00 UTC\n" +
		"Valid-Until: Sat, 21 Jun 2025 08:00:00 UTC\n"
	repomd = `<repomd><revision>1</revision><data type="primary"><timestamp>1750000000</timestamp></data></repomd>`
)

func TestFollowsTheTree(t *testing.T) {
	follow(t, func(t *testing.T, x *followed) {
		const deb, rpm = "https://deb.test/debian", "https://rpm.test/9/os"
		x.put(t, deb+"/dists/stable/InRelease", stable, deb+"/dists/stable/Release", security,
			deb+"/dists/stable-security/updates/Release", security,
			deb+"/pool/a/a_1_amd64.deb", "a", deb+"/pool/b/b_1_all.deb", "b", deb+"/pool/b/b_1.dsc", "b",
			rpm+"/repodata/repomd.xml", repomd, rpm+"/Packages/a-1-1.noarch.rpm", "r",
			"https://flat.test/InRelease", stable, "https://flat.test/x_1_amd64.deb", "x",
			"https://github.test/x/Release", "no repository")
		const want = "deb https://deb.test/debian stable 2 always 0\n" +
			"deb https://deb.test/debian stable-security/updates 2 2025-06-21 0\n" +
			"deb https://flat.test 1 always 0\nrpm https://rpm.test/9/os 1 always 0\n"
		if got := x.list(t); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		x.put(t, deb+"/dists/stable/InRelease", strings.Replace(security, "21 Jun", "28 Jun", 1),
			rpm+"/repodata/repomd.xml", "", "https://flat.test/InRelease", "not any more",
			deb+"/dists/stable-security/updates/Release", "")
		if got := x.list(t); got != "deb https://deb.test/debian stable 2 2025-06-28 0\n" {
			t.Errorf("after the changes: %s", got)
		}
		if err := x.tree.Update(t.Context(), func(b tree.Batch) error {
			b.Remove("deb.test/debian/dists")
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := x.list(t); got != "" {
			t.Errorf("after the directory was removed: %s", got)
		}
		// More changes than the tree tells one by one.
		files := []string{deb + "/dists/stable/InRelease", stable}
		if err := x.tree.Update(t.Context(), func(b tree.Batch) error {
			for i := range 5000 {
				b.Put(fmt.Sprintf("many.test/%d?", i), nil)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		x.put(t, files...)
		if got := x.list(t); got != "deb https://deb.test/debian stable 2 always 0\n" {
			t.Errorf("after a large import: %s", got)
		}
	})
}

func TestExpiry(t *testing.T) {
	follow(t, func(t *testing.T, x *followed) {
		x.put(t, "https://deb.test/dists/late/InRelease", strings.Replace(security, "21 Jun", "25 Jun", 1),
			"https://deb.test/dists/soon/InRelease", security, "https://deb.test/dists/never/InRelease", stable)
		until := time.Date(2025, 6, 21, 8, 0, 0, 0, time.UTC)
		for _, c := range []struct {
			now  time.Time
			want []string
		}{
			{until.Add(-Soon - time.Second), nil},
			{until.Add(-Soon), []string{"https://deb.test soon expires on 2025-06-21T08:00:00Z"}},
			{until.Add(-time.Second), []string{"soon expires on", "late expires on"}},
			{until.Add(time.Second), []string{"soon expired on 2025-06-21T08:00:00Z: apt", "late expires on"}},
			{until.AddDate(1, 0, 0), []string{"soon expired on", "late expired on"}},
		} {
			got := Sentences(x.Expiring(c.now), c.now)
			if len(got) != len(c.want) {
				t.Errorf("%s: %q", c.now, got)
				continue
			}
			for i := range got {
				if !strings.Contains(got[i], c.want[i]) {
					t.Errorf("%s: %q does not say %q", c.now, got[i], c.want[i])
				}
			}
		}
	})
	many := make([]Repository, maxSentences+3)
	got := Sentences(many, time.Now())
	if len(got) != maxSentences+1 || !strings.HasPrefix(got[maxSentences], "3 more") {
		t.Errorf("%d sentences, the last %q", len(got), got[len(got)-1])
	}
}

func TestSigners(t *testing.T) {
	at := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	e, err := pgp.NewEntity("publisher", "", "p@example.org", at)
	if err != nil {
		t.Fatal(err)
	}
	var inline, detached, armored bytes.Buffer
	w, err := clearsign.Encode(&inline, e.PrivateKey, nil)
	if err == nil {
		_, err = w.Write([]byte(stable))
		err = errors.Join(err, w.Close())
	}
	err = errors.Join(err, pgp.DetachSign(&detached, []*pgp.Entity{e, e}, strings.NewReader(stable), nil))
	a, err2 := armor.Encode(&armored, pgp.SignatureType, nil)
	if err = errors.Join(err, err2); err == nil {
		_, err = a.Write(detached.Bytes())
		err = errors.Join(err, a.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("%016X", e.PrimaryKey.KeyId)
	for name, c := range map[string]struct {
		document string
		want     int
	}{
		"InRelease": {inline.String(), 1}, "Release.gpg": {armored.String(), 2}, "binary": {detached.String(), 2},
		"none": {"", 0}, "text": {stable, 0}, "cut off": {inline.String()[:inline.Len()-60], 0},
		"CR LF": {strings.ReplaceAll(armored.String(), "\n", "\r\n"), 2},
	} {
		got := signers(c.document)
		if len(got) != c.want {
			t.Errorf("%s: %+v", name, got)
		}
		for _, s := range got {
			if s.KeyID != id || s.Fingerprint != fmt.Sprintf("%X", e.PrimaryKey.Fingerprint) {
				t.Errorf("%s: %+v, want %s", name, s, id)
			}
		}
	}
	follow(t, func(t *testing.T, x *followed) {
		x.put(t, "https://a.test/dists/s/InRelease", inline.String(), "https://b.test/dists/s/Release", stable)
		if got := x.list(t); got != "deb https://a.test s 0 always 1\ndeb https://b.test s 0 always 0\n" {
			t.Error(got)
		}
		x.put(t, "https://b.test/dists/s/Release.gpg", armored.String(), "https://a.test/dists/s/InRelease", "")
		if got := x.list(t); got != "deb https://b.test s 0 always 2\n" {
			t.Error(got)
		}
	})
}

func TestPackages(t *testing.T) {
	follow(t, func(t *testing.T, x *followed) {
		x.put(t, "https://deb.test/debian/dists/stable/InRelease", stable,
			"https://deb.test/debian/dists/testing/InRelease", stable,
			"https://deb.test/debian-security/dists/stable/InRelease", stable,
			"https://rpm.test/9/BaseOS/os/repodata/repomd.xml", repomd,
			"https://rpm.test/9/AppStream/os/repodata/repomd.xml", repomd)
		const deb, rpm = "https://deb.test/debian", "https://rpm.test/9/"
		for url, want := range map[string]string{
			"https://deb.test/debian/pool/main/j/jq/jq_1.6-2_amd64.deb": "deb jq 1.6-2 amd64 " + deb,
			"https://deb.test/debian-security/pool/a_1%2b2_all.deb":     "deb a 1+2 all " + deb + "-security",
			"https://deb.test/other/a_1_all.deb":                        "deb a 1 all " + deb,
			"https://rpm.test/9/AppStream/os/Packages/a-1-2.x86_64.rpm": "rpm a 1-2 x86_64 " + rpm + "AppStream/os",
			"https://rpm.test/9/BaseOS/pool/a-1-2.noarch.rpm":           "rpm a 1-2 noarch " + rpm + "BaseOS/os",
			"https://other.test/a_1_all.deb":                            "", "https://rpm.test/a_1_all.deb": "",
			"https://deb.test/debian/dists/stable/InRelease": "", "/a_1_all.deb": "", "": "",
			"https://deb.test/debian/x.deb": "",
		} {
			got := ""
			if p := x.Package(url); p != nil {
				got = strings.Join([]string{p.Format, p.Name, p.Version, p.Arch, p.Repository}, " ")
			}
			if got != want {
				t.Errorf("%s: %q, want %q", url, got, want)
			}
		}
	})
}

func FuzzSigners(f *testing.F) {
	f.Add("-----BEGIN PGP SIGNATURE-----\n\niHUE\n=abcd\n-----END PGP SIGNATURE-----")
	f.Fuzz(func(t *testing.T, document string) {
		for _, s := range signers(document) {
			if len(s.KeyID) != 16 {
				t.Errorf("%+v", s)
			}
		}
	})
}
