package page

import (
	"errors"
	"regexp"
	"strings"
)

// administration are the pages about DNS, certificates, the cluster, accounts, settings and the audit log.
var administration = []entry{
	{path: "/dns", title: "DNS", nav: true, verb: "list", view: dnsPage},
	{path: "/certificates", title: "Certificates", nav: true, verb: "inspect", view: certificatesPage},
	{path: "/cluster", title: "Cluster", nav: true, verb: "list", view: clusterPage},
	{path: "/users", title: "Users", nav: true, verb: "inspect", view: usersPage},
	{path: "/settings", title: "Settings", nav: true, verb: "inspect", view: settingsPage},
	{path: "/audit", title: "Audit", nav: true, verb: "inspect", view: auditPage},
	{path: "/account", title: "Your account", verb: "list", view: accountPage},
}

// offers returns the links to actions that the account may do, below a table.
func (c *call) offers(links ...link) part { return part{"offers", c.offer(links...).Links} }

// sentenceOf returns the sentence of an answer that refuses a request because of what was asked, as opposed to who asks
// it, so that a page can show it beside its form.
func sentenceOf(err error) (string, bool) {
	var e *apiError
	if !errors.As(err, &e) || e.Status == 401 || e.Status == 403 {
		return "", false
	}
	return e.Sentence, true
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shellWord quotes a text for a shell: commands are copied, and texts of clients and of content are in them.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// shellWords quotes each line of a text.
func shellWords(s string) string {
	var words []string
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, shellWord(w))
		}
	}
	return strings.Join(words, " ")
}
