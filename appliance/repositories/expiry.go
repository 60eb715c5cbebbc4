package repositories

import (
	"fmt"
	"slices"
	"time"
)

// Soon is how long before the end of a repository's validity an operator is told.
const Soon = 14 * 24 * time.Hour

// maxSentences bounds the sentences in status.
const maxSentences = 20

// Expiring returns the repositories whose validity has ended or ends soon, the first to end first. It does not wait.
func (x *Index) Expiring(now time.Time) []Repository {
	list := slices.DeleteFunc(x.Dated(), func(r Repository) bool { return r.ValidUntil.Sub(now) > Soon })
	return list
}

// Dated returns the repositories whose validity ends, the first to end first. It does not wait.
func (x *Index) Dated() []Repository {
	list := slices.DeleteFunc(x.now(), func(r Repository) bool { return r.ValidUntil.IsZero() })
	slices.SortStableFunc(list, func(a, b Repository) int { return a.ValidUntil.Compare(b.ValidUntil) })
	return list
}

// Sentences describe expiring repositories, for status.
func Sentences(list []Repository, now time.Time) (sentences []string) {
	const cure = "collect it again (casemate bundle create --apt, --packages) and import that"
	for i, r := range list {
		if i == maxSentences {
			return append(sentences, fmt.Sprintf("%d more repositories expire or have expired: casemate repo list",
				len(list)-i))
		}
		until := r.ValidUntil.UTC().Format(time.RFC3339)
		if r.ValidUntil.Before(now) {
			sentences = append(sentences, fmt.Sprintf("the repository %s expired on %s: apt-get update on nodes fails "+
				"(Release file … is expired); %s", r.Name(), until, cure))
			continue
		}
		sentences = append(sentences, fmt.Sprintf("the repository %s expires on %s: from then on apt-get update on "+
			"nodes fails (Release file … is expired); %s", r.Name(), until, cure))
	}
	return sentences
}
