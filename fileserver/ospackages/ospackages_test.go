package ospackages

import (
	"strings"
	"testing"
	"time"
)

func TestReleaseDates(t *testing.T) {
	for text, want := range map[string]string{
		"Sat, 14 Jun 2025 08:09:10 UTC":   "2025-06-14T08:09:10Z",
		"Sat,  4 Jan 2025 08:09:10 UTC":   "2025-01-04T08:09:10Z",
		"Sat, 4 Jan 2025 08:09:10 GMT":    "2025-01-04T08:09:10Z",
		"Sat, 14 Jun 2025 08:09:10 +0200": "2025-06-14T06:09:10Z",
		"Sat, 14 Jun 2025 08:09:10 Z":     "2025-06-14T08:09:10Z",
	} {
		r, err := ParseRelease(strings.NewReader("Suite: x\nValid-Until: " + text + "\n"))
		if err != nil || r.ValidUntil.Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v", text, r, err)
		}
	}
	for _, bad := range []string{"", "<html>", "Suite: x\nDate: tomorrow\n", "Origin: x\n", "no field\n"} {
		if r, err := ParseRelease(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is no Release file: %+v", bad, r)
		}
	}
}

func TestReleaseFields(t *testing.T) {
	r, err := ParseRelease(strings.NewReader("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: O\n" +
		"Label: L\nSuite: s\nCodename: c\n" +
		"Architectures: amd64 arm64\nComponents: main contrib\nDescription: x\nSHA256:\n " +
		strings.Repeat("0", 64) + " 0 main/x\n zz 0 main/y\n " + strings.Repeat("0", 64) + " 0 ../z\n" +
		"-----BEGIN PGP SIGNATURE-----\nSuite: forged\n"))
	if err != nil || r.Origin != "O" || r.Label != "L" || r.Suite != "s" || r.Codename != "c" || r.Files() != 1 ||
		len(r.Architectures) != 2 || len(r.Components) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]Package{
		"jq_1.6-2.1_amd64.deb":                         {"deb", "jq", "1.6-2.1", "amd64"},
		"libstdc++6_12.2.0-14+deb12u1_amd64.deb":       {"deb", "libstdc++6", "12.2.0-14+deb12u1", "amd64"},
		"libstdc%2B%2B6_12.2.0-14%2Bdeb12u1_arm64.deb": {"deb", "libstdc++6", "12.2.0-14+deb12u1", "arm64"},
		"vim_2%3a9.0~rc1-1_all.deb":                    {"deb", "vim", "9.0~rc1-1", "all"},
		"x_1_amd64.udeb":                               {"deb", "x", "1", "amd64"},
		"kernel-core-5.14.0-503.el9.x86_64.rpm":        {"rpm", "kernel-core", "5.14.0-503.el9", "x86_64"},
		"python3-libs-3.9.21~rc1-1.el9_5.noarch.rpm":   {"rpm", "python3-libs", "3.9.21~rc1-1.el9_5", "noarch"},
		"libstdc%2B%2B-11.5.0-2.el9.i686.rpm":          {"rpm", "libstdc++", "11.5.0-2.el9", "i686"},
		"a-1^git-2.aarch64.rpm":                        {"rpm", "a", "1^git-2", "aarch64"},
		"a-1-2.src.rpm":                                {}, "a.deb": {}, "a_1.deb": {}, "a_1_amd64.deb.asc": {},
		"_1_a.deb":       {},
		"a-1.x86_64.rpm": {}, "repomd.xml": {}, "": {}, strings.Repeat("a", 600) + "_1_amd64.deb": {},
		"A_1_amd64.deb":  {},
		"a_1:_amd64.deb": {},
	} {
		if got, ok := ParseFileName(name); got != want && ok || ok != (want != Package{}) {
			t.Errorf("%.80s: %+v, %v; want %+v", name, got, ok, want)
		}
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add("-----BEGIN PGP SIGNED MESSAGE-----\n\nSuite: x\nSHA256:\n "+strings.Repeat("0", 64)+" 1 a/b\n-----",
		"a_1_b.deb")
	f.Add(`<repomd><data type="primary"><timestamp>1</timestamp></data></repomd>`, "a-1-2.x.rpm")
	f.Fuzz(func(t *testing.T, text, name string) {
		if r, err := ParseRelease(strings.NewReader(text)); err == nil {
			for path, s := range r.sums {
				if !inside(path) || s == (Sums{}) {
					t.Errorf("%q %+v", path, s)
				}
			}
		}
		if m, err := ParseRepomd(strings.NewReader(text)); err == nil && len(m.Data) == 0 {
			t.Error("no files")
		}
		if p, ok := ParseFileName(name); ok && (p.Name == "" || p.Version == "" || p.Arch == "") {
			t.Errorf("%q: %+v", name, p)
		}
	})
}
