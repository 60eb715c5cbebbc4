package python

import (
	"fmt"
	"net/url"
	"strings"
)

// CheckIndex checks the URL of an index of Python packages, and returns it with a slash at its end. It is one that pip
// takes as its index-url: https or http, without user, query and fragment.
func CheckIndex(raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return "", fmt.Errorf("%.200q is not the URL of an index: write https://HOST/simple/", raw)
	case u.User != nil:
		return "", fmt.Errorf("the URL of the index at %s has a user: write it without one", u.Host)
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "", fmt.Errorf("%.200q has a query or a fragment, which the URL of an index has not", raw)
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + strings.TrimRight(u.EscapedPath(), "/") + "/", nil
}
