package clients

import (
	"strings"
)

// browsers are products of User-Agents that begin with Mozilla, which all browsers do; the first that is there names
// the browser.
var browsers = []string{"Firefox/", "Edg/", "OPR/", "Chrome/", "Safari/"}

// program returns a User-Agent's product with its version (RFC 9110 section 10.1.5): "containerd/v2.1.0" or "curl/8.5",
// "" if it has none. Of several it is the first with a version, of a browser's the browser.
func program(agent string) string {
	if len(agent) > 1024 {
		agent = agent[:1024]
	}
	first := ""
	products := strings.Fields(agent)
	if len(products) > 0 && strings.HasPrefix(products[0], "Mozilla/") {
		for _, name := range browsers {
			for _, p := range products {
				if strings.HasPrefix(p, name) && isProduct(p) {
					return p
				}
			}
		}
	}
	for _, p := range products {
		if strings.HasPrefix(p, "(") { // a comment, and what follows it belongs to other products
			break
		}
		if !isProduct(p) {
			continue
		}
		if strings.Contains(p, "/") {
			return p
		}
		if first == "" {
			first = p
		}
	}
	return first
}

// isProduct reports whether s is a product, with or without a version, that is worth showing.
func isProduct(s string) bool {
	if len(s) > maxProgram {
		return false
	}
	name, version, slash := strings.Cut(s, "/")
	return isToken(name) && (!slash || isToken(version))
}

// isToken reports a token of HTTP (RFC 9110 section 5.6.2), with fewer signs: the text is shown on terminals and pages.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_+~") == ""
}

// clean truncates an error, and makes it one printable line: parts of it are from clients.
func clean(s string) string {
	s = s[:min(len(s), maxWhat)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
