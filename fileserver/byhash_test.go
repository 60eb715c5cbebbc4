package fileserver

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
)

// sumsOf are the sums of content as they stand in a Release file and in by-hash names.
func sumsOf(content string) map[string]string {
	return map[string]string{
		"MD5Sum": fmt.Sprintf("%x", md5.Sum([]byte(content))), "SHA1": fmt.Sprintf("%x", sha1.Sum([]byte(content))),
		"SHA256": fmt.Sprintf("%x", sha256.Sum256([]byte(content))),
		"SHA512": fmt.Sprintf("%x", sha512.Sum512([]byte(content))),
	}
}

// releaseText is a Release file that lists files with some kinds of sums.
func releaseText(kinds []string, files ...string) string {
	var b strings.Builder
	b.WriteString("Suite: stable\nDate: Sat, 14 Jun 2025 08:00:00 UTC\n")
	for _, kind := range kinds {
		b.WriteString(kind + ":\n")
		for i := 0; i < len(files); i += 2 {
			fmt.Fprintf(&b, " %s %d %s\n", sumsOf(files[i+1])[kind], len(files[i+1]), files[i])
		}
	}
	return b.String()
}

// keepClaims makes older contents of names stay, as older imports keep them.
func (f *fixture) keepClaims() func(url string) {
	older := map[string][]fs.FileInfo{}
	f.cfg.Claims = func(key string) []fs.FileInfo {
		fi, err := f.tree.Stat(key)
		if err != nil {
			return nil
		}
		return append([]fs.FileInfo{fi}, older[key]...)
	}
	return func(url string) {
		key, _ := f.Key(url)
		if fi, err := f.tree.Stat(key); err == nil {
			older[key] = slices.Insert(older[key], 0, fi)
		}
	}
}

// Indices are answered under the sums of the Release file that is visible and of the one before, and nothing else is.
func TestByHash(t *testing.T) {
	all := []string{"MD5Sum", "SHA1", "SHA256", "SHA512"}
	for _, name := range []string{"InRelease", "Release"} {
		f := start(t)
		keep := f.keepClaims()
		const base = "https://files.test/debian/dists/stable/"
		const index = "main/binary-amd64/Packages.xz"
		publish := func(content string) {
			for _, file := range []string{name, index} {
				keep(base + file)
			}
			f.put(t, base+index, content)
			f.put(t, base+name, releaseText(all, index, content, "main/i18n/Translation-en.xz", "absent"))
		}
		ask := func(algorithm, content string) int {
			return f.origin("files.test", "/debian/dists/stable/main/binary-amd64/by-hash/"+algorithm+"/"+
				sumsOf(content)[algorithm]).StatusCode
		}
		for n, content := range []string{"first", "second", "third"} {
			publish(content)
			for i, older := range []string{"first", "second", "third"} {
				wanted := 404
				if i == n || i == n-1 {
					wanted = 200
				}
				for _, algorithm := range all {
					if got := ask(algorithm, older); got != wanted {
						t.Errorf("%s, generation %d: %s of %q is %d, want %d", name, n, algorithm, older, got, wanted)
					}
				}
			}
		}
		secret := f.put(t, "https://files.test/elsewhere", "another file")
		for _, path := range []string{
			"/by-hash/SHA256/" + strings.TrimPrefix(secret.Digest, "sha256:"),
			"/debian/dists/stable/main/binary-amd64/by-hash/SHA256/" + strings.TrimPrefix(secret.Digest, "sha256:"),
			"/debian/dists/stable/main/i18n/by-hash/SHA256/" + sumsOf("absent")["SHA256"],
			"/debian/dists/stable/main/i18n/by-hash/SHA256/" + sumsOf("third")["SHA256"], // of another directory
			"/debian/dists/stable/by-hash/SHA256/" + sumsOf("third")["SHA256"],
			"/debian/dists/stable/main/binary-amd64/by-hash/SHA1/" + sumsOf("third")["SHA256"],
			"/debian/dists/stable/main/binary-amd64/by-hash/SHA256/" + sumsOf("third")["SHA256"][:63],
			"/debian/dists/stable/main/binary-amd64/by-hash/SHA256/" + sumsOf("third")["SHA256"] + "/",
			"/debian/dists/stable/main/binary-amd64/by-hash/SHA256/zz", "/by-hash/SHA256/zz", "/by-hash/",
		} {
			want(t, f.origin("files.test", path), 404, "*")
		}
		path := "/debian/dists/stable/main/binary-amd64/by-hash/SHA256/" + sumsOf("second")["SHA256"]
		want(t, f.origin("files.test", path), 200, "second")
		want(t, f.own("/files.test"+path), 200, "second")
		want(t, f.origin("files.test", path, "Range: bytes=2-4"), 206, "con")
		r := f.do(View{Origin: "files.test"}, "HEAD", path, nil)
		if want(t, r, 200, ""); r.ContentLength != 6 {
			t.Errorf("HEAD says %d bytes", r.ContentLength)
		}
		want(t, f.origin("files.test", path, "If-None-Match: "+r.Header.Get("ETag")), 304, "")
		want(t, f.origin("files.test", path, "If-Modified-Since: "+r.Header.Get("Last-Modified")), 304, "")
	}
}

// A sum says which content is meant, also where the Release file has no SHA256, is signed within itself, belongs to a
// flat repository or has names that are percent-encoded in URLs.
func TestByHashOfReleaseFiles(t *testing.T) {
	signed := "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" +
		releaseText([]string{"SHA256"}, "main/Packages", "signed") + "-----BEGIN PGP SIGNATURE-----\n\nSHA256:\n " +
		sumsOf("forged")["SHA256"] + " 6 main/Packages\n-----END PGP SIGNATURE-----\n"
	for _, c := range []struct {
		name, release, file, content, path string
		code                               int
	}{
		{"SHA512 alone", releaseText([]string{"SHA512"}, "main/Packages", "x"), "main/Packages", "x",
			"main/by-hash/SHA512/" + sumsOf("x")["SHA512"], 200},
		{"MD5 alone", releaseText([]string{"MD5Sum"}, "main/Packages", "x"), "main/Packages", "x",
			"main/by-hash/MD5Sum/" + sumsOf("x")["MD5Sum"], 404},
		{"not the stored content", releaseText([]string{"SHA512"}, "main/Packages", "x"), "main/Packages", "y",
			"main/by-hash/SHA512/" + sumsOf("x")["SHA512"], 404},
		{"signed", signed, "main/Packages", "signed", "main/by-hash/SHA256/" + sumsOf("signed")["SHA256"], 200},
		{"outside of the signed text", signed, "main/Packages", "forged",
			"main/by-hash/SHA256/" + sumsOf("forged")["SHA256"], 404},
		{"flat", releaseText([]string{"SHA256"}, "./Packages.gz", "flat"), "Packages.gz", "flat",
			"by-hash/SHA256/" + sumsOf("flat")["SHA256"], 200},
		{"encoded", releaseText([]string{"SHA256"}, "a^b/Packages", "x"), "a%5Eb/Packages", "x",
			"a%5Eb/by-hash/SHA256/" + sumsOf("x")["SHA256"], 200},
		{"leads out", releaseText([]string{"SHA256"}, "../Packages", "x"), "../Packages", "x",
			"../by-hash/SHA256/" + sumsOf("x")["SHA256"], 404},
		{"no Release file", "<html>", "main/Packages", "x", "main/by-hash/SHA256/" + sumsOf("x")["SHA256"], 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t)
			f.put(t, "https://files.test/r/d/InRelease", c.release)
			f.put(t, "https://files.test"+path.Clean("/r/d/"+c.file), c.content)
			if got := f.origin("files.test", "/r/d/"+c.path).StatusCode; got != c.code {
				t.Errorf("got %d, want %d", got, c.code)
			}
		})
	}
}
