package lists

import (
	"fmt"
	"io"
	"strings"
)

// Repository is one Git repository: its branches and tags are wanted, as files below its URL.
type Repository struct {
	URL   string `json:"url"` // https or http, without a slash at the end
	Where string `json:"where,omitempty"`
}

// Refs is the file of a repository that every clone requests first.
func (r Repository) Refs() string { return r.URL + "/info/refs" }

// Git reads a list of Git repositories, one URL a line, as git clone takes it. name is the list's name in messages.
func (l *Parser) Git(name string, r io.Reader) {
	l.eachLine(name, r, func(where, line string) error {
		if len(strings.Fields(line)) > 1 {
			return fmt.Errorf("%s is more than one URL: write one URL a line, comments after #", shown(line))
		}
		if strings.HasPrefix(line, "git@") || strings.HasPrefix(line, "ssh://") || strings.HasPrefix(line, "git://") {
			return fmt.Errorf("%s: only https and http are served inside, write https://HOST/PATH", shown(line))
		}
		url, err := ParseFileURL(strings.TrimRight(line, "/"))
		if err != nil {
			return err
		}
		repo := Repository{URL: strings.TrimRight(url, "/"), Where: where}
		_, path, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(repo.URL, "https://"), "http://"), "/")
		if path == "" || strings.Contains(repo.URL, "?") {
			return fmt.Errorf("%s names no repository: write https://HOST/PATH", shown(line))
		}
		if _, err := PlaceURL(repo.Refs()); err != nil {
			return err
		}
		// With and without .git it is one repository.
		if _, again := l.first("git "+strings.TrimSuffix(repo.URL, ".git"), request{where: where}); !again {
			l.wanted.Git = append(l.wanted.Git, repo)
		}
		return nil
	})
}
