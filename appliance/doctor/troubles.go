package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"casemate/appliance/nodeconf"
)

// trouble is one fault that a node can have. The output of doctor and docs/troubleshooting.md are both generated from
// this table, so that a user who searches for an error text finds it in both.
type trouble struct {
	id    string
	seen  []string // error texts that users may have read, of several programs
	cause string   // with {places} that a run fills in
	cure  []step
}

// step is one thing to do, usually a command.
type step struct {
	on string // the kind of node, a key of kinds; "" is every node
	do string
}

// kinds maps a kind of node to its description on the page.
var kinds = map[string]string{
	"deb": "Debian, Ubuntu", "rpm": "RHEL and its rebuilds, Fedora", "suse": "SUSE",
	"ipv4": "over IPv4", "ipv6": "over IPv6",
	"dns": "nodes that use the bastions as resolvers", "mirror": "nodes with mirrors",
	"resolved": "with systemd-resolved", "nm": "with NetworkManager", "plain": "with a plain /etc/resolv.conf",
}

const (
	enroll = "on a bastion: `casemate enroll` prints the one line that sets up this node"
	// Without --no-resolver the script would set up the resolver, which must not be changed on these nodes.
	enrollMirror = "on a bastion: `casemate enroll` prints a line; append ` --no-resolver` and run it here"

	status  = "on a bastion: `casemate status`"
	restart = "`systemctl restart containerd` (or docker, crio, kubelet, k3s): Go programs read the trust store only " +
		"once, at startup"
)

// pointHere are the steps that make the bastions the only resolvers.
var pointHere = []step{
	{do: enroll},
	{"resolved", "`mkdir -p /etc/systemd/resolved.conf.d && printf " +
		"'[Resolve]\\nDNS={bastions}\\nDomains=~.\\nDNSSEC=no\\n' > /etc/systemd/resolved.conf.d/casemate.conf && " +
		"systemctl restart systemd-resolved`; remove other DNS servers from the links: `resolvectl dns`"},
	{"nm", "`c=$(nmcli -g NAME connection show --active | head -n 1); nmcli connection modify \"$c\" ipv4.dns " +
		"'{bastions4}' ipv4.ignore-auto-dns yes ipv6.dns '{bastions6}' ipv6.ignore-auto-dns yes && " +
		"nmcli connection up \"$c\"`"},
	{"plain", "`printf 'nameserver %s\\n' {bastions} > /etc/resolv.conf`, and prevent DHCP from overwriting it"},
}

// trustHere are the steps that put the root into the trust store.
var trustHere = []step{
	{"dns", enroll},
	{"mirror", enrollMirror},
	{do: "on a bastion: `casemate ca > casemate.crt`, and copy the file here"},
	{"deb", "`install -m 644 casemate.crt /usr/local/share/ca-certificates/casemate.crt && update-ca-certificates`"},
	{"rpm", "`install -m 644 casemate.crt /etc/pki/ca-trust/source/anchors/casemate.crt && update-ca-trust`"},
	{"suse", "`install -m 644 casemate.crt /etc/pki/trust/anchors/casemate.crt && update-ca-certificates`"},
	{do: restart},
}

// mtuHere are the steps that find and repair a path that loses large packets. An IPv4 packet has 28 bytes of headers
// here, an IPv6 packet 48; every path of IPv6 carries 1280 bytes (RFC 8200, section 5).
var mtuHere = []step{
	{"ipv4", "`ping -M do -s 1472 -c 1 {bastion}`; if that fails and `-s 1372` does not: `ip link set dev INTERFACE " +
		"mtu 1400`"},
	{"ipv6", "`ping -M do -s 1452 -c 1 {bastion}`; if that fails and `-s 1232` does not: `ip link set dev INTERFACE " +
		"mtu 1280`"},
	{"ipv4", "allow ICMP \"fragmentation needed\" through the firewalls between"},
	{"ipv6", "allow ICMPv6 \"packet too big\" through the firewalls between: routers do not fragment IPv6"},
}

// error texts that may mean several troubles.
var (
	noHost  = []string{"no such host", "Temporary failure in name resolution", "Could not resolve host", "NXDOMAIN"}
	unknown = []string{"x509: certificate signed by unknown authority",
		"SSL certificate problem: unable to get local issuer certificate", "certificate verify failed"}
	silent = []string{"i/o timeout", "context deadline exceeded", "Connection timed out", "No route to host",
		"Network is unreachable"}
	noPull = []string{"failed to resolve reference", "failed to do request", "pinging container registry"}
	wrong  = []string{"sha256 checksum mismatch", "unexpected commit digest"}
)

// troubles lists all of them, in the order of the causes.
var troubles = []trouble{
	// Is there a bastion?
	{"no-bastion", noHost, "None of this node's resolvers ({detail}) answers as a bastion on port 80.",
		append(pointHere[:1:1],
			step{do: "`casemate doctor BASTION` checks with a bastion that you name"})},
	{"not-enrolled", noHost, "No bastion is configured on this node: neither in {detail} nor by a line for " +
		"registry.DOMAIN in {file}.", []step{
		{do: enrollMirror}, {do: "`casemate doctor --mode mirror BASTION` checks with a bastion that you name"}}},
	{"refused", []string{"Connection refused"}, "Nothing listens at {detail}: the daemon is not running, or a " +
		"firewall rejects the connection.", []step{
		{do: "on that bastion: `systemctl status casemate` and `systemctl start casemate`"},
		{
			do: "on that bastion: `ss -lntup` must show 53/udp, 53/tcp, 80/tcp and 443/tcp on the address that nodes " +
				"use"}}},
	{"unreachable", silent, "No answer from {detail}: the machine is down, a firewall drops the packets, or there is " +
		"no route.", []step{
		{do: "`ip route get {bastion}` and `ping -c 1 {bastion}`"},
		{do: "on that bastion: `firewall-cmd --permanent --add-service=dns --add-service=http --add-service=https && " +
			"firewall-cmd --reload`, and open the same ports in the firewalls between"}}},
	{"no-family", []string{"Network is unreachable", "Cannot assign requested address", "No route to host"},
		"{family} is unreachable from this node, because it has no {family} address or no {family} route: it cannot " +
			"use {detail}.", []step{
			{"ipv4", "`ip -4 addr` and `ip -4 route get {bastion}`: give the node an address and a default route"},
			{"ipv6", "`ip -6 addr` and `ip -6 route get {bastion}`: give the node an address and a default route"},
			{do: "or give every bastion an address of the family that the node has: `advertise` and `listen` in its " +
				"casemate.yaml"},
			{do: "then run the line of `casemate enroll` again: it leaves out addresses to which the node has no " +
				"route"}}},
	{"family-lost", silent, "{family} is unreachable from this node: none of the bastions' {family} addresses " +
		"answers ({detail}), although there is a route to them and other addresses answer.", []step{
		{"ipv4", "`ip -4 route get {bastion}` and `tracepath -4 {bastion}` show where packets are lost: a router, or " +
			"a firewall without rules for IPv4"},
		{"ipv6", "`ip -6 route get {bastion}` and `tracepath -6 {bastion}` show where packets are lost: a router, or " +
			"a firewall without rules for IPv6"},
		{do: "if the network has no such path, remove the node's addresses and routes of this family: programs try " +
			"them first and wait"},
		{do: "then run the line of `casemate enroll` again: it puts addresses that do not answer last"}}},
	{"not-casemate", []string{"404 Not Found"}, "The program that answers at {detail} is not Casemate, or cannot " +
		"report what it serves.", []step{
		{do: "`curl -fsS http://{bastion}/site.json`; if another program answers, give the bastions' addresses: " +
			"`casemate doctor BASTION`"}, {do: status}}},
	{"dns-refused", []string{"REFUSED"}, "The bastion at {detail} does not answer this node's network: the network " +
		"is not in dns.allow.", []step{
		{do: "on a bastion: `casemate config get dns.allow`, then `casemate config set dns.allow` with this node's " +
			"network added"}}},

	// Which resolvers does the node use?
	{"no-resolver", []string{"[::1]:53: read: connection refused", "Temporary failure in name resolution"},
		"{file} lists no resolver.", pointHere},
	{"foreign-only", noHost, "This node uses {detail} as its resolver, not the bastions ({file}).", pointHere},
	{"foreign-among", noHost, "This node uses {detail} as a resolver in addition to the bastions ({file}). Programs " +
		"use the first response, and NXDOMAIN ends the lookup, so lookups fail intermittently.", pointHere},
	{"many-resolvers", noHost, "{file} has {detail} resolvers. Programs use the first three and ignore the rest.",
		pointHere},
	{"resolver-family", noHost, "{file} lists resolvers that this node cannot use, because {family} is unreachable " +
		"from it: {detail}.", pointHere},
	{"nsswitch", noHost, "The hosts line in {file} has neither dns nor resolve ({detail}), so programs that use the " +
		"C library never ask a resolver.", []step{
		{do: "`sed -i 's/^hosts:.*/hosts: files dns/' {file}`"}}},
	{"dnssec", []string{"DNSSEC validation failed", "SERVFAIL"},
		"systemd-resolved validates DNSSEC ({file}). The public zones are signed, but the bastions cannot sign their " +
			"answers for names in them.", []step{
			{do: "`mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\\nDNSSEC=no\\n' > " +
				"/etc/systemd/resolved.conf.d/zz-casemate.conf && systemctl restart systemd-resolved`"}, {do: enroll}}},
	{"global-dns", noHost, "NetworkManager's global DNS in {file} replaces the DNS servers of all connections by " +
		"{detail}.", []step{
		{do: "remove the section [global-dns-domain-*] from {file} or set the bastions in it, then `systemctl reload " +
			"NetworkManager`"}}},

	// What do the names resolve to?
	{"name-unknown", noHost, "The bastion at {bastion} has no address for {names}: it is not an origin there, or is " +
		"not enabled.", []step{
		{do: "on a bastion: `casemate origin list` gives the reason, `casemate missing` lists what was requested; " +
			"then `casemate origin add {name}`"}}},
	{"name-lost", noHost, "The bastions resolve {names}, but this node's resolver does not: another resolver or a " +
		"cache is in between.", []step{
		{"resolved", "`resolvectl flush-caches`"}, {
			do: "`getent ahosts NAME` and `dig @{bastion} NAME A NAME AAAA` must show the same addresses"},
		{do: enroll}}},
	{"name-elsewhere", silent, "{names} resolves to {detail} on this node, which is not a bastion: another resolver " +
		"answers.", pointHere},
	{"hosts-file", silent, "{file} maps {names} to {detail}, which is not a bastion. The file takes precedence over " +
		"any resolver.", []step{
		{do: "`grep -n NAME {file}`, and remove those lines"}, {
			"mirror", enrollMirror + ": it writes the correct lines"}}},
	{"own-name-lost", noHost, "This node has no address for the bastions' own names {names} ({detail}): their lines " +
		"in {file} are missing, or were written before a bastion was added.", []step{
		{do: enrollMirror + ": it writes them"}, {
			do: "or append `etc/hosts.casemate` of `casemate mirrors` to {file}"}}},
	{"own-name-elsewhere", silent, "{names} resolves to {detail} on this node, which is not a bastion: the node's " +
		"resolver answers for the bastions' own names.", []step{
		{do: enrollMirror + ": it writes them to {file}, which takes precedence over any resolver"}, {
			do: "or correct them at that resolver"}}},
	{"lookup-timeout", []string{"Temporary failure in name resolution", "dial tcp: lookup … i/o timeout"},
		"The resolver of this node does not answer in time for {names} ({detail}): the first resolver is down, or a " +
			"firewall drops UDP port 53.", []step{
			{do: "`dig @{bastion} {name}` and `dig +tcp @{bastion} {name}`"}, {do: enroll}}},
	{"aaaa", noHost, "{detail} answers A or AAAA queries for {names} with NXDOMAIN, although the name has addresses " +
		"of the other type; some caches apply NXDOMAIN to the whole name.", pointHere},
	{"dns-tcp", []string{"connection timed out; no servers could be reached", "SERVFAIL"},
		"DNS over TCP fails at {bastion}: {detail}. Large answers use TCP.", []step{
			{do: "`dig +tcp @{bastion} {name}`; open port 53/tcp in the firewalls between"}, {
				do: "on that bastion: `firewall-cmd --permanent --add-service=dns && firewall-cmd --reload`"}}},

	// Do the clocks agree?
	{"clock", []string{"x509: certificate has expired or is not yet valid", "certificate is not yet valid"},
		"This node's clock is {detail} from the bastions'.", []step{
			{do: "`date -u -s \"$(curl -fsSI http://{bastion}/ | sed -n 's/^[Dd]ate: //p')\"`"},
			{do: "then configure a time source inside the network: `timedatectl`, `chronyc sources`"}}},
	{"bastion-clock", []string{"x509: certificate has expired or is not yet valid"},
		"The clock of the bastion at {bastion} is {detail} from the others'.", []step{
			{do: "on that bastion: `timedatectl`, `chronyc sources`"}}},

	// Is the CA trusted?
	{"unknown-authority", unknown, "The bastions' root (sha256 {detail}) is not in this node's trust store ({file}).",
		append([]step{{do: "compare the fingerprint: on a bastion: `casemate ca | openssl x509 -noout -fingerprint " +
			"-sha256`"}}, trustHere...)},
	{"new-root", unknown, "The bastions have a second root (sha256 {detail}) that is not in this node's trust store " +
		"({file}): a rotation is under way.", append(trustHere[:len(trustHere):len(trustHere)],
		step{do: "on a bastion: `casemate ca rotate --finish` only when all nodes have it; to undo one that finished " +
			"too early: `casemate ca rotate --undo`"})},
	{"bundle-lacks", []string{"SSL certificate problem: unable to get local issuer certificate",
		"server certificate verification failed"}, "Go programs find the bastions' root in the directory of {file}, " +
		"but the file itself does not contain it. curl, wget and others read only the file.", []step{
		{"deb", "`update-ca-certificates`"}, {"rpm", "`update-ca-trust`"}, {"suse", "`update-ca-certificates`"}, {
			"dns", enroll}, {"mirror", enrollMirror}}},
	{"other-root", unknown, "The certificate for {names} at {bastion} was not issued by any of the bastions' roots: " +
		"another program answers there ({detail}).", []step{
		{do: "`openssl s_client -connect {bastion}:443 -servername {name} </dev/null` shows the issuer"}, {
			do: status}}},
	{"stale-trust", unknown, "{detail} was started before the bastions' roots were added to {file}, and still uses " +
		"the old trust store.", []step{{do: "`systemctl restart {name}`"}}},
	{"expired", []string{"x509: certificate has expired or is not yet valid"},
		"The certificate for {names} at {bastion} is not valid at this node's time: {detail}.", []step{
			{do: status + " lists the certificates that expire"}, {
				do: "`date -u` must be the same here and on the bastion"}}},
	{"wrong-name", []string{"x509: certificate is valid for", "SSL: no alternative certificate subject name matches"},
		"The server that answers for {names} at {bastion} has a certificate for other names: {detail}.", []step{
			{do: "`openssl s_client -connect {bastion}:443 -servername {name} </dev/null | openssl x509 -noout " +
				"-text` shows its names"}, {do: status}}},
	{"constraint", []string{"x509: a root or intermediate certificate is not authorized to sign for this name",
		"permitted subtree violation"}, "{names} is outside the names that the root permits (`--permit` of `casemate " +
		"init`), or was enabled a moment ago.", []step{
		{do: "on a bastion: `casemate origin list` gives the reason, and the `casemate ca rotate` command for a root " +
			"that permits it"}}},
	{"tls-alert", []string{"remote error: tls: internal error", "tlsv1 alert internal error",
		"tlsv1 unrecognized name"}, "The bastion at {bastion} has no certificate for {names}: {detail}.", []step{
		{do: "on a bastion: `casemate missing`, `casemate status`, then `casemate origin add {name}`"}}},
	{"tls-silent", []string{"net/http: TLS handshake timeout", "context deadline exceeded"},
		"The bastion at {bastion} accepts the connection, but the handshake for {names} does not complete: most " +
			"likely large packets are lost on the way (MTU).", mtuHere},
	{"tls-broken", []string{"tls: first record does not look like a TLS handshake", "connection reset by peer", "EOF"},
		"The server that answers for {names} on port 443 of {bastion} aborts the handshake: {detail}.", []step{
			{do: "`openssl s_client -connect {bastion}:443 -servername {name} </dev/null`"}, {do: status}}},

	// Does configuration on the node take precedence over DNS and the trust store?
	{"mirror-elsewhere", noPull, "{file} sends pulls of {names} to {detail}, which is not a bastion.", []step{
		{do: "remove that line, or set the bastions in it: on a bastion: `casemate mirrors --for containerd` " +
			"(docker, podman, crio, k3s, rke2)"}}},
	{"mirror-last", noPull, "{file} makes the runtime ask {detail} for {names} when the bastions do not have an " +
		"image; without Internet access that request times out.", []step{
		{do: "set a bastion there: `server` in hosts.toml, `location` in registries.conf; for k3s and RKE2 " +
			"`disable-default-registry-endpoint: true` in config.yaml"},
		{do: "on a bastion: `casemate mirrors --for containerd` (docker, podman, crio, k3s, rke2)"}}},
	{"mirror-lacking", noPull, "{file} has no mirror for {names}, and this node does not use the bastions as " +
		"resolvers: the runtime tries to reach them on the Internet.", []step{
		{do: "on a bastion: `casemate mirrors --for containerd` (docker, podman, crio, k3s, rke2), also after " +
			"`casemate origin add`"}}},
	{"config-path", noPull, "There are hosts.toml files in {file}, and {detail} has no config_path with that " +
		"directory: containerd before 2.2 does not read them.", []step{
		{do: "containerd 2.x: `[plugins.'io.containerd.cri.v1.images'.registry]` and below it `config_path = " +
			"'{file}'` in {detail}"},
		{do: "containerd 1.x: `[plugins.\"io.containerd.grpc.v1.cri\".registry]` and below it `config_path = " +
			"\"{file}\"` in {detail}"},
		{do: "then `systemctl restart containerd`"}}},
	{"mirror-insecure", []string{"http: server gave HTTP response to HTTPS client", "failed to resolve reference"},
		"{file} disables TLS verification for {names} ({detail}). This is not needed, and an attacker on the path " +
			"can change what is pulled.", []step{
			{do: "remove `skip_verify`, `insecure` and `http://` from {file}"}}},
	{"mirror-ca", unknown, "{file} names the CA file {detail} for {names}, which does not exist, is not a " +
		"certificate, or cannot be used.", []step{
		{do: "on a bastion: `casemate ca > casemate.crt`, and copy it there; or remove the line: the system's trust " +
			"store is read as well"}}},
	{"mirror-ca-root", unknown, "The CA file {detail} that {file} names for {names} does not contain one of the " +
		"bastions' roots: a rotation is under way, or the file is from another CA.", []step{
		{"mirror", enrollMirror + ": it writes /etc/casemate/ca.crt"}, {
			do: "on a bastion: `casemate ca > casemate.crt`, and copy it there"}}},
	{"mirror-unreadable", []string{"failed to resolve reference", "invalid host configuration"},
		"{file} cannot be parsed: {detail}. The runtime ignores it or refuses to start.", []step{
			{do: "correct it; on a bastion: `casemate mirrors --for containerd` prints a valid one"}}},
	{"blocked", []string{"registry is blocked in registries.conf", "failed to resolve reference"},
		"{file} blocks pulls of {names}.", []step{{do: "remove `blocked = true` from {file}"}}},
	{"package-proxy", []string{"Could not connect to", "Could not resolve proxy", "Curl error (7)"},
		"{file} makes the package manager use a proxy ({detail}) for {names}.", []step{
			{do: "remove that line from {file}; apt can exempt a host: `Acquire::http::Proxy::NAME \"DIRECT\";`"}}},
	{"proxy", []string{"proxyconnect tcp", "failed to do request", "context deadline exceeded"},
		"A proxy ({detail}) is set in {file}, so requests for {names} go to the proxy and not to the bastions.", []step{
			{do: "add the names to NO_PROXY there, or remove the proxy; then `systemctl daemon-reload` and restart " +
				"the service that uses it"}}},

	// Does the registry answer correctly?
	{"challenge", []string{"401 Unauthorized", "failed to fetch anonymous token",
		"unauthorized: authentication required"}, "The registry {names} at {bastion} asks for a password.", []step{
		{do: "on a bastion: `casemate config get registry.anonymous`; `casemate config set registry.anonymous pull` " +
			"lets nodes pull without one"}}},
	{"registry-status", []string{"unexpected status from HEAD request", "503 Service Unavailable"},
		"The registry {names} at {bastion} answers {detail}.", []step{{do: status}, {
			do: "on that bastion: `journalctl -u casemate`"}}},
	{"manifest-unknown", []string{"failed to resolve reference", "manifest unknown", "MANIFEST_UNKNOWN"},
		"The bastion at {bastion} does not have {name} under this name: {detail}.", []step{
			{do: "on a bastion: `casemate missing` lists the name exactly as it was requested, and notes if only " +
				"other platforms are stored or a short name was ambiguous; `casemate image list` shows what is " +
				"stored"}}},
	{"no-platform", []string{"no match for platform in manifest"},
		"The bastion at {bastion} has {name}, but not for this node's platform ({detail}).", []step{
			{do: "on the connected side: `casemate bundle create --platform {detail} …`, then `casemate import` on a " +
				"bastion"}}},
	{"digest", wrong, "The bytes of {name} from {bastion} do not match its digest ({detail}): they were damaged " +
		"there, or changed on the way.", []step{
		{do: "if an installer reports this and `casemate doctor` does not: the installer expects another version or " +
			"architecture; `casemate file list` shows the stored digest"},
		{do: "on that bastion: `casemate scrub`"}, {
			do: "exempt it from any proxy or scanner on the path that changes bytes"}}},
	{"cut", []string{"unexpected EOF", "short read", "connection reset by peer"},
		"The transfer of {name} from {bastion} ends early: {detail}.", []step{
			{do: "on that bastion: `journalctl -u casemate`, `casemate scrub`"}, {
				do: "check whether a firewall between ends long connections"}}},
	{"file-missing", []string{"404 Not Found"}, "The bastion at {bastion} does not have {name}: {detail}.", []step{
		{do: "on a bastion: `casemate missing -o files` lists the URL as it was requested; compare `casemate file " +
			"list`: version, architecture, `v` or no `v`"}}},
	{"range", []string{"sha256 checksum mismatch", "curl: (33) HTTP server does not seem to support byte ranges"},
		"A range of {name} from {bastion} differs from the same range of the whole file ({detail}): a proxy or " +
			"scanner between changes requests.", []step{
			{do: "`curl -fsS -r 0-9 -o /dev/null -D - {name}` must show status 206"}, {
				do: "remove proxies and scanners from the path"}}},
	{"stall", []string{"context deadline exceeded", "i/o timeout", "Connection timed out"},
		"The transfer of {name} from {bastion} started and then stalled ({detail}): most likely large packets are " +
			"lost on the way (MTU).", mtuHere},

	// Can the node reach the outside?
	{"outside-resolver", []string{"verify no external connections"}, "A resolver outside answers this node at " +
		"{detail}: programs can resolve names past the bastions, and `casemate egress` does not show them.", []step{
		{do: "close UDP and TCP port 53 from nodes to everything but the bastions, in the firewalls between"},
		{do: "if the site wants this way out: `casemate doctor --outside \"\"` does not check it"}}},
	{"outside-open", []string{"verify no external connections"}, "This node can connect to {detail}, an address " +
		"outside: programs can leave the site past the bastions, and `casemate egress` does not show them.", []step{
		{do: "close all ports from nodes to the outside, in the firewalls between"},
		{do: "if the site wants this way out: `casemate doctor --outside \"\"` does not check it"}}},
}

// values are filled into the places of a trouble.
type values map[string]string

// fill puts the values into a text; on the page, a place without a value becomes a word in capitals. An IPv6 address is
// in brackets where it is the host of a URL or joined with a port.
func (v values) fill(text string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		place, after, closed := strings.Cut(rest, "}")
		if !closed || strings.ContainsFunc(place, notPlace) {
			b.WriteByte('{')
			text = rest
			continue
		}
		if s, ok := v[place]; ok {
			if a, err := netip.ParseAddr(s); err == nil && joined(b.String(), after) {
				s = nodeconf.URLHost(a)
			}
			b.WriteString(s)
		} else {
			b.WriteString(strings.ToUpper(place))
		}
		text = after
	}
}

func notPlace(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9') }

// joined reports whether a place between these texts is the host of a URL or has a port behind it.
func joined(before, after string) bool {
	return strings.HasSuffix(before, "://") || len(after) > 1 && after[0] == ':' && after[1] >= '0' && after[1] <= '9'
}

// find returns a trouble by its id. An unknown id is a programming error that the first test finds.
func find(id string) trouble {
	if i := slices.IndexFunc(troubles, func(t trouble) bool { return t.id == id }); i >= 0 {
		return troubles[i]
	}
	return trouble{id: id, seen: []string{id}}
}

// recipes are cures shared by several troubles. The page has each once.
var recipes = []struct {
	head  string
	steps []step
}{{"Point a node at the bastions", pointHere}, {"Make a node trust the CA", trustHere}}

// Page returns the generated part of docs/troubleshooting.md: a heading for each error text, with its possible
// causes.
func Page() string {
	var b strings.Builder
	list := func(steps []step) {
		for _, s := range steps {
			label := ""
			if s.on != "" {
				label = kinds[s.on] + ": "
			}
			b.WriteString(wrap("- "+label+values{}.fill(s.do), "  "))
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
			fmt.Fprintf(&b, "\n%s\n", wrap(values{}.fill(same.cause), ""))
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

// pageWidth is the longest line of a page, in columns.
const pageWidth = 120

// wrap breaks a line at spaces, if it can outside of code; the lines after the first begin with indent. Markdown shows
// a line break within code as a space.
func wrap(text, indent string) string {
	var b strings.Builder
	for prefix := ""; ; prefix = indent {
		most := pageWidth - len(prefix)
		at, inCode, code, columns := 0, 0, false, 0
		for i, r := range text {
			if columns++; columns > most+1 {
				break
			}
			switch {
			case r == '`':
				code = !code
			case r == ' ' && code:
				inCode = i
			case r == ' ' && i > len("- "):
				at = i
			}
		}
		if at < most/2 && inCode > 0 {
			at = max(at, inCode)
		}
		if columns <= most || at == 0 {
			return b.String() + prefix + text + "\n"
		}
		b.WriteString(prefix + text[:at] + "\n")
		text = text[at+1:]
	}
}

func heading(seen []string) string { return "`" + strings.Join(seen, "`, `") + "`" }
