package share

import (
	"slices"
	"strings"
	"testing"
)

// Who is remembered. The steps are: "a" adds a client, "a." sees it, "a-" forgets it. Clients in capitals may not be
// forgotten.
func TestWhoIsRemembered(t *testing.T) {
	for _, tt := range []struct{ name, steps, want string }{
		{"room", "a b c", "a b c"},
		{"the first makes room", "a b c d", "b c d"},
		{"who was seen stays", "a b c a. d", "a c d"},
		{"added again counts as seen", "a b c a d", "a c d"},
		{"forgotten", "a b a- c d", "b c d"},
		{"forgetting a stranger", "a z- b", "a b"},
		{"seeing a stranger", "a z. b", "a b"},
		{"exempt", "A b c d e", "A d e"},
		{"all are exempt", "A B C d", "A B C"},
		{"all are exempt, one again", "A B C A. C", "A B C"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewRecent(3, func(c string) bool { return c == strings.ToLower(c) })
			for _, step := range strings.Fields(tt.steps) {
				if who, forget := strings.CutSuffix(step, "-"); forget {
					r.Forget(who)
				} else if who, see := strings.CutSuffix(step, "."); see {
					if got, ok := r.See(who); ok && got != who {
						t.Errorf("%s is remembered as %s", who, got)
					}
				} else if ok := r.Add(step, step); ok != r.Has(step) {
					t.Errorf("adding %s: %v, but it is there: %v", step, ok, r.Has(step))
				}
			}
			var got []string
			for client := range r.at {
				got = append(got, client)
			}
			slices.Sort(got)
			if !slices.Equal(got, strings.Fields(tt.want)) || r.Len() != len(got) || r.order.Len() != len(got) {
				t.Errorf("remembered: %v, want %s", got, tt.want)
			}
		})
	}
}
