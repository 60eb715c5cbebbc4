package fileserver

import "testing"

// TestGitNames: only a repository answers with and without .git.
func TestGitNames(t *testing.T) {
	f := start(t)
	plain, dotted := "https://github.com/team/plain", "https://github.com/team/dotted.git"
	for _, repo := range []string{plain, dotted} {
		for _, file := range []string{"HEAD", "info/refs", "packed-refs", "objects/info/packs",
			"objects/pack/pack-1.idx", "objects/ab/cdef"} {
			f.put(t, repo+"/"+file, repo+" "+file)
		}
	}
	f.put(t, "https://github.com/team/both/HEAD", "without")
	f.put(t, "https://github.com/team/both.git/HEAD", "with")
	f.put(t, "https://github.com/team/archive.git/v1.tar.gz", "a file")
	for path, text := range map[string]string{
		"/team/plain/info/refs?service=git-upload-pack":      plain + " info/refs",
		"/team/plain.git/info/refs?service=git-upload-pack":  plain + " info/refs",
		"/team/plain.git/HEAD":                               plain + " HEAD",
		"/team/plain.git/packed-refs":                        plain + " packed-refs",
		"/team/plain.git/objects/info/packs":                 plain + " objects/info/packs",
		"/team/plain.git/objects/pack/pack-1.idx":            plain + " objects/pack/pack-1.idx",
		"/team/plain.git/objects/ab/cdef":                    plain + " objects/ab/cdef",
		"/team/dotted/info/refs?service=git-upload-pack":     dotted + " info/refs",
		"/team/dotted/objects/pack/pack-1.idx":               dotted + " objects/pack/pack-1.idx",
		"/team/dotted.git/info/refs?service=git-upload-pack": dotted + " info/refs",
		"/team/both/HEAD":                                    "without",
		"/team/both.git/HEAD":                                "with",
	} {
		want(t, f.origin("github.com", path), 200, text)
		want(t, f.own("/github.com"+path), 200, text)
		if _, _, err := f.Resolve(t.Context(), "https://github.com"+path); err != nil {
			t.Error(err)
		}
	}
	if m := f.missed(); len(m) != 0 {
		t.Errorf("missed %q", m)
	}
	for _, path := range []string{"/team/archive/v1.tar.gz", "/team/plain.git.git/HEAD", "/plain.git/HEAD",
		"/team/.git/HEAD", "/team/plain.git/HEAD/", "/HEAD", "/info/refs",
		"/team/none/info/refs?service=git-upload-pack", "/team/plain.git/objects/info/alternates"} {
		want(t, f.origin("github.com", path), 404, "*")
	}
}
