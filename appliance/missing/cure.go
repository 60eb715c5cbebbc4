package missing

import (
	"regexp"
	"strings"
)

// Cure returns what would supply an entry's content, for an operator: usually a casemate command. It is "" for noise.
// isPackage says that it is a package of a repository that is stored. reach returns how to make a host's name resolve
// to the bastions; "" if it does.
func Cure(e Entry, isPackage bool, reach func(host string) string) string {
	if e.Noise != "" {
		return ""
	}
	switch e.Kind {
	case Image:
		host, _, _ := strings.Cut(e.Name, "/")
		if i := strings.Index(e.Detail, "held with different content: "); i >= 0 {
			return "use one of the full names: " + e.Detail[i+len("held with different content: "):]
		}
		switch {
		case !isRegistry(e.Name):
			return "push it, or use its full name"
		case reach(host) != "":
			return reach(host) + ", bundle create --images"
		case !strings.ContainsAny(e.Name[strings.LastIndexByte(e.Name, '/')+1:], ":@"):
			return "its tags were listed: bundle create --images, with a tag"
		}
		return "bundle create --images"
	case Blob:
		return "bundle create --images, with the image that contains it"
	case File:
		create := "bundle create --files"
		if isPackage {
			create = "bundle create --packages"
		}
		project := pythonProject(e.Name)
		if project != "" {
			create = "bundle create --python, with " + project + " in the requirements"
		}
		switch why := NoFile(e.Name); {
		case strings.HasPrefix(e.Name, "/"):
			return "use a path below an origin's name: /HOST/PATH"
		case reach(hostOf(e.Name)) != "":
			return reach(hostOf(e.Name)) + ", " + create
		case why != "" && project == "":
			return "none, " + why
		}
		return create
	case DNS:
		if how := reach(e.Name); how != "" {
			return how + ", or name set " + e.Name + " A ADDRESS"
		}
		return "name set " + e.Name + " A ADDRESS"
	case TLS, Host:
		return reach(e.Name)
	}
	return ""
}

func isRegistry(image string) bool {
	host, _, ok := strings.Cut(image, "/")
	return ok && (strings.ContainsAny(host, ".:") || host == "localhost")
}

func hostOf(rawURL string) string {
	host, _, _ := splitURL(rawURL)
	return host
}

// pythonProject returns the name of the Python project whose page in an index (/simple/NAME/) a URL is; "" if it is no
// such page.
func pythonProject(rawURL string) string {
	_, elems, query := splitURL(rawURL)
	if n := len(elems); n >= 3 && elems[n-1] == "" && elems[n-3] == "simple" && query == "" {
		return elems[n-2]
	}
	return ""
}

// scripts matches hosts whose first page is an installation script (curl https://get.k3s.io | sh).
var scripts = regexp.MustCompile(`^get\.|^sh\.|^install\.`)

// NoFile returns why the URL of a miss cannot be fetched as a file; "" if it may be a file. The page of a Python
// project (/simple/NAME/, PEP 503) could be, but a stored page hides the one that is made of the packages that are
// here.
func NoFile(rawURL string) string {
	host, elems, query := splitURL(rawURL)
	n := len(elems)
	switch {
	case n == 1 && elems[0] == "" && query == "":
		if scripts.MatchString(host) {
			return ""
		}
		return "it is a host and not a file"
	case pythonProject(rawURL) != "":
		return "it is the page of a Python project: add " + pythonProject(rawURL) +
			" to the requirements for bundle create --python"
	case elems[n-1] == "" && query == "":
		return "it is a directory and not a file"
	case n >= 2 && elems[n-2]+"/"+elems[n-1] == "info/refs":
		return "it is a Git repository: import the result of git clone --mirror"
	}
	return ""
}
