package doctor

import (
	"fmt"
	"net/netip"
	"strings"

	"casemate/appliance/nodeconf"
)

// Executable describes a bastion's own executable.
type Executable struct {
	SHA256 string `json:"sha256"` // hex
	Size   int64  `json:"size"`   // bytes
	OS     string `json:"os"`     // GOOS
	Arch   string `json:"arch"`
}

// machines maps GOARCH to the output of uname -m.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "riscv64": "riscv64", "ppc64le": "ppc64le",
	"s390x": "s390x", "loong64": "loongarch64"}

// Line returns one line for a node's shell: it downloads the executable from the first bastion that serves the right
// bytes, verifies them and runs a command of it with these words. The download uses plain HTTP, since trust in the CA
// may be what is broken; the checksum in the line protects it.
func Line(e Executable, bastions []netip.Addr, command string, words ...string) string {
	var urls []string
	for _, a := range bastions {
		// In double quotes: the brackets of an IPv6 address would be a pattern of file names.
		urls = append(urls, `"http://`+nodeconf.URLHost(a)+`/casemate"`)
	}
	machine := machines[e.Arch]
	if machine == "" {
		machine = e.Arch
	}
	return fmt.Sprintf(
		`( [ "$(uname -m)" = %[1]s ] || { echo "this is for %[1]s, the node is $(uname -m): take the line of a bastion with that architecture" >&2; exit 1; }; `+
			`d=$(mktemp) && trap 'rm -f "$d"' EXIT && head -c %[5]d /dev/zero >"$d" || { echo "no room in ${TMPDIR:-/tmp}: free %[6]d MiB there, or name another directory with TMPDIR" >&2; exit 1; }; `+
			`for u in %[2]s; do `+
			`{ curl -gfsS --noproxy '*' --connect-timeout 5 -m 120 -o "$d" "$u" || wget -q --no-proxy -t 1 -T 30 -O "$d" "$u"; } && echo "%[3]s  $d" | sha256sum -c --status - && break; done; `+
			`echo "%[3]s  $d" | sha256sum -c --status - || { echo "no bastion served the right file" >&2; exit 1; }; chmod 700 "$d" && "$d" %[4]s )`,
		machine, strings.Join(urls, " "), e.SHA256, strings.Join(append([]string{command}, words...), " "),
		e.Size, e.Size>>20+1)
}
