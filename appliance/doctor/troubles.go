package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// trouble is one way in which a node can be wrong. What doctor prints and what docs/troubleshooting.md says are both
// made of it, so that the text that somebody looks for is found in both.
type trouble struct {
	id    string
	seen  []string // what people will have read, of several programs
	cause string   // with {places} that a run fills in
	cure  []step
}

// step is one thing to do, a command as a rule.
type step struct {
	on string // on which kind of node: a key of kinds; "" is everywhere
	do string
}

// kinds are what distinguishes nodes, in the words of the page.
var kinds = map[string]string{
	"deb": "Debian, Ubuntu", "rpm": "RHEL and its rebuilds, Fedora", "suse": "SUSE",
	"dns": "nodes that ask the bastions for names", "mirror": "nodes with mirrors",
	"resolved": "with systemd-resolved", "nm": "with NetworkManager", "plain": "with a plain /etc/resolv.conf",
}

const (
	enroll = "on a bastion: `casemate enroll` prints the one line that sets up this node"
	// Without it the script would set up the resolver, which has to be left alone there.
	enrollMirror = "on a bastion: `casemate enroll` prints a line; run it here with ` --no-resolver` behind it"

	status  = "on a bastion: `casemate status`"
	restart = "`systemctl restart containerd` (or docker, crio, kubelet, k3s): Go programs read the trust store once"
)

// pointHere are the steps that make the bastions the only resolvers.
var pointHere = []step{
	{do: enroll},
	{"resolved", "`mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\\nDNS={bastions}\\nDomains=~.\\nDNSSEC=no\\n' > /etc/systemd/resolved.conf.d/casemate.conf && systemctl restart systemd-resolved`; take other DNS servers off the links: `resolvectl dns`"},
	{"nm", "`c=$(nmcli -g NAME connection show --active | head -n 1); nmcli connection modify \"$c\" ipv4.dns '{bastions}' ipv4.ignore-auto-dns yes && nmcli connection up \"$c\"`"},
	{"plain", "`printf 'nameserver %s\\n' {bastions} > /etc/resolv.conf`, and see that DHCP does not write it again"},
}

// trustHere are the steps that put the root into the trust store.
var trustHere = []step{
	{"dns", enroll},
	{"mirror", enrollMirror},
	{do: "on a bastion: `casemate ca > casemate.crt`, and bring the file here"},
	{"deb", "`install -m 644 casemate.crt /usr/local/share/ca-certificates/casemate.crt && update-ca-certificates`"},
	{"rpm", "`install -m 644 casemate.crt /etc/pki/ca-trust/source/anchors/casemate.crt && update-ca-trust`"},
	{"suse", "`install -m 644 casemate.crt /etc/pki/trust/anchors/casemate.crt && update-ca-certificates`"},
	{do: restart},
}

// texts of programs that stand for several troubles.
var (
	noHost  = []string{"no such host", "Temporary failure in name resolution", "Could not resolve host", "NXDOMAIN"}
	unknown = []string{"x509: certificate signed by unknown authority", "SSL certificate problem: unable to get local issuer certificate", "certificate verify failed"}
	silent  = []string{"i/o timeout", "context deadline exceeded", "Connection timed out", "No route to host", "Network is unreachable"}
	noPull  = []string{"failed to resolve reference", "failed to do request", "pinging container registry"}
	wrong   = []string{"sha256 checksum mismatch", "unexpected commit digest"}
)

// troubles are all of them, in the order of the causes.
var troubles = []trouble{
	// Is there a bastion?
	{"no-bastion", noHost, "None of the resolvers that this node asks ({detail}) answers as a bastion at port 80.", append(pointHere[:1:1],
		step{do: "`casemate doctor BASTION` checks against a bastion that you name"})},
	{"not-enrolled", noHost, "Nothing on this node names a bastion: neither {detail} nor a line for registry.DOMAIN in {file}.", []step{
		{do: enrollMirror}, {do: "`casemate doctor --mode mirror BASTION` checks against a bastion that you name"}}},
	{"refused", []string{"Connection refused"}, "Nothing listens at {detail}: the daemon does not run there, or a firewall answers for it.", []step{
		{do: "on that bastion: `systemctl status casemate` and `systemctl start casemate`"},
		{do: "`ss -lntup` there must show 53/udp, 53/tcp, 80/tcp and 443/tcp at the address that nodes use"}}},
	{"unreachable", silent, "No answer from {detail}: the machine is down, a firewall drops it, or there is no route.", []step{
		{do: "`ip route get {bastion}` and `ping -c 1 {bastion}`"},
		{do: "on that bastion: `firewall-cmd --permanent --add-service=dns --add-service=http --add-service=https && firewall-cmd --reload`, and the firewalls between"}}},
	{"not-casemate", []string{"404 Not Found"}, "What answers at {detail} is not Casemate, or cannot say what it serves.", []step{
		{do: "`curl -fsS http://{bastion}/site.json`; if another program answers, name the bastions: `casemate doctor BASTION`"}, {do: status}}},
	{"dns-refused", []string{"REFUSED"}, "The bastion at {detail} does not answer this node's network: it is not in dns.allow.", []step{
		{do: "on a bastion: `casemate config get dns.allow`, then `casemate config set dns.allow` with this node's network added"}}},

	// Whom does the node ask?
	{"no-resolver", []string{"[::1]:53: read: connection refused", "Temporary failure in name resolution"}, "{file} names no resolver.", pointHere},
	{"foreign-only", noHost, "This node does not ask the bastions but {detail} ({file}).", pointHere},
	{"foreign-among", noHost, "Besides the bastions this node asks {detail} ({file}): whichever answers first is believed, and one that says NXDOMAIN ends the lookup. It fails now and then.", pointHere},
	{"many-resolvers", noHost, "{file} has {detail} resolvers. Programs ask the first three and ignore the rest.", pointHere},
	{"nsswitch", noHost, "The line of hosts in {file} names neither dns nor resolve ({detail}), so programs that use the C library never ask a resolver.", []step{
		{do: "`sed -i 's/^hosts:.*/hosts: files dns/' {file}`"}}},
	{"dnssec", []string{"DNSSEC validation failed", "SERVFAIL"}, "systemd-resolved validates DNSSEC ({file}): the public zones are signed, and the bastions' answers for their names cannot be.", []step{
		{do: "`mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\\nDNSSEC=no\\n' > /etc/systemd/resolved.conf.d/zz-casemate.conf && systemctl restart systemd-resolved`"}, {do: enroll}}},
	{"global-dns", noHost, "NetworkManager's global DNS in {file} replaces that of all connections and names {detail}.", []step{
		{do: "take the section [global-dns-domain-*] out of {file} or name the bastions in it, then `systemctl reload NetworkManager`"}}},

	// What do the names lead to?
	{"name-unknown", noHost, "The bastion at {bastion} has no address for {names}: it is no origin there, or not enabled.", []step{
		{do: "on a bastion: `casemate origin list` gives the reason, `casemate missing` has what was asked for; then `casemate origin add {name}`"}}},
	{"name-lost", noHost, "The bastions know {names}; the resolver of this node does not: another resolver or a cache is in between.", []step{
		{"resolved", "`resolvectl flush-caches`"}, {do: "`getent hosts NAME` and `dig @{bastion} NAME` must show the same address"}, {do: enroll}}},
	{"name-elsewhere", silent, "{names} is not a bastion for this node but {detail}: another resolver answers.", pointHere},
	{"hosts-file", silent, "{file} leads {names} to {detail}, which is no bastion. It is believed before any resolver.", []step{
		{do: "`grep -n NAME {file}`, and take those lines out"}, {"mirror", enrollMirror + ": it writes the right ones"}}},
	{"own-name-lost", noHost, "This node has no address for the bastions' own names {names} ({detail}): their lines in {file} are not there, or older than a bastion.", []step{
		{do: enrollMirror + ": it writes them"}, {do: "or append `etc/hosts.casemate` of `casemate mirrors` to {file}"}}},
	{"own-name-elsewhere", silent, "{names} is not a bastion for this node but {detail}: its resolver answers for the bastions' own names.", []step{
		{do: enrollMirror + ": it writes them into {file}, which is believed before any resolver"}, {do: "or mend them at that resolver"}}},
	{"lookup-timeout", []string{"Temporary failure in name resolution", "dial tcp: lookup … i/o timeout"}, "The resolver of this node does not answer in time for {names} ({detail}): the first one that it asks is dead, or a firewall drops UDP port 53.", []step{
		{do: "`dig @{bastion} {name}` and `dig +tcp @{bastion} {name}`"}, {do: enroll}}},
	{"aaaa", noHost, "{detail} answers a question for the IPv6 address of {names} with NXDOMAIN, which some caches take for all of the name.", pointHere},
	{"dns-tcp", []string{"connection timed out; no servers could be reached", "SERVFAIL"}, "DNS over TCP fails at {bastion}: {detail}. Large answers come that way.", []step{
		{do: "`dig +tcp @{bastion} {name}`; open 53/tcp in the firewalls between"}, {do: "on that bastion: `firewall-cmd --permanent --add-service=dns && firewall-cmd --reload`"}}},

	// Is it the same time?
	{"clock", []string{"x509: certificate has expired or is not yet valid", "certificate is not yet valid"}, "This node's clock is {detail} from the bastions'.", []step{
		{do: "`date -u -s \"$(curl -fsSI http://{bastion}/ | sed -n 's/^[Dd]ate: //p')\"`"},
		{do: "then a time source inside: `timedatectl`, `chronyc sources`"}}},
	{"bastion-clock", []string{"x509: certificate has expired or is not yet valid"}, "The clock of the bastion at {bastion} is {detail} from the others'.", []step{
		{do: "on that bastion: `timedatectl`, `chronyc sources`"}}},

	// Is the CA trusted?
	{"unknown-authority", unknown, "The bastions' root (sha256 {detail}) is not in this node's trust store ({file}).", append([]step{{do: "compare the fingerprint: on a bastion: `casemate ca | openssl x509 -noout -fingerprint -sha256`"}}, trustHere...)},
	{"new-root", unknown, "The bastions have a second root (sha256 {detail}) that is not in this node's trust store ({file}): a rotation is under way.", append(trustHere[:len(trustHere):len(trustHere)],
		step{do: "on a bastion: `casemate ca rotate --finish` only when all nodes have it; finished too early: `casemate ca rotate --undo`"})},
	{"bundle-lacks", []string{"SSL certificate problem: unable to get local issuer certificate", "server certificate verification failed"}, "Go programs find the bastions' root in the folder of {file}, but the file itself lacks it: curl, wget and others read that alone.", []step{
		{"deb", "`update-ca-certificates`"}, {"rpm", "`update-ca-trust`"}, {"suse", "`update-ca-certificates`"}, {"dns", enroll}, {"mirror", enrollMirror}}},
	{"other-root", unknown, "The certificate for {names} at {bastion} comes from none of the bastions' roots: something else answers there ({detail}).", []step{
		{do: "`openssl s_client -connect {bastion}:443 -servername {name} </dev/null` shows who"}, {do: status}}},
	{"stale-trust", unknown, "{detail} runs since before the bastions' roots came into {file}, and still has what it held then.", []step{{do: "`systemctl restart {name}`"}}},
	{"expired", []string{"x509: certificate has expired or is not yet valid"}, "The certificate for {names} at {bastion} is not valid at this node's time: {detail}.", []step{
		{do: status + " names the certificates that expire"}, {do: "`date -u` here and there must be the same"}}},
	{"wrong-name", []string{"x509: certificate is valid for", "SSL: no alternative certificate subject name matches"}, "What answers for {names} at {bastion} has a certificate for other names: {detail}.", []step{
		{do: "`openssl s_client -connect {bastion}:443 -servername {name} </dev/null | openssl x509 -noout -text` shows whose"}, {do: status}}},
	{"constraint", []string{"x509: a root or intermediate certificate is not authorized to sign for this name", "permitted subtree violation"}, "{names} lies outside what the root was made for (`--permit` at `casemate init`), or was enabled a moment ago.", []step{
		{do: "on a bastion: `casemate origin list` gives the reason, and the `casemate ca rotate` that makes a root with it"}}},
	{"tls-alert", []string{"remote error: tls: internal error", "tlsv1 alert internal error", "tlsv1 unrecognized name"}, "The bastion at {bastion} has no certificate for {names}: {detail}.", []step{
		{do: "on a bastion: `casemate missing`, `casemate status`, then `casemate origin add {name}`"}}},
	{"tls-silent", []string{"net/http: TLS handshake timeout", "context deadline exceeded"}, "The bastion at {bastion} takes the connection, and the handshake for {names} does not end: large packets are lost on the way, most likely (MTU).", []step{
		{do: "`ping -M do -s 1472 -c 1 {bastion}`; if that fails and `-s 1372` does not: `ip link set dev INTERFACE mtu 1400`"},
		{do: "let ICMP \"fragmentation needed\" through the firewalls between"}}},
	{"tls-broken", []string{"tls: first record does not look like a TLS handshake", "connection reset by peer", "EOF"}, "What answers for {names} at port 443 of {bastion} breaks the handshake off: {detail}.", []step{
		{do: "`openssl s_client -connect {bastion}:443 -servername {name} </dev/null`"}, {do: status}}},

	// Does something on the node overrule all that?
	{"mirror-elsewhere", noPull, "{file} sends pulls of {names} to {detail}, which is no bastion.", []step{
		{do: "take it out, or name the bastions in it: on a bastion: `casemate mirrors --for containerd` (docker, podman, crio, k3s, rke2)"}}},
	{"mirror-last", noPull, "{file} makes the runtime ask {detail} for {names} where the bastions lack an image; a node in the gap waits for it in vain.", []step{
		{do: "name a bastion there: `server` in hosts.toml, `location` in registries.conf; for k3s and RKE2 `disable-default-registry-endpoint: true` in config.yaml"},
		{do: "on a bastion: `casemate mirrors --for containerd` (docker, podman, crio, k3s, rke2)"}}},
	{"mirror-lacking", noPull, "{file} has no mirror for {names}, and this node does not ask the bastions for names: the runtime looks for them in the Internet.", []step{
		{do: "on a bastion: `casemate mirrors --for containerd` (docker, podman, crio, k3s, rke2), also after `casemate origin add`"}}},
	{"config-path", noPull, "There are hosts.toml files in {file}, and {detail} has no config_path that names it: containerd before 2.2 does not read them.", []step{
		{do: "containerd 2.x: `[plugins.'io.containerd.cri.v1.images'.registry]` and below it `config_path = '{file}'` in {detail}"},
		{do: "containerd 1.x: `[plugins.\"io.containerd.grpc.v1.cri\".registry]` and below it `config_path = \"{file}\"` in {detail}"},
		{do: "then `systemctl restart containerd`"}}},
	{"mirror-insecure", []string{"http: server gave HTTP response to HTTPS client", "failed to resolve reference"}, "{file} switches the verification for {names} off ({detail}). It is not needed, and whoever stands in between can change what is pulled.", []step{
		{do: "take `skip_verify`, `insecure` and `http://` out of {file}"}}},
	{"mirror-ca", unknown, "{file} names the CA file {detail} for {names}, which is not there, is no certificate, or cannot be used.", []step{
		{do: "on a bastion: `casemate ca > casemate.crt`, and put it there; or take the line out: the system's trust store is read as well"}}},
	{"mirror-ca-root", unknown, "The CA file {detail} that {file} names for {names} lacks a root that the bastions have: a rotation is under way, or it is another CA's.", []step{
		{"mirror", enrollMirror + ": it writes /etc/casemate/ca.crt"}, {do: "on a bastion: `casemate ca > casemate.crt`, and put it there"}}},
	{"mirror-unreadable", []string{"failed to resolve reference", "invalid host configuration"}, "{file} cannot be read as it stands: {detail}. The runtime ignores it or refuses to start.", []step{
		{do: "mend it; on a bastion: `casemate mirrors --for containerd` prints a right one"}}},
	{"blocked", []string{"registry is blocked in registries.conf", "failed to resolve reference"}, "{file} blocks pulls of {names}.", []step{{do: "take `blocked = true` out of {file}"}}},
	{"package-proxy", []string{"Could not connect to", "Could not resolve proxy", "Curl error (7)"}, "{file} makes the package manager use a proxy ({detail}) for {names}.", []step{
		{do: "take that line out of {file}; apt can except a host: `Acquire::http::Proxy::NAME \"DIRECT\";`"}}},
	{"proxy", []string{"proxyconnect tcp", "failed to do request", "context deadline exceeded"}, "A proxy ({detail}) is set in {file}, and {names} would go there and not to the bastions.", []step{
		{do: "add the names to NO_PROXY there, or take the proxy out; then `systemctl daemon-reload` and restart what reads it"}}},

	// Does the registry answer as it should?
	{"challenge", []string{"401 Unauthorized", "failed to fetch anonymous token", "unauthorized: authentication required"}, "The registry {names} at {bastion} asks for a password.", []step{
		{do: "on a bastion: `casemate config get registry.anonymous`; `casemate config set registry.anonymous pull` lets nodes pull without"}}},
	{"registry-status", []string{"unexpected status from HEAD request", "503 Service Unavailable"}, "The registry {names} at {bastion} answers {detail}.", []step{{do: status}, {do: "on that bastion: `journalctl -u casemate`"}}},
	{"manifest-unknown", []string{"failed to resolve reference", "manifest unknown", "MANIFEST_UNKNOWN"}, "The bastion at {bastion} does not hold {name} under this name: {detail}.", []step{
		{do: "on a bastion: `casemate missing` has the name exactly as it was asked for, and says when only other platforms are held or a short name was ambiguous; `casemate image list` has what is held"}}},
	{"no-platform", []string{"no match for platform in manifest"}, "{name} is held at {bastion}, and not for this node's platform ({detail}).", []step{
		{do: "on the connected side: `casemate bundle create --platform {detail} …`, then `casemate import` on a bastion"}}},
	{"digest", wrong, "{name} as it comes from {bastion} has other bytes than its digest says ({detail}): damaged there, or changed on the way.", []step{
		{do: "if an installer says this and `casemate doctor` does not: it expects another version or architecture; the digest of what is held is in `casemate file list`"},
		{do: "on that bastion: `casemate scrub`"}, {do: "something between that changes bytes (a proxy, a scanner) must let them through"}}},
	{"cut", []string{"unexpected EOF", "short read", "connection reset by peer"}, "{name} from {bastion} breaks off: {detail}.", []step{
		{do: "on that bastion: `journalctl -u casemate`, `casemate scrub`"}, {do: "the firewalls between: do they end long connections?"}}},
	{"file-missing", []string{"404 Not Found"}, "The bastion at {bastion} does not have {name}: {detail}.", []step{
		{do: "on a bastion: `casemate missing -o files` has the URL as it was asked for; compare `casemate file list`: version, architecture, `v` or no `v`"}}},
	{"range", []string{"sha256 checksum mismatch", "curl: (33) HTTP server does not seem to support byte ranges"}, "A part of {name} from {bastion} is not that part of the whole ({detail}): something between changes requests.", []step{
		{do: "`curl -fsS -r 0-9 -o /dev/null -D - {name}` must say 206"}, {do: "take proxies and scanners off the way"}}},
	{"stall", []string{"context deadline exceeded", "i/o timeout", "Connection timed out"}, "{name} from {bastion} began and then stood still ({detail}): large packets are lost on the way, most likely (MTU).", []step{
		{do: "`ping -M do -s 1472 -c 1 {bastion}`; if that fails and `-s 1372` does not: `ip link set dev INTERFACE mtu 1400`"},
		{do: "let ICMP \"fragmentation needed\" through the firewalls between"}}},
}

// values fill the places of a trouble in.
type values map[string]string

// fill puts the values into a text; on the page a place that nobody fills is a word in capitals.
func (v values) fill(text string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		place, after, closed := strings.Cut(rest, "}")
		if !closed || strings.ContainsFunc(place, func(r rune) bool { return r < 'a' || r > 'z' }) {
			b.WriteByte('{')
			text = rest
			continue
		}
		if s, ok := v[place]; ok && s != "" {
			b.WriteString(s)
		} else {
			b.WriteString(strings.ToUpper(place))
		}
		text = after
	}
}

// find returns a trouble by its id. An unknown one is a mistake in this package that the first test finds.
func find(id string) trouble {
	if i := slices.IndexFunc(troubles, func(t trouble) bool { return t.id == id }); i >= 0 {
		return troubles[i]
	}
	return trouble{id: id, seen: []string{id}}
}

// recipes are cures that several troubles have. The page has each once.
var recipes = []struct {
	head  string
	steps []step
}{{"Point a node at the bastions", pointHere}, {"Make a node trust the CA", trustHere}}

// Page is the part of docs/troubleshooting.md that stands for what doctor finds: a heading for each text, with the
// causes that it can have.
func Page() string {
	var b strings.Builder
	list := func(steps []step) {
		for _, s := range steps {
			label := ""
			if s.on != "" {
				label = kinds[s.on] + ": "
			}
			fmt.Fprintf(&b, "- %s%s\n", label, values{}.fill(s.do))
		}
	}
	done := map[string]bool{}
	for _, t := range troubles {
		head := heading(t.seen)
		if done[head] {
			continue
		}
		done[head] = true
		fmt.Fprintf(&b, "### %s\n", head)
		for _, same := range troubles {
			if heading(same.seen) != head {
				continue
			}
			fmt.Fprintf(&b, "\n%s\n\n", values{}.fill(same.cause))
			own := slices.Clone(same.cure)
			for _, r := range recipes {
				if slices.Contains(own, r.steps[len(r.steps)-1]) {
					anchor := strings.ReplaceAll(strings.ToLower(r.head), " ", "-")
					fmt.Fprintf(&b, "- [%s](#%s)\n", r.head, anchor)
					own = slices.DeleteFunc(own, func(s step) bool { return slices.Contains(r.steps, s) })
				}
			}
			list(own)
		}
		b.WriteByte('\n')
	}
	for _, r := range recipes {
		fmt.Fprintf(&b, "### %s\n\n", r.head)
		list(r.steps)
		b.WriteByte('\n')
	}
	return b.String()
}

func heading(seen []string) string { return "`" + strings.Join(seen, "`, `") + "`" }
