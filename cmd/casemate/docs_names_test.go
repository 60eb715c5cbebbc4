package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// foreignFiles are files that pages name and that are not ours, with the reason.
var foreignFiles = map[string]string{
	"ansible.cfg":                      "of Ansible",
	"container-images.txt":             "in archives of other tools",
	"contrib/offline/generate_list.sh": "in a checkout of Kubespray",
	"files/casemate-enroll.sh":         "in the Ansible role that casemate enroll writes",
	"robots.txt":                       "a request of browsers",
	"stable.txt":                       "at dl.k8s.io",
	"stable-1.txt":                     "at dl.k8s.io",
	"stable-1.32.txt":                  "at dl.k8s.io",
}

// foreignNames are identifiers that pages name and that are in none of our sources, with the reason.
var foreignNames = map[string]string{
	"CurvePreferences":        "of crypto/tls; rejected",
	"NODE_EXTRA_CA_CERTS":     "a variable of Node.js",
	"REQUESTS_CA_BUNDLE":      "a variable of Python's requests",
	"RUSAGE_THREAD":           "of Linux; rejected",
	"_forgotten.HASH":         "a file in the tree, with a placeholder",
	"_mark.HASH":              "a file in the tree, with a placeholder",
	"_service":                "the first label of a DNS name",
	"apt_preferences":         "a manual page of apt",
	"bin_t":                   "of SELinux",
	"casemate_":               "the prefix of all metrics",
	"containerd_version":      "a variable of Kubespray",
	"imagePullPolicy":         "of Kubernetes",
	"my.files":                "a directory of somebody else",
	"no_application_protocol": "an alert of TLS",
	"page_reporting":          "a function of Linux",
	"recently_deleted":        "a function of ext4 in Linux",
	"sched_setattr":           "a system call, which is called by number",
	"sources.list.d":          "a directory of apt",
	"unconfined_service_t":    "of SELinux",
	"sync_file_range":         "a system call; rejected",
}

// goNames are the names in all Go sources of the module.
type goNames struct {
	declared map[string]map[string]bool // package, or type in any package → what it declares, or has as member
	used     map[string]map[string]bool // directory → identifiers, words of strings, and pairs ("a.b") in its files
	tests    []string
}

// identifier matches a name, dotted or not, in a string.
var identifier = regexp.MustCompile(`[A-Za-z_]\w*(?:\.\w+)*`)

func readGoNames(t *testing.T) *goNames {
	n := &goNames{declared: map[string]map[string]bool{}, used: map[string]map[string]bool{}}
	put := func(set map[string]map[string]bool, key, name string) {
		if set[key] == nil {
			set[key] = map[string]bool{}
		}
		set[key][name] = true
	}
	for name, text := range sources(t, ".service", ".socket", ".sh") { // keys of units, variables of scripts
		for _, word := range identifier.FindAllString(text, -1) {
			put(n.used, path.Dir(name), word)
		}
	}
	for name, text := range sources(t, ".go") {
		if name == "cmd/casemate/docs_names_test.go" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		dir, pkg := path.Dir(name), strings.TrimSuffix(f.Name.Name, "_test")
		ast.Inspect(f, func(node ast.Node) bool {
			switch x := node.(type) {
			case *ast.Ident:
				put(n.used, dir, x.Name)
			case *ast.BasicLit:
				for _, word := range identifier.FindAllString(x.Value, -1) {
					put(n.used, dir, word)
					for part := range strings.SplitSeq(word, ".") {
						put(n.used, dir, part)
					}
				}
			case *ast.SelectorExpr:
				if of, ok := x.X.(*ast.Ident); ok {
					put(n.used, dir, of.Name+"."+x.Sel.Name)
				}
			case *ast.FuncDecl:
				if x.Recv == nil {
					put(n.declared, pkg, x.Name.Name)
					if regexp.MustCompile(`^(Test|Benchmark|Fuzz)`).MatchString(x.Name.Name) {
						n.tests = append(n.tests, x.Name.Name)
					}
				} else {
					put(n.declared, receiver(x.Recv.List[0].Type), x.Name.Name)
				}
			case *ast.ValueSpec:
				for _, id := range x.Names {
					put(n.declared, pkg, id.Name)
				}
			case *ast.TypeSpec:
				put(n.declared, pkg, x.Name.Name)
				for _, member := range members(x.Type) {
					put(n.declared, x.Name.Name, member)
				}
			}
			return true
		})
	}
	return n
}

// receiver returns the name of a method's type.
func receiver(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.IndexListExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// members returns the fields of a struct, embedded ones by their type, and the methods of an interface.
func members(e ast.Expr) (names []string) {
	var list *ast.FieldList
	switch x := e.(type) {
	case *ast.StructType:
		list = x.Fields
	case *ast.InterfaceType:
		list = x.Methods
	default:
		return nil
	}
	for _, f := range list.List {
		for _, id := range f.Names {
			names = append(names, id.Name)
		}
		if len(f.Names) == 0 {
			names = append(names, receiver(f.Type))
		}
	}
	return names
}

// uses reports whether a Go file below dir ("." is every file) has the identifier, or the word in a string. The names
// of metrics are written there without their prefix.
func (n *goNames) uses(dir, name string) bool {
	name = strings.TrimPrefix(name, "casemate_")
	for d, names := range n.used {
		if names[name] && (dir == "." || d == dir || strings.HasPrefix(d, dir+"/")) {
			return true
		}
	}
	return false
}

// has reports whether a dotted name begins with one of our packages or types.
func (n *goNames) has(dotted string) bool {
	first, _, _ := strings.Cut(dotted, ".")
	return n.declared[first] != nil
}

// knows reports whether a dotted name (package.Name, Type.Method, package.Type.Method, or a text in a string such as
// the name of a setting) exists.
func (n *goNames) knows(dotted string) bool {
	if n.uses(".", dotted) {
		return true
	}
	parts := strings.Split(dotted, ".")
	for i := 1; i < len(parts); i++ {
		if !n.declared[parts[i-1]][parts[i]] && !n.uses(".", parts[i-1]+"."+parts[i]) {
			return false
		}
	}
	return true
}

var (
	quotedName = regexp.MustCompile("`([^`\n]+)`")
	codeBlock  = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	sourceFile = regexp.MustCompile(`^[\w./-]+\.(go|md|sh|txtar|txt)$`)
	goName     = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?$`)
	mixedCase  = regexp.MustCompile(`[a-z][A-Z]|^[A-Z][a-z]|_`)
	testName   = regexp.MustCompile(`^(Test|Benchmark|Fuzz)[A-Z]\w*`)
)

// TestDocsNames: the files, Go identifiers and tests that pages (README.md, docs/, the DESIGN.md files) name in
// backquotes exist.
//
//   - A file: one with a directory is relative to the page or to the root; one without is beside the page, or
//     for pages other than DESIGN.md anywhere.
//   - A dotted name is declared, or a text in a source (a setting, a host).
//   - A name of one word, in a DESIGN.md, is in a source of the page's package or below it. In the other pages words
//     are also those of clients and of the system, so only names in mixed case are checked, in all sources.
func TestDocsNames(t *testing.T) {
	names := readGoNames(t)
	files := sources(t, "")
	seenFiles, seenNames, seenTests := 0, 0, 0
	for page, text := range sources(t, ".md") {
		dir, design := path.Dir(page), path.Base(page) == "DESIGN.md"
		for _, m := range quotedName.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			name := m[1]
			switch bare := strings.TrimSuffix(name, "()"); {
			case foreignFiles[name] != "" || foreignNames[name] != "":
			case testName.MatchString(name):
				seenTests++
				begins := func(test string) bool { return strings.HasPrefix(test, testName.FindString(name)) }
				if !slices.ContainsFunc(names.tests, begins) { // `TestBenchThree*`
					t.Errorf("%s names the test %s, which does not exist", page, name)
				}
			case sourceFile.MatchString(name) && !strings.HasPrefix(name, "/"):
				seenFiles++
				if !fileExists(files, dir, name, !design) {
					t.Errorf("%s names the file %s, which does not exist", page, name)
				}
			case !goName.MatchString(name):
			case strings.Contains(bare, "."):
				if !design && !regexp.MustCompile(`\.[A-Z]`).MatchString(bare) && !names.has(bare) {
					continue // a host, a file or a setting of somebody else
				}
				seenNames++
				if !names.knows(bare) {
					t.Errorf("%s names %s, which does not exist", page, name)
				}
			case mixedCase.MatchString(bare):
				seenNames++
				where := "."
				if design {
					where = dir
				}
				if !names.uses(where, bare) {
					t.Errorf("%s names %s, which no Go file of %s has", page, name, where)
				}
			}
		}
	}
	if seenFiles < 50 || seenNames < 200 || seenTests < 50 {
		t.Errorf("only %d files, %d names and %d tests found: is the pages' format still what this test reads?",
			seenFiles, seenNames, seenTests)
	}
}

// fileExists reports whether a page in dir may name a file so.
func fileExists(files map[string]string, dir, name string, anywhere bool) bool {
	for _, full := range []string{path.Join(dir, name), name} {
		if _, ok := files[full]; ok {
			return true
		}
		if _, err := os.Stat(filepath.Join("..", "..", full)); err == nil {
			return true
		}
	}
	for file := range files {
		// In a page about one room, a file of another one has its directory.
		if strings.HasSuffix(file, "/"+name) && (anywhere || strings.Contains(name, "/")) {
			return true
		}
	}
	return false
}
