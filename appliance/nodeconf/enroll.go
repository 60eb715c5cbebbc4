package nodeconf

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Formats are the output formats of Enroll.
var Formats = []string{"line", "sh", "cloud-init", "ansible"}

// A File is one generated file.
type File struct {
	Path string `json:"path,omitempty"` // relative to a directory of the user's choice; empty: standard output
	Mode uint32 `json:"mode"`
	Text string `json:"text"`
}

// enrollScript is what comes behind the site's data.
//
//go:embed enroll.sh
var enrollScript string

// Script returns the enrol script for the nodes: a POSIX shell script, the same on every bastion.
//
// All data of the site is checked and also quoted, because the script runs as root on every node.
func (s *Site) Script() (string, error) {
	roots, err := s.check()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("#!/bin/sh")
	line("# Enrols a node with the bastions of %s: sets them as the node's resolvers and trusts their CA. See --help.",
		s.Domain)
	line("")
	line("CASEMATE_DOMAIN='%s'", s.Domain)
	line("# One bastion per line: its name and its addresses.")
	nodes := make([]string, len(s.Nodes))
	for i, n := range s.Nodes {
		nodes[i] = n.Name
		for _, a := range n.Addrs {
			nodes[i] += " " + a.String()
		}
	}
	line("CASEMATE_NODES='%s'", strings.Join(nodes, "\n"))
	var hosts []string
	for _, o := range s.Origins {
		hosts = append(append(hosts, o.Host), o.Aliases...)
	}
	registries := s.Registries()
	// The first one is resolved at the end as a test: prefer a well-known one.
	if i := slices.Index(registries, "registry.k8s.io"); i > 0 {
		registries = slices.Insert(slices.Delete(registries, i, i+1), 0, "registry.k8s.io")
	}
	rest := slices.DeleteFunc(hosts, func(h string) bool { return slices.Contains(registries, h) })
	slices.Sort(rest)
	line("CASEMATE_REGISTRIES='%s'", strings.Join(registries, " "))
	line("CASEMATE_ORIGINS='%s'", strings.Join(append(slices.Clone(registries), slices.Compact(rest)...), " "))
	ids := make([]string, len(roots))
	for i, r := range roots {
		ids[i] = r.id
	}
	line("# The root certificates, by a prefix of their SHA-256.")
	line("CASEMATE_ROOTS='%s'", strings.Join(ids, " "))
	line("rootPEM() {")
	line("\tcase \"$1\" in")
	for _, r := range roots {
		line("\t%s) cat <<'EOF'\n%sEOF\n\t\t;;", r.id, r.pem)
	}
	line("\tesac")
	line("}")
	s.scriptRepositories(line)
	line("")
	return b.String() + enrollScript, nil
}

// Enroll writes the enrol script in one of the Formats. The nodes also get the sources and the key of these
// repositories of packages. fs.ErrNotExist: there is no such repository.
func (s *Site) Enroll(format string, repositories ...string) ([]File, error) {
	if !slices.Contains(Formats, format) {
		return nil, fmt.Errorf("format must be one of %s, got %q: %w", strings.Join(Formats, ", "), format,
			fs.ErrInvalid)
	}
	script, err := s.Script()
	if err != nil {
		return nil, err
	}
	arguments, err := s.choose(repositories)
	if err != nil {
		return nil, err
	}
	switch format {
	case "line":
		words := append([]string{s.line(script)}, arguments...)
		return []File{{Mode: 0o644, Text: strings.Join(words, " ") + "\n"}}, nil
	case "sh":
		if len(repositories) == 0 {
			return []File{{Mode: 0o755, Text: script}}, nil
		}
		head, rest, _ := strings.Cut(script, "\n")
		preset := "CASEMATE_USED='" + strings.Join(repositories, " ") + "' # repositories, without --repo\n"
		return []File{{Mode: 0o755, Text: head + "\n" + preset + rest}}, nil
	case "cloud-init":
		return []File{{Mode: 0o644, Text: cloudInit(script, arguments)}}, nil
	}
	return s.role(script, repositories), nil
}

// line returns a command for a root shell that downloads the script from the first bastion that serves the right
// bytes, and runs it with the arguments appended to the line. It contains no single quote except the two around the
// inner command.
func (s *Site) line(script string) string {
	sum := sha256.Sum256([]byte(script))
	var hosts []string
	for _, a := range s.Addrs() {
		hosts = append(hosts, URLHost(a))
	}
	return fmt.Sprintf(
		`sh -c 'f=$(mktemp) && head -c 1048576 /dev/zero >"$f" || { rm -f "$f"; echo "casemate-enroll: no room in ${TMPDIR:-/tmp}: free 1 MiB there, or name another directory with TMPDIR; nothing was done" >&2; exit 1; }; `+
			`for b in %s; do u="http://$b/enroll"; `+
			`if command -v curl >/dev/null; then curl -gfsS --noproxy "*" --connect-timeout 5 -m 20 -o "$f" "$u"; else http_proxy= wget -q -t 1 -T 10 -O "$f" "$u"; fi || continue; `+
			`if echo "%s  $f" | sha256sum -c - >/dev/null 2>&1; then sh "$f" "$@"; r=$?; rm -f "$f"; exit $r; fi; echo "casemate-enroll: $u has a wrong checksum" >&2; done; `+
			`rm -f "$f"; echo "casemate-enroll: no bastion served the script; nothing was done" >&2; exit 1' casemate-enroll`,
		quoted(hosts), hex.EncodeToString(sum[:]))
}

// quoted puts words in double quotes: the brackets of an IPv6 address would be a glob pattern.
func quoted(words []string) string { return `"` + strings.Join(words, `" "`) + `"` }

// cloudInit returns user data that writes the script and runs it.
func cloudInit(script string, arguments []string) string {
	var b strings.Builder
	b.WriteString(`#cloud-config
# Enrols the node at its first boot. The script stays, so that "casemate-enroll --undo" works.
# Packages of the same cloud-config are installed before; if they are to come from the bastions, build the image with the script's --root instead.
write_files:
  - path: /usr/local/sbin/casemate-enroll
    permissions: '0755'
    owner: root:root
    content: |
`)
	for l := range strings.Lines(script) {
		if l != "\n" {
			b.WriteString("      ")
		}
		b.WriteString(l)
	}
	command := append([]string{"/usr/local/sbin/casemate-enroll"}, arguments...)
	b.WriteString("runcmd:\n  - [" + strings.Join(command, ", ") + "]\n")
	return b.String()
}

//go:embed role/tasks.yml
var roleTasks string

//go:embed role/defaults.yml
var roleDefaults string

//go:embed role/README.md
var roleReadme string

// role returns an Ansible role that runs the script.
func (s *Site) role(script string, repositories []string) []File {
	defaults := strings.Replace(roleDefaults, "casemate_enroll_repositories: []",
		"casemate_enroll_repositories: ["+strings.Join(repositories, ", ")+"]", 1)
	return []File{
		{Path: "README.md", Mode: 0o644, Text: roleReadme},
		{Path: "defaults/main.yml", Mode: 0o644, Text: defaults},
		{Path: "files/casemate-enroll.sh", Mode: 0o755, Text: script},
		{Path: "tasks/main.yml", Mode: 0o644, Text: roleTasks},
	}
}

type root struct{ id, pem string }

// check refuses site data that is not valid in a script, and returns the roots, each with a prefix of its SHA-256.
func (s *Site) check() ([]root, error) {
	if !isHost(s.Domain) {
		return nil, fmt.Errorf("the domain is not a host name: %q", s.Domain)
	}
	if len(s.Nodes) == 0 {
		return nil, fmt.Errorf("no bastion is known")
	}
	for _, n := range s.Nodes {
		if !isHost(n.Name) {
			return nil, fmt.Errorf("the name of bastion %q is not a host name", n.Name)
		}
		if len(n.Addrs) == 0 {
			return nil, fmt.Errorf("no address of bastion %s is known", n.Name)
		}
		for _, a := range n.Addrs {
			if !reachable(a) {
				return nil, fmt.Errorf("bastion %s has the address %s, which nodes cannot use", n.Name, a)
			}
		}
	}
	for _, o := range s.Origins {
		for _, h := range append([]string{o.Host}, o.Aliases...) {
			if !isHost(h) {
				return nil, fmt.Errorf("the origin %q is not a host name", h)
			}
		}
	}
	if err := s.checkRepositories(); err != nil {
		return nil, err
	}
	var roots []root
	for rest := []byte(s.Roots); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if strings.TrimSpace(string(rest)) != "" {
				return nil, fmt.Errorf("the roots contain data that is not PEM")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the roots contain a PEM block %q", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("a root cannot be read: %w", err)
		}
		sum := sha256.Sum256(block.Bytes)
		// Encoded again, to drop the headers and the text between blocks that PEM allows.
		roots = append(roots, root{hex.EncodeToString(sum[:8]),
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))})
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no root certificate is known")
	}
	return roots, nil
}

// isHost reports whether s consists of lower-case host labels.
func isHost(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return len(s) <= 253
}
