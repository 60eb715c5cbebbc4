package collect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"casemate/bundle"
	"casemate/bundle/collect/cache"
	"casemate/bundle/collect/diagnose"
	"casemate/bundle/lists"
)

const (
	// mostPacks is how many packs a repository in the cache has before they are combined. Each run adds one, so that a
	// bundle made with --since contains only what is new.
	mostPacks = 20
	// gitLowSpeedTime is how long a server may send less than a kilobyte a second, in seconds.
	gitLowSpeedTime = "120"
)

// repositoryFile is what the "dumb" HTTP protocol serves of a repository (gitprotocol-http(5)).
var repositoryFile = regexp.MustCompile(`^(HEAD|packed-refs|info/refs|objects/info/packs|` +
	`objects/pack/pack-[0-9a-f]+\.(pack|idx)|objects/[0-9a-f]{2}/[0-9a-f]+)$`)

// symbolicHead matches the default branch in the output of git ls-remote --symref.
var symbolicHead = regexp.MustCompile(`(?m)^ref: (refs/heads/\S+)\tHEAD$`)

// repository fetches the branches and tags of a Git repository into the cache, with the program git, and adds the files
// that a web server needs so that it can be cloned.
func (c *collector) repository(ctx context.Context, n int, r lists.Repository) {
	if err := c.fetchRepository(ctx, r); err != nil && ctx.Err() == nil {
		c.fail(n, err)
	}
}

func (c *collector) fetchRepository(ctx context.Context, r lists.Repository) error {
	if err := checkURL(r.URL); err != nil {
		return err
	}
	if _, err := exec.LookPath("git"); err != nil {
		return errors.New("the program git is not installed here, which --git needs")
	}
	remote, err := c.git(ctx, "", "ls-remote", "--symref", "--", r.URL, "HEAD")
	if err != nil {
		return err
	}
	if c.opt.DryRun {
		c.note("%s: the size of the repository is known only after it was fetched", r.URL)
		return nil
	}
	dir := c.cache.Repository(r.URL)
	run := func(args ...string) {
		if err == nil {
			_, err = c.git(ctx, dir, args...)
		}
	}
	run("init", "--bare", "--quiet")
	// Fetched objects stay in packs, and refs that were deleted upstream are deleted.
	run("-c", "fetch.unpackLimit=1", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
		"fetch", "--quiet", "--force", "--prune", "--no-write-fetch-head", "--", r.URL, "+refs/heads/*:refs/heads/*",
		"+refs/tags/*:refs/tags/*")
	if head := symbolicHead.FindStringSubmatch(remote); head != nil {
		run("symbolic-ref", "HEAD", head[1])
	}
	if packs, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", "*.pack")); len(packs) > mostPacks {
		run("repack", "-a", "-d", "-q")
	} else {
		run("repack", "-d", "-q") // single objects, which a server without Git sends
	}
	run("pack-refs", "--all", "--prune")
	run("update-server-info")
	if err != nil {
		return err
	}
	return c.addRepository(ctx, r, dir)
}

// git runs git below dir and returns its output. It never asks for a password, and uses only HTTP.
func (c *collector) git(ctx context.Context, dir string, args ...string) (string, error) {
	settings := []string{"-c", "protocol.allow=never", "-c", "protocol.https.allow=always",
		"-c", "protocol.http.allow=always", "-c", "core.hooksPath=/dev/null"}
	cmd := exec.CommandContext(ctx, "git", append(settings, args...)...)
	cmd.WaitDelay = 10 * time.Second // for the processes that it has started
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "LC_ALL=C",
		"GIT_HTTP_LOW_SPEED_LIMIT=1000", "GIT_HTTP_LOW_SPEED_TIME="+gitLowSpeedTime)
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", cache.DiskError{Err: err}
		}
		cmd.Env = append(cmd.Env, "GIT_DIR="+dir)
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		text := strings.TrimPrefix(strings.TrimSpace(said.String()), "fatal: ")
		if text == "" {
			text = err.Error()
		}
		return "", fmt.Errorf("git: %s", diagnose.OneLine(text))
	}
	return out.String(), nil
}

// addRepository adds the files of a repository in the cache.
func (c *collector) addRepository(ctx context.Context, r lists.Repository, dir string) error {
	files := map[string]bundle.File{} // all of it or nothing
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return cache.DiskError{Err: err}
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if name = filepath.ToSlash(name); !d.Type().IsRegular() || !repositoryFile.MatchString(name) {
			return ctx.Err()
		}
		digest, size, err := c.cacheFile(path)
		if err != nil {
			return err
		}
		url := r.URL + "/" + name
		on, err := c.cache.FirstSeen(url, digest, day(c.now()))
		if err != nil {
			return err
		}
		files[url] = bundle.File{URL: url, Digest: digest, Size: size, Provenance: bundle.Provenance{On: on}}
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.files, files)
	return nil
}

// cacheFile copies a file into the cache, and returns its digest and size.
func (c *collector) cacheFile(path string) (digest string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, cache.DiskError{Err: err}
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, cache.DiskError{Err: err}
	}
	digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	if c.cache.Has(digest, size) {
		return digest, size, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, cache.DiskError{Err: err}
	}
	part, err := c.cache.Part(path)
	if err != nil {
		return "", 0, err
	}
	defer part.Close()
	if err := part.Truncate(0); err != nil {
		return "", 0, cache.DiskError{Err: err}
	}
	if _, err := io.Copy(part, f); err != nil {
		c.cache.Discard(part)
		return "", 0, cache.DiskError{Err: err}
	}
	return digest, size, c.cache.Commit(part, digest)
}
