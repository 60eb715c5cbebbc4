package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Bounds of the suggestions for a name that does not exist.
const (
	maxSuggestions = 3
	maxCandidates  = 200_000 // names that are compared
	maxNameLength  = 512     // longer ones are not compared: the work grows quadratically
)

// source is a list of the daemon that has the names of one kind.
type source struct {
	path  string // of the admin API
	field string // of each element
}

var (
	theImages   = source{"images", "reference"}
	theFiles    = source{"files", "url"}
	theOrigins  = source{"origins", "host"}
	theImports  = source{"imports", "name"}
	theUsers    = source{"users", "name"}
	theRoles    = source{"roles", "name"}
	theKeys     = source{"apikeys", "name"}
	theLogins   = source{"upstream/logins", "host"}
	theNames    = source{"names", "name"}
	theSettings = source{"settings", "key"}
	theMembers  = source{"members", "node"}
	theCerts    = source{"certs", "serial"}

	theRepositories = source{"packages/repositories", "name"}
)

// names yields the names of a source, as far as the daemon sends them; none if it cannot be reached.
func (o *options) names(cmd *cobra.Command, from source) iter.Seq[string] {
	return func(yield func(string) bool) {
		resp, err := o.client().do(cmd.Context(), http.MethodGet, from.path, nil, nil)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		dec := json.NewDecoder(resp.Body)
		if t, err := dec.Token(); err != nil || t != json.Delim('[') {
			return
		}
		for n := 0; n < maxCandidates && dec.More(); n++ {
			var element map[string]json.RawMessage
			var name string
			if dec.Decode(&element) != nil || json.Unmarshal(element[from.field], &name) != nil || !yield(name) {
				return
			}
		}
	}
}

// suggest adds the nearest names to an error about a name that does not exist.
func (o *options) suggest(cmd *cobra.Command, err error, from source, name string) error {
	var answer *apiError
	if !errors.As(err, &answer) || answer.status != http.StatusNotFound {
		return err
	}
	near := didYouMean(nearest(name, o.names(cmd, from)))
	return &apiError{answer.status, answer.message + near}
}

// nothingMatches returns the message for an empty list, whole or with a prefix.
func (o *options) nothingMatches(cmd *cobra.Command, things string, from source, prefix string, empty bool) string {
	switch {
	case !empty || o.json():
		return "" // it is not printed
	case prefix == "":
		return "no " + things
	}
	return fmt.Sprintf("no %s match %q%s", things, prefix, didYouMean(nearestPrefix(prefix, o.names(cmd, from))))
}

// complete offers the names of a source to the shell, for the first argument.
func (o *options) complete(from source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if len(args) == 0 {
			for name := range o.names(cmd, from) {
				if strings.HasPrefix(name, typed) && len(names) < 1000 {
					names = append(names, name)
				}
			}
		}
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// didYouMean returns the end of an error message with suggestions, "" without any.
func didYouMean(names []string) string {
	switch n := len(names); n {
	case 0:
		return ""
	case 1:
		return "; did you mean " + names[0] + "?"
	default:
		return "; did you mean " + strings.Join(names[:n-1], ", ") + " or " + names[n-1] + "?"
	}
}

// synonyms are words of other programs for what a command does here.
var synonyms = [][]string{
	{"add", "create", "new", "put", "set"},
	{"delete", "del", "remove", "rm", "erase"},
	{"list", "ls", "show"},
	{"serve", "start", "run", "daemon"},
	{"passwd", "password"},
	{"status", "health", "info"},
	{"check", "verify", "validate"},
}

// nearCommands returns the subcommands that a user who typed word may have meant.
func nearCommands(cmd *cobra.Command, word string) []string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if near := nearest(word, slices.Values(names)); near != nil {
		return near
	}
	for _, words := range synonyms {
		if slices.Contains(words, word) {
			return slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(words, name) })
		}
	}
	return nil
}

// nearest returns the candidates that a user who typed name may have meant, the nearest first: those that differ in a
// few characters, those that end in it, as registry.k8s.io/pause:3.10 ends in pause:3.10, and other tags of an image.
func nearest(name string, candidates iter.Seq[string]) []string {
	return nearestBy(name, candidates, func(candidate string, most int) int {
		if len(candidate) > len(name) && strings.HasSuffix(candidate, name) &&
			strings.ContainsRune("/-.", rune(candidate[len(candidate)-len(name)-1])) {
			return 1
		}
		d, _ := distance(name, candidate, most)
		if repo, tag, ok := cutTag(name); ok && d > most {
			if other, otherTag, ok := cutTag(candidate); ok && other == repo {
				if d, _ := distance(tag, otherTag, len(tag)+len(otherTag)); d <= most {
					return d
				}
				return most // the largest possible distance, after all near ones
			}
		}
		return d
	})
}

// nearestPrefix is nearest for the beginning of a name.
func nearestPrefix(prefix string, candidates iter.Seq[string]) []string {
	return nearestBy(prefix, candidates, func(candidate string, most int) int {
		_, d := distance(prefix, candidate, most)
		return d
	})
}

// nearestBy returns the few candidates with the smallest distance, of at most one error in four characters. Equal ones
// stay in order.
func nearestBy(name string, candidates iter.Seq[string], distance func(candidate string, most int) int) []string {
	if name == "" || len(name) > maxNameLength {
		return nil
	}
	type found struct {
		name     string
		distance int
	}
	most := min(max(len(name)/4, 1), 6)
	var best []found
	for c := range candidates {
		if c == name || len(c) > maxNameLength || slices.ContainsFunc(best, func(f found) bool { return f.name == c }) {
			continue
		}
		d := distance(c, most)
		if d > most || len(best) == maxSuggestions && d >= best[maxSuggestions-1].distance {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, d, func(f found, d int) int {
			if f.distance <= d {
				return -1
			}
			return 1
		})
		best = slices.Insert(best, at, found{c, d})
		best = best[:min(len(best), maxSuggestions)]
	}
	var names []string
	for _, f := range best {
		names = append(names, f.name)
	}
	return names
}

// cutTag removes the tag from an image's name.
func cutTag(name string) (repository, tag string, ok bool) {
	at := strings.LastIndexByte(name, ':')
	if at <= 0 || strings.Contains(name[at:], "/") {
		return "", "", false
	}
	return name[:at], name[at+1:], true
}

// distance returns how many characters have to be added, dropped, replaced or swapped with their neighbour to turn a
// into b; and the same for the prefix of b that is nearest to a. Both are most+1 if they exceed most. Case is ignored.
func distance(a, b string, most int) (whole, beginning int) {
	a, b = strings.ToLower(a), strings.ToLower(b)
	// One row for each character of a; before and before2 are the two rows above it.
	row, before, before2 := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before2, before, row = before, row, before2
		row[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			replace := before[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(before[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before2[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least > most {
			return most + 1, most + 1
		}
	}
	return min(row[len(b)], most+1), min(slices.Min(row), most+1)
}
