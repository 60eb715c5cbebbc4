# What stands above comes from the bastions; from here on the script is the same for every site. POSIX sh: dash, busybox ash, bash.
#
# What it promises: nothing is changed before the original is kept below /var/lib/casemate-enroll; every step can be repeated; --undo puts back what was there.
# It downloads nothing and switches no check off.

set -u
LC_ALL=C
export LC_ALL
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
umask 022

usage() {
	cat <<'EOF'
usage: casemate-enroll [--dry-run] [--no-resolver] [--no-restart] [--root DIR]
       casemate-enroll --undo [--force] [--dry-run] [--no-restart] [--root DIR]

Points this node's resolver at the bastions and puts their CA into the system's trust store.

  --dry-run      show what would change, change nothing
  --undo         put everything back as it was before the first run
  --force        with --undo: also what somebody else has changed since
  --no-resolver  leave the resolver alone; the bastions' own names go to /etc/hosts
  --no-restart   restart no container runtime, only say which
  --root DIR     work on the tree at DIR and start nothing there

Exit codes: 0 done, 1 it could not be done, 2 wrong usage, 3 done, but something that others have changed was left as it is
EOF
}

say() { printf 'casemate-enroll: %s\n' "$*"; }
warn() { printf 'casemate-enroll: warning: %s\n' "$*" >&2; }
die() {
	printf 'casemate-enroll: %s\n' "$*" >&2
	exit 1
}

# --- Files: what is wanted is collected below $WORK, then compared, then written.

# key is a path as a file name: each / is %2F.
key() {
	k_rest=$1
	k_name=
	while [ "$k_rest" != "${k_rest#*[/%]}" ]; do
		k_part=${k_rest%%[/%]*}
		k_rest=${k_rest#"$k_part"}
		case "$k_rest" in
		/*) k_name=$k_name$k_part%2F ;;
		*) k_name=$k_name$k_part%25 ;;
		esac
		k_rest=${k_rest#?}
	done
	printf '%s' "$k_name$k_rest"
}

sum() {
	s_sum=$(sha256sum <"$1")
	printf '%s' "${s_sum%% *}"
}

# ident says all of a file that is put back: two files are the same if their idents are.
ident() {
	if [ -L "$1" ]; then
		printf 'link %s\n' "$(readlink "$1")"
	elif [ -f "$1" ]; then
		printf 'file %s %s\n' "$(stat -c '%a %u:%g' "$1")" "$(sum "$1")"
	elif [ -e "$1" ]; then
		echo other
	else
		echo absent
	fi
}

# want PATH: the file's content as it has to be, from standard input.
want() {
	w_file=$WORK/want/$(key "$1")
	# Under its name only when it is whole: what feeds this pipe may read the file itself.
	if ! cat >"$WORK/in" || [ ! -s "$WORK/in" ] || ! mv "$WORK/in" "$w_file"; then
		printf 'casemate-enroll: %s cannot be prepared: is %s full?\n' "$1" "$WORK" >&2
		kill $$ # this may be the end of a pipe, which is a process of its own
		exit 1
	fi
	grep -qxF -e "$1" "$WORK/plan" || printf '%s\n' "$1" >>"$WORK/plan"
}

# now PATH prints a file as it will be: what is wanted so far, or what is there.
now() {
	if [ -f "$WORK/want/$(key "$1")" ]; then
		cat "$WORK/want/$(key "$1")"
	elif [ -f "$ROOT$1" ]; then
		cat "$ROOT$1"
	fi
}

# block PATH [top]: the file with our marked block, from standard input, at its end or at its top. The rest stays as it is.
block() {
	cat >"$WORK/block"
	now "$1" | sed '/^# BEGIN casemate-enroll/,/^# END casemate-enroll/d' >"$WORK/rest"
	# A last line without an end would swallow our first one.
	[ -z "$(tail -c 1 "$WORK/rest")" ] || echo >>"$WORK/rest"
	{
		[ "${2-}" = top ] || cat "$WORK/rest"
		echo '# BEGIN casemate-enroll (casemate-enroll --undo removes it)'
		cat "$WORK/block"
		echo '# END casemate-enroll'
		[ "${2-}" != top ] || cat "$WORK/rest"
	} | want "$1"
}

# asWanted PATH: the file is already what is wanted.
asWanted() { [ -f "$ROOT$1" ] && [ ! -L "$ROOT$1" ] && [ "$(sum "$ROOT$1")" = "$(sum "$WORK/want/$(key "$1")")" ]; }

# sort out what differs into $WORK/todo, and what we wrote earlier and is not wanted any more into $WORK/gone.
compare() {
	: >"$WORK/todo"
	: >"$WORK/gone"
	while IFS= read -r c_path; do
		asWanted "$c_path" || printf '%s\n' "$c_path" >>"$WORK/todo"
	done <"$WORK/plan"
	for c_entry in "$STATE"/files/*; do
		[ -f "$c_entry/path" ] || continue
		c_path=$(cat "$c_entry/path")
		grep -qxF -e "$c_path" "$WORK/plan" || printf '%s\n' "$c_path" >>"$WORK/gone"
	done
}

# show A B PATH: the difference as a unified diff.
show() {
	if command -v diff >/dev/null; then
		diff -u -L "a$3" -L "b$3" "$1" "$2"
	else
		printf -- '--- a%s\n+++ b%s\n' "$3" "$3"
		sed 's/^/-/' "$1"
		sed 's/^/+/' "$2"
	fi
}

# asText FILE prints what a diff shows of it.
asText() {
	if [ -L "$1" ]; then
		printf 'symbolic link to %s\n' "$(readlink "$1")"
	elif [ -f "$1" ]; then
		cat "$1"
	fi
}

diffWanted() {
	asText "$ROOT$1" >"$WORK/a"
	show "$WORK/a" "$WORK/want/$(key "$1")" "$1"
}

diffBack() {
	asText "$ROOT$1" >"$WORK/a"
	asText "$STATE/files/$(key "$1")/orig" >"$WORK/b"
	show "$WORK/a" "$WORK/b" "$1"
}

# makeDir DIR makes a directory below the root and remembers which of its parents were not there; undo removes them if they are empty.
makeDir() {
	[ -d "$ROOT$1" ] && return
	makeDir "$(dirname "$1")"
	[ ! -d "$STATE" ] || printf '%s\n' "$1" >>"$STATE/dirs"
	mkdir "$ROOT$1" || die "cannot make the directory $ROOT$1"
}

openState() {
	if [ ! -d "$STATE/files" ]; then
		o_new=
		o_dir=$(dirname "${STATE#"$ROOT"}")
		while [ ! -d "$ROOT$o_dir" ]; do
			o_new="$o_dir
$o_new"
			o_dir=$(dirname "$o_dir")
		done
		mkdir -p "$STATE/files" || die "cannot make the directory $STATE"
		chmod 700 "$STATE"
		printf '%s' "$o_new" >>"$STATE/dirs"
	fi
	# Two runs at a time would take each other's files for the originals.
	if command -v flock >/dev/null; then
		exec 9>"$STATE/lock"
		flock -n 9 || die "another casemate-enroll runs on this node"
	fi
}

# keep PATH keeps the very original, once. The entry appears under its name only when it is whole.
keep() {
	k_entry=$STATE/files/$(key "$1")
	if [ -d "$k_entry" ]; then
		k_is=$(ident "$ROOT$1")
		if [ "$k_is" = absent ]; then rm -f "$k_entry/mixed"; fi # nothing of theirs is in it any more
		case "$k_is" in
		"$(cat "$k_entry/was")" | "$(cat "$k_entry/ours" 2>/dev/null)" | "$(cat "$k_entry/next" 2>/dev/null)") ;;
		*)
			if rewritten "$1"; then return; fi
			edited "$1"
			;;
		esac
		return
	fi
	rm -rf "$STATE/files.new"
	if ! { mkdir "$STATE/files.new" && printf '%s\n' "$1" >"$STATE/files.new/path" && ident "$ROOT$1" >"$STATE/files.new/was"; }; then
		die "cannot write to $STATE"
	fi
	case "$(cat "$STATE/files.new/was")" in
	absent) ;;
	other) die "$1 is neither a file nor a symbolic link" ;;
	*) cp -pPR "$ROOT$1" "$STATE/files.new/orig" || die "cannot keep a copy of $1 in $STATE" ;;
	esac
	mv "$STATE/files.new" "$k_entry" || die "cannot write to $STATE"
}

# edited PATH deals with a file that somebody else has changed since. Of a file of the system's, what they wrote is part of what is wanted. One that is all ours is left to them, unless it says whom this node trusts.
edited() {
	case "$1" in
	*/casemate-*.crt | /etc/casemate/*)
		if ! { mkdir -p "$STATE/theirs" && cp -pPR "$ROOT$1" "$STATE/theirs/$(key "$1")"; } 2>/dev/null; then
			[ ! -e "$ROOT$1" ] || die "cannot keep a copy of $1 in $STATE"
			return # they removed it
		fi
		say "$1 was changed by somebody else since the last run: it is written anew, their version is kept as $STATE/theirs/$(key "$1")"
		;;
	*/casemate.conf | */zz-casemate.conf)
		[ -e "$ROOT$1" ] || return 0 # they removed it
		say "$1 was changed by somebody else since the last run: it is left as it is; remove it and run this again to have it written anew"
		printf '%s\n' "$1" >>"$WORK/left"
		: >"$k_entry/mixed"
		;;
	*)
		say "$1 was changed by somebody else since the last run: their changes stay, and --undo will leave it unless --force is given"
		: >"$k_entry/mixed"
		;;
	esac
}

nameservers() { awk '$1 == "nameserver" { print $2 }' "$1"; }

# rewritten PATH: it is a resolv.conf that NetworkManager has written anew since, or a DHCP client with what we told it: no person's change, and written again when they like.
rewritten() {
	if [ "$1" != /etc/resolv.conf ] || [ ! -f "$ROOT$1" ]; then return 1; fi
	byNM "$ROOT$1" || { [ -f "$STATE/dhcp" ] && [ "$(nameservers "$ROOT$1")" = "$(cat "$STATE/dhcp")" ]; }
}

# place FILE PATH puts a file in its place at once; a mount point, as /etc/resolv.conf is one in a container, cannot be replaced and is written into.
place() {
	if mv -f "$1" "$ROOT$2" 2>/dev/null; then
		:
	elif [ -f "$1" ] && [ ! -L "$1" ] && [ -f "$ROOT$2" ] && cat "$1" 2>/dev/null >"$ROOT$2"; then
		rm -f "$1"
	else
		rm -f "$1"
		die "cannot write $ROOT$2: is the file system read-only, or the file immutable (lsattr)?"
	fi
	[ -n "$ROOT" ] || ! command -v restorecon >/dev/null || restorecon "$2" 2>/dev/null || :
}

# write PATH writes what is wanted. Cut short at any point, a repeated run goes on and --undo knows the file as ours: its ident is written down before the file is.
write() {
	w_entry=$STATE/files/$(key "$1")
	makeDir "$(dirname "$1")"
	w_tmp=$ROOT$1.casemate-new
	rm -f "$w_tmp"
	if [ -f "$ROOT$1" ] && [ ! -L "$ROOT$1" ]; then
		cp -p "$ROOT$1" "$w_tmp" || die "cannot write $w_tmp" # keeps mode and owner
	fi
	cat "$WORK/want/$(key "$1")" >"$w_tmp" || die "cannot write $w_tmp: is the disk full or read-only?"
	ident "$w_tmp" >"$w_entry/next" || die "cannot write to $STATE"
	place "$w_tmp" "$1"
	mv "$w_entry/next" "$w_entry/ours" || die "cannot write to $STATE"
}

# back PATH puts the original back, unless somebody else has changed the file since. Returns 1 if it was left.
back() {
	b_entry=$STATE/files/$(key "$1")
	b_is=$(ident "$ROOT$1")
	b_was=$(cat "$b_entry/was")
	b_ours=no
	if [ ! -e "$b_entry/mixed" ] && { [ "$b_is" = "$(cat "$b_entry/ours" 2>/dev/null)" ] || [ "$b_is" = "$(cat "$b_entry/next" 2>/dev/null)" ]; }; then
		b_ours=yes
	elif rewritten "$1"; then
		b_ours=yes
	fi
	rm -f "$ROOT$1.casemate-new"
	if [ "$b_is" != "$b_was" ]; then
		if [ $b_ours = no ] && [ -z "$FORCE" ]; then
			case "$1" in
			/run/*) ;; # made anew at every boot
			*)
				if [ "$b_was" = absent ] && [ "$b_is" = absent ]; then
					:
				elif [ "$b_was" = absent ]; then
					say "$1 is left: it was not there before, and somebody else has changed it since; --undo --force removes it"
					return 1
				else
					rm -f "$ROOT$1.casemate-orig"
					cp -pPR "$b_entry/orig" "$ROOT$1.casemate-orig" || die "cannot write $ROOT$1.casemate-orig"
					say "$1 is left: somebody else has changed it since; the original is beside it as $1.casemate-orig, --undo --force puts it back"
					return 1
				fi
				;;
			esac
		elif [ "$b_was" = absent ]; then
			rm -f "$ROOT$1" || die "cannot remove $ROOT$1"
		elif [ -d "$(dirname "$ROOT$1")" ]; then
			cp -pPR "$b_entry/orig" "$ROOT$1.casemate-new" || die "cannot write $ROOT$1.casemate-new"
			place "$ROOT$1.casemate-new" "$1"
		fi
	fi
	rm -f "$ROOT$1.casemate-orig"
	rm -rf "$b_entry"
}

# pending CLASS remembers what has to follow a change, so that a run which breaks off in between does not forget it.
pending() { grep -qxF -e "$1" "$STATE/pending" 2>/dev/null || echo "$1" >>"$STATE/pending"; }
isPending() { grep -qxF -e "$1" "$STATE/pending" 2>/dev/null; }

# follow PATH says what has to follow a change of it.
follow() {
	case "$1" in
	*/casemate-*.crt)
		case "$1" in /etc/docker/*) return ;; esac # read at every connection
		pending trust
		pending runtimes
		;;
	/etc/hosts | /etc/casemate/*) ;;
	*)
		pending resolver
		case "$1" in
		*resolvconf*) pending resolvconf ;;
		*/sysconfig/network/*) pending netconfig ;;
		esac
		;;
	esac
}

# --- Services.

live() { [ -z "$ROOT" ]; }

# run does it, or says what has to be done in the tree.
run() {
	if live; then
		say "running: $*"
		"$@" >"$WORK/out" 2>&1 || {
			sed 's/^/  /' "$WORK/out" >&2
			return 1
		}
	else
		say "to be run in the tree, unless it is booted first: $*"
	fi
}

systemd() { live && [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

# active UNIT: it runs; in a tree: it will, because something wants it.
active() {
	if live; then
		systemd && systemctl is-active --quiet "$1"
	else
		for a_link in "$ROOT"/etc/systemd/system/*.wants/"$1".service; do
			if [ -L "$a_link" ] || [ -e "$a_link" ]; then return 0; fi
		done
		return 1
	fi
}

# --- The order of the bastions: this node's own, and the same at every run, so that the nodes spread and a bastion more or less moves few of them.

nodeID() {
	for n_file in /etc/machine-id /etc/hostname; do
		if [ -s "$ROOT$n_file" ]; then
			head -n 1 "$ROOT$n_file"
			return
		fi
	done
	if live; then uname -n; fi
}

# order sorts lines by the hash of this node's name and the line.
order() {
	while IFS= read -r o_line; do
		[ -n "$o_line" ] && printf '%s %s\n' "$(printf '%s %s' "$ID" "$o_line" | sha256sum | cut -d ' ' -f 1)" "$o_line"
	done | sort | cut -d ' ' -f 2-
}

# inOrder prints all addresses: the first ones of all bastions before the second ones, so that three lines are three bastions.
inOrder() {
	printf '%s\n' "$CASEMATE_NODES" | order >"$WORK/nodes"
	i_field=2
	while cut -s -d ' ' -f $i_field "$WORK/nodes" | grep .; do
		i_field=$((i_field + 1))
	done
}

# --- The resolver.

# linkOf PATH prints where a symbolic link points to, as a path below the root; nothing if it is none.
linkOf() {
	[ -L "$ROOT$1" ] || return 0
	l_to=$(readlink "$ROOT$1")
	case "$l_to" in
	/*) ;;
	*) l_to=$(dirname "$1")/$l_to ;;
	esac
	# Lexically, as the kernel would from inside the tree: /etc/../run is /run.
	printf '%s\n' "$l_to" | sed ':a; s|/\./|/|; ta; :b; s|/[^/.][^/]*/\.\./|/|; tb'
}

# resolvText prints resolv.conf, through its links.
resolvText() {
	r_path=/etc/resolv.conf
	for _ in 1 2 3 4 5; do
		r_next=$(linkOf "$r_path")
		[ -n "$r_next" ] || break
		r_path=$r_next
	done
	[ ! -f "$ROOT$r_path" ] || cat "$ROOT$r_path"
}

# byNM FILE: NetworkManager wrote it.
byNM() { [ -f "$1" ] && grep -q '^# Generated by NetworkManager' "$1"; }

# owner says who writes /etc/resolv.conf.
owner() {
	case "$(linkOf /etc/resolv.conf)" in
	*/systemd/resolve/* | */systemd/resolv.conf) echo resolved && return ;;
	/run/NetworkManager/* | /var/run/NetworkManager/*) echo nm && return ;;
	*/resolvconf/run/* | /run/resolvconf/*) echo resolvconf && return ;;
	*/netconfig/*) echo netconfig && return ;;
	esac
	if resolvText | grep -q '^nameserver[[:space:]]*127\.0\.0\.53' && active systemd-resolved; then
		echo resolved
	elif active NetworkManager && cat "$ROOT"/etc/NetworkManager/NetworkManager.conf "$ROOT"/etc/NetworkManager/conf.d/*.conf 2>/dev/null | grep -q '^[[:space:]]*dns[[:space:]]*=[[:space:]]*none'; then
		echo file # it keeps its hands off
	elif byNM "$ROOT/etc/resolv.conf"; then
		echo nm
	elif active NetworkManager && [ ! -L "$ROOT/etc/resolv.conf" ]; then
		echo nm file # a person's, until it writes again
	elif [ -f "$ROOT/etc/sysconfig/network/config" ] && grep -q '^NETCONFIG_DNS_POLICY=.[^"]' "$ROOT/etc/sysconfig/network/config"; then
		echo netconfig
	elif resolvText | grep -qi '^#.*resolvconf'; then
		echo resolvconf
	else
		echo file
	fi
}

# searched prints the search domains that the node had before the first run; whoever takes over all of DNS has to repeat them.
searched() {
	if [ -f "$STATE/search" ]; then
		cat "$STATE/search"
	else
		resolvText | awk '$1 == "search" || $1 == "domain" { $1 = ""; list = $0 } END { print list }' | tr ' ' '\n' | grep -E '^[A-Za-z0-9_-][A-Za-z0-9._-]*$' | tr '\n' ' ' | sed 's/ $//'
	fi
}

# nodeLocal prints the addresses of the cluster's node-local DNS, as far as the node's resolver asks it: a cache on this
# node that knows the cluster's names and asks the bastions for all others (Kubespray's upstream_dns_servers), so it
# stays in front of them. Clouds have link-local resolvers as well, which know neither, so only addresses of this node
# are taken, and the defaults of Kubespray and Kubernetes, which the node has only while the cache runs.
nodeLocal() {
	{
		resolvText | grep '^[[:space:]]*nameserver[[:space:]]'
		cat "$ROOT"/etc/systemd/resolved.conf "$ROOT"/etc/systemd/resolved.conf.d/*.conf 2>/dev/null |
			grep '^[[:space:]]*DNS[[:space:]]*='
		cat "$ROOT"/etc/NetworkManager/conf.d/*.conf 2>/dev/null | grep '^[[:space:]]*servers[[:space:]]*='
		grep -s '^[[:space:]]*\(supersede\|prepend\)[[:space:]]*domain-name-servers[[:space:]]' \
			"$ROOT/etc/dhcp/dhclient.conf"
	} | sed 's/[^0-9.]/ /g' | tr -s ' ' '\n' | grep -xE '169\.254\.[0-9]{1,3}\.[0-9]{1,3}' | awk '!seen[$0]++' >"$WORK/local"
	while IFS= read -r l_addr; do
		case "$l_addr" in
		169.254.25.10 | 169.254.20.10) printf '%s\n' "$l_addr" ;;
		*)
			if live && awk -v a="$l_addr" '
				$NF == a { at = 1; next }
				at && /host LOCAL/ { found = 1 }
				{ at = 0 }
				END { exit !found }' /proc/net/fib_trie 2>/dev/null; then
				printf '%s\n' "$l_addr"
			fi
			;;
		esac
	done <"$WORK/local"
}

# asked prints the resolvers of this node, in order.
asked() { printf '%s\n%s\n' "$LOCAL" "$SERVERS" | grep .; }
top3() { asked | head -n 3; }
oneLine() { tr '\n' "${1:- }" | sed 's/.$//'; }

# systemd-resolved sends a query to the servers with the best matching domain: Domains=~. of the global ones matches everything, so they win over every link that
# is a default route only, whatever DHCP gave it. That is not enough: a link may have ~. too (NetworkManager gives it to the default route's), then both are
# asked at once and the first answer counts; and /run/systemd/resolve/resolv.conf, which kubelet and CoreDNS read, has the servers of all links. So the links lose theirs.
# DNSSEC=no because the answers for public names are the bastions' own and cannot be signed (resolved.conf(5)); what they carry is protected by TLS.
wantResolved() {
	want /etc/systemd/resolved.conf.d/casemate.conf <<EOF
# Written by casemate-enroll; --undo removes it.
[Resolve]
DNS=
DNS=$(asked | oneLine)
Domains=~.${SEARCH:+ $SEARCH}
DNSSEC=no
EOF
	if cat "$ROOT"/etc/systemd/resolved.conf "$ROOT"/etc/systemd/resolved.conf.d/*.conf 2>/dev/null | grep -qi '^DNSOverTLS=\(yes\|true\|1\|on\)'; then
		warn "DNSOverTLS=yes is set for systemd-resolved, and the bastions speak plain DNS: names will not resolve until it is opportunistic or no"
	fi
	if active NetworkManager || [ -d "$ROOT/run/NetworkManager" ]; then
		# Global DNS of NetworkManager does not reach resolved in all versions; that it hands over nothing at all does.
		want /etc/NetworkManager/conf.d/zz-casemate.conf <<'EOF'
# Written by casemate-enroll; --undo removes it.
[main]
dns=none
systemd-resolved=false
EOF
	fi
	# A drop-in for networkd's file also where netplan wrote it: netplan joins the lists of its files, so one of ours could add servers and never take one away.
	for f in "$ROOT"/etc/systemd/network/*.network "$ROOT"/run/systemd/network/*.network; do
		[ -f "$f" ] && basename "$f"
	done >"$WORK/links"
	if live; then
		sed -n 's|^NETWORK_FILE=.*/||p' /run/systemd/netif/links/* 2>/dev/null >>"$WORK/links"
	else
		netplanLinks >>"$WORK/links"
	fi
	for f in "$ROOT"/etc/systemd/network/*.network.d/casemate.conf; do # written by us; the file itself may come only at boot
		[ -f "$f" ] && [ -f "$STATE/files/$(key "${f#"$ROOT"}")/path" ] && basename "$(dirname "$f")" .d
	done >>"$WORK/links"
	sort -u "$WORK/links" >"$WORK/links.sorted"
	while IFS= read -r f; do
		want "/etc/systemd/network/$f.d/casemate.conf" <<'EOF'
# Written by casemate-enroll; --undo removes it. The bastions are the only resolvers, see resolved.conf.d/casemate.conf.
[Network]
DNS=

[DHCPv4]
UseDNS=no

[DHCPv6]
UseDNS=no

[IPv6AcceptRA]
UseDNS=no
EOF
	done <"$WORK/links.sorted"
}

# netplanLinks prints the files that netplan will write for networkd in a tree that has not been booted: 10-netplan-ID.network.
netplanLinks() {
	cat "$ROOT"/etc/netplan/*.yaml 2>/dev/null | grep -q '^[[:space:]]*renderer:[[:space:]]*NetworkManager' && return
	for n_yaml in "$ROOT"/etc/netplan/*.yaml; do
		[ -f "$n_yaml" ] || continue
		awk '
			/^[[:space:]]*(#|$)/ { next }
			{ match($0, /^ */); depth = RLENGTH; word = $1 }
			section && depth <= section { section = 0 }
			word ~ /^(ethernets|bonds|bridges|vlans|wifis):$/ && !section { section = depth + 1; link = 0; next }
			section && (!link || depth == link) && word ~ /:$/ { link = depth; gsub(/[":\047]/, "", word); if (word ~ /^[A-Za-z0-9._-]+$/) print "10-netplan-" word ".network" }
		' "$n_yaml"
	done
}

# NetworkManager's global DNS replaces what every connection brings, DHCP or not, and is what Kubespray uses too.
wantNM() {
	{
		echo '# Written by casemate-enroll; --undo removes it.'
		if active systemd-resolved; then
			# It gives the links' resolvers to resolved also where it writes resolv.conf itself.
			printf '[main]\nsystemd-resolved=false\n\n'
		fi
		cat <<EOF
[global-dns]
searches=$(printf '%s' "$SEARCH" | tr ' ' ,)
options=timeout:2,attempts:2

[global-dns-domain-*]
servers=$(top3 | oneLine ,)
EOF
	} | want /etc/NetworkManager/conf.d/zz-casemate.conf
}

# resolvLines edits a resolv.conf: the nameservers are ours, at most three because more are not read; timeout and attempts so that a dead bastion costs two seconds.
resolvLines() {
	awk -v servers="$(top3 | oneLine)" '
		function put(   i, n, list) { n = split(servers, list, " "); for (i = 1; i <= n; i++) print "nameserver " list[i]; done = 1 }
		$1 == "nameserver" { if (!done) put(); next }
		$1 == "options" {
			line = "options"
			for (i = 2; i <= NF; i++) if ($i !~ /^(timeout|attempts):/) line = line " " $i
			if (!options) line = line " timeout:2 attempts:2"
			if (line != "options") print line
			options = 1
			next
		}
		{ print }
		END { if (!done) put(); if (!options) print "options timeout:2 attempts:2" }'
}

wantFile() {
	f_path=/etc/resolv.conf
	f_to=$(linkOf "$f_path")
	case "$f_to" in
	'' | /run/* | /var/run/* | /tmp/*) ;; # a link to what is gone after a reboot becomes a file
	*) [ ! -f "$ROOT$f_to" ] || [ -L "$ROOT$f_to" ] || f_path=$f_to ;;
	esac
	if rewritten "$f_path" && [ "$(nameservers "$ROOT$f_path")" = "$(top3)" ]; then
		now "$f_path" | want "$f_path" # only the options are not ours, and would not stay
	else
		resolvText | resolvLines | want "$f_path"
	fi
}

# wantDHCP makes the DHCP clients that write resolv.conf themselves, or feed resolvconf, write the bastions.
wantDHCP() {
	if [ -f "$ROOT/etc/dhcp/dhclient.conf" ] || [ -e "$ROOT/sbin/dhclient" ] || [ -e "$ROOT/usr/sbin/dhclient" ]; then
		d_v4=$(asked | grep -v : | head -n 3 | oneLine , | sed 's/,/, /g')
		[ -z "$d_v4" ] || printf 'supersede domain-name-servers %s;\n' "$d_v4" | block /etc/dhcp/dhclient.conf
	fi
	if [ -f "$ROOT/etc/dhcpcd.conf" ]; then
		# At the top: what comes after an "interface" line counts for that interface alone.
		printf 'static domain_name_servers=%s\n' "$(top3 | oneLine)" | block /etc/dhcpcd.conf top
	fi
}

wantResolvconf() {
	wantDHCP
	# Every source says the bastions, for what only came behind them would still be asked when they are slow.
	for f in "$ROOT"/etc/network/interfaces "$ROOT"/etc/network/interfaces.d/* "$ROOT"/run/resolvconf/interface/*; do
		[ -f "$f" ] || continue
		f=${f#"$ROOT"}
		case "$f" in
		/run/*) now "$f" | resolvLines | grep -v '^options' | want "$f" ;;
		*)
			now "$f" | grep -q '^[[:space:]]*dns-nameservers\{0,1\}[[:space:]]' || continue
			now "$f" | sed "s/^\([[:space:]]*dns-nameservers\{0,1\}[[:space:]]\{1,\}\).*/\1$(top3 | oneLine)/" | want "$f"
			;;
		esac
	done
	if [ -d "$ROOT/etc/resolvconf/resolv.conf.d" ]; then
		{
			top3 | sed 's/^/nameserver /'
			echo 'options timeout:2 attempts:2'
		} | block /etc/resolvconf/resolv.conf.d/head
	elif [ -f "$ROOT/etc/resolvconf.conf" ]; then # openresolv
		printf "name_servers='%s'\ndeny_interfaces='*'\n" "$(top3 | oneLine)" | block /etc/resolvconf.conf
	else
		die "resolvconf writes /etc/resolv.conf, and neither /etc/resolvconf/ nor /etc/resolvconf.conf is there: enrol with --no-resolver and set the resolver by hand"
	fi
}

wantNetconfig() {
	n_conf=/etc/sysconfig/network/config
	now $n_conf | awk -v servers="$(top3 | oneLine)" -v search="$SEARCH" '
		/^NETCONFIG_DNS_POLICY=/ { print "NETCONFIG_DNS_POLICY=\"STATIC\""; policy = 1; next }
		/^NETCONFIG_DNS_STATIC_SERVERS=/ { print "NETCONFIG_DNS_STATIC_SERVERS=\"" servers "\""; static = 1; next }
		/^NETCONFIG_DNS_STATIC_SEARCHLIST=""/ { print "NETCONFIG_DNS_STATIC_SEARCHLIST=\"" search "\""; next }
		{ print }
		END { if (!policy) print "NETCONFIG_DNS_POLICY=\"STATIC\""; if (!static) print "NETCONFIG_DNS_STATIC_SERVERS=\"" servers "\"" }' | want $n_conf
}

wantResolver() {
	who=$(owner)
	# With nss-resolve in front of it resolved is asked also where it does not own resolv.conf.
	if [ "$who" = resolved ] || active systemd-resolved; then
		wantResolved
		resolvers="systemd-resolved"
	fi
	case "$who" in
	nm*)
		wantNM
		resolvers="${resolvers:+$resolvers and }NetworkManager"
		if [ "$who" = 'nm file' ]; then
			wantFile
		elif [ -d "$STATE/files/$(key /etc/resolv.conf)" ]; then
			now /etc/resolv.conf | want /etc/resolv.conf # ours once, and its own by now: still to be put back by undo
		fi
		;;
	netconfig)
		wantNetconfig
		resolvers="${resolvers:+$resolvers and }netconfig"
		;;
	resolvconf)
		wantResolvconf
		if active NetworkManager; then wantNM; fi # it feeds resolvconf
		resolvers="${resolvers:+$resolvers and }resolvconf"
		;;
	file)
		wantFile
		wantDHCP
		resolvers="${resolvers:+$resolvers and }/etc/resolv.conf"
		;;
	esac
	say "the resolver is $resolvers; this node asks, in this order: $(asked | oneLine | sed 's/ /, /g')"
	[ -z "$LOCAL" ] || say "it asks the node-local DNS of its cluster first, as before"
}

wantHosts() {
	while read -r h_name h_addrs; do
		for h_addr in $h_addrs; do
			printf '%s %s.%s %s registry.%s files.%s\n' "$h_addr" "$h_name" "$CASEMATE_DOMAIN" "$CASEMATE_DOMAIN" "$CASEMATE_DOMAIN" "$CASEMATE_DOMAIN"
		done
	done <"$WORK/nodes" | block /etc/hosts
}

# For casemate doctor, in a place that is read without root: it has to know the bastions and the mode also when the hosts file or the resolver is what is wrong.
wantBastions() {
	{
		echo '# The bastions that this node was enrolled with, and how it finds them.'
		if [ -n "$NO_RESOLVER" ]; then echo 'mode mirror'; else echo 'mode dns'; fi
		printf '%s\n' "$SERVERS"
	} | want /etc/casemate/bastions
}

# --- Trust.

# anchors prints the directory of the system's own trust store, and sets nothing.
anchors() {
	if [ -d "$ROOT/etc/pki/ca-trust/source/anchors" ]; then
		echo /etc/pki/ca-trust/source/anchors # RHEL and its rebuilds, Fedora
	elif [ -d "$ROOT/etc/pki/trust/anchors" ]; then
		echo /etc/pki/trust/anchors # SUSE
	elif [ -d "$ROOT/usr/share/ca-certificates" ] || [ -d "$ROOT/usr/local/share/ca-certificates" ] || [ -e "$ROOT/usr/sbin/update-ca-certificates" ]; then
		echo /usr/local/share/ca-certificates # Debian, Ubuntu
	fi
}

# ownRoots UNIT: the service is told to read other roots than the system's.
ownRoots() {
	grep -qs '^[^#]*SSL_CERT_\(FILE\|DIR\)=' "$ROOT/etc/systemd/system/$1.service.d"/*.conf "$ROOT/etc/systemd/system/$1.service" "$ROOT/etc/systemd/system/$1.service.env" \
		"$ROOT/etc/default/$1" "$ROOT/etc/sysconfig/$1"
}

# Docker, containerd and what builds on them (k3s, RKE2), Podman and CRI-O add the folders certs.d to the system's roots and do not replace them, so they need nothing of
# their own, with one exception: where SSL_CERT_FILE or SSL_CERT_DIR is set for dockerd, the system's roots are not read. Docker Hub has no folder even then.
wantDocker() {
	if ownRoots docker; then
		warn "SSL_CERT_FILE or SSL_CERT_DIR is set for docker, so it does not read the system's roots: the CA goes to /etc/docker/certs.d/ too, but docker.io has no folder there; unset it"
		for d_host in $CASEMATE_REGISTRIES "registry.$CASEMATE_DOMAIN"; do
			for d_id in $CASEMATE_ROOTS; do
				rootPEM "$d_id" | want "/etc/docker/certs.d/$d_host/casemate-$d_id.crt"
			done
		done
	fi
	for d_unit in containerd crio k3s k3s-agent rke2-server rke2-agent; do
		if ownRoots $d_unit; then
			warn "SSL_CERT_FILE or SSL_CERT_DIR is set for $d_unit, so it does not read the system's roots: unset it, or put the CA there too"
		fi
	done
}

wantTrust() {
	t_dir=$(anchors)
	[ -n "$t_dir" ] || die "this system has no trust store that is known here: install the package ca-certificates of the distribution, then run this again"
	for t_id in $CASEMATE_ROOTS; do # one file for each: Debian's rehash skips files with several
		rootPEM "$t_id" | want "$t_dir/casemate-$t_id.crt"
	done
	# All of them in one file at a path that no distribution changes, for configurations that name one (Kubespray's containerd_registries_mirrors).
	for t_id in $CASEMATE_ROOTS; do rootPEM "$t_id"; done | want /etc/casemate/ca.crt
	wantDocker
}

refreshTrust() {
	case "$(anchors)" in
	/etc/pki/ca-trust/*) run update-ca-trust extract ;;
	/etc/pki/trust/*) run update-ca-certificates ;;
	*)
		if live && ! command -v update-ca-certificates >/dev/null; then
			die "update-ca-certificates is not there: install the package ca-certificates of the distribution, then run this again"
		fi
		# It appends to what one that was killed has left there, and so would trust a root that is gone.
		if live; then rm -f /etc/ssl/certs/ca-certificates.crt.new; fi
		# Without --fresh the links of roots that are gone stay.
		if [ -n "$UNDO" ] || [ -s "$WORK/gone" ]; then run update-ca-certificates --fresh; else run update-ca-certificates; fi
		;;
	esac || die "the system's trust store cannot be rebuilt, see above; run this again when that is mended"
}

# --- Afterwards.

refreshResolver() {
	r_bad=
	if ! live; then
		say "the resolver's services read their files at boot"
		return
	fi
	if systemd; then
		if active NetworkManager; then run systemctl reload NetworkManager || r_bad=NetworkManager; fi
		if active systemd-networkd; then run networkctl reload || run systemctl restart systemd-networkd || r_bad=systemd-networkd; fi
		if active systemd-resolved; then
			# What NetworkManager gave a link stays with resolved until it is taken back; networkd's links are left alone by this.
			if [ -n "$UNDO" ]; then
				:
			elif [ -f /etc/NetworkManager/conf.d/zz-casemate.conf ]; then
				resolvectl dns 2>/dev/null | sed -n 's/^Link [0-9]* (\(.*\)):.*/\1/p' >"$WORK/links"
				while IFS= read -r r_link; do resolvectl revert "$r_link" >/dev/null 2>&1 </dev/null || :; done <"$WORK/links"
			fi
			run systemctl restart systemd-resolved || r_bad=systemd-resolved
		fi
	fi
	if isPending resolvconf && command -v resolvconf >/dev/null; then run resolvconf -u || r_bad=resolvconf; fi
	if isPending netconfig && command -v netconfig >/dev/null; then run netconfig update -f || r_bad=netconfig; fi
	[ -z "$r_bad" ] || die "$r_bad does not take its new configuration, see above; run this again when that is mended, or --undo"
}

# Go programs read the roots once. kubelet pulls through the runtime and needs no restart; podman is a new process each time.
restartRuntimes() {
	if ! live; then return; fi
	systemd || return 0
	for u in containerd crio k3s k3s-agent rke2-server rke2-agent; do
		active "$u" || continue
		if [ -n "$NO_RESTART" ]; then
			say "$u has the old roots until it is restarted: systemctl restart $u"
		else # containers go on running: they are not its children
			run systemctl restart "$u" || die "$u does not start again, see systemctl status $u"
		fi
	done
	active docker || return 0
	if [ -n "$NO_RESTART" ]; then
		say "docker has the old roots until it is restarted: systemctl restart docker"
	elif [ "$(docker info --format '{{.LiveRestoreEnabled}}' 2>/dev/null)" != true ] && [ -n "$(docker ps -q 2>/dev/null)" ]; then
		# Nobody who enrols a node expects its containers to stop.
		say "docker has the old roots until it is restarted, which would stop the containers that run (live-restore is off), so it was not: systemctl restart docker"
	else
		run systemctl restart docker || die "docker does not start again, see systemctl status docker"
	fi
}

# A proxy that is asked for the bastions' names would look for the real ones.
checkProxies() {
	for p_file in "$ROOT"/etc/environment "$ROOT"/etc/profile.d/*.sh "$ROOT"/etc/systemd/system.conf "$ROOT"/etc/systemd/system.conf.d/*.conf "$ROOT"/etc/systemd/system/*.service.d/*.conf \
		"$ROOT"/etc/default/docker "$ROOT"/etc/sysconfig/docker "$ROOT"/etc/default/k3s "$ROOT"/etc/default/rke2-server "$ROOT"/etc/default/rke2-agent; do
		[ -f "$p_file" ] || continue
		grep -qi '^[^#]*https\{0,1\}_proxy=.' "$p_file" || continue
		p_no=,$(grep -i '^[^#]*no_proxy=' "$p_file" | sed 's/.*[nN][oO]_[pP][rR][oO][xX][yY]=//' | tr -d '"'\' | tr ' \n' ',,' | sed 's/,\*\./,./g'),
		p_lacks=
		for p_name in $CASEMATE_ORIGINS ".$CASEMATE_DOMAIN"; do
			p_rest=$p_name
			p_found=
			while [ -n "$p_rest" ]; do # the name, or a zone above it with or without a leading dot
				case "$p_no" in *",$p_rest,"* | *",.${p_rest#.},"* | *",*,"*) p_found=1 && break ;; esac
				case "$p_rest" in
				.*) p_rest=${p_rest#.} ;;
				*.*) p_rest=${p_rest#*.} ;;
				*) break ;;
				esac
			done
			[ -n "$p_found" ] || p_lacks="$p_lacks${p_lacks:+,}$p_name"
		done
		[ -z "$p_lacks" ] || warn "${p_file#"$ROOT"} sets a proxy, which would be asked for what the bastions hold; add to no_proxy there: $p_lacks"
	done
	for p_file in "$ROOT"/etc/apt/apt.conf "$ROOT"/etc/apt/apt.conf.d/* "$ROOT"/etc/dnf/dnf.conf "$ROOT"/etc/yum.conf; do
		[ -f "$p_file" ] || continue
		grep -qi '^[^#/]*Acquire::https\{0,1\}::Proxy\|^proxy[[:space:]]*=' "$p_file" || continue
		warn "${p_file#"$ROOT"} sets a proxy for packages, which would be asked for what the bastions hold"
	done
}

isBastion() { printf '%s\n' "$SERVERS" | grep -qxF -e "$1"; }

# resolve NAME prints the addresses that programs get.
resolve() {
	if command -v getent >/dev/null; then
		getent ahosts "$1" | cut -d ' ' -f 1 | sort -u
	elif command -v nslookup >/dev/null; then
		nslookup "$1" 2>/dev/null | sed -n '/^Name:/,$s/^Address[ 0-9]*: *\([0-9a-f.:]*\).*/\1/p'
	fi
}

verifyName() {
	for _ in 1 2 3 4 5 6 7 8 9 10; do # the resolver's services were restarted a moment ago
		v_got=$(resolve "$1")
		v_bad=
		for v_addr in $v_got; do isBastion "$v_addr" || v_bad=$v_addr; done
		[ -n "$v_got" ] && [ -z "$v_bad" ] && return
		sleep 1
	done
	if [ -z "$v_got" ]; then
		die "$1 does not resolve: the bastions ($(printf '%s\n' "$SERVERS" | oneLine)) do not answer at port 53, or the node asks another resolver; casemate doctor says which"
	fi
	die "$1 resolves to $v_bad, which is no bastion: the node asks another resolver; casemate doctor says which"
}

verify() {
	verifyName "$CASEMATE_DOMAIN"
	v_also=
	if [ -z "$NO_RESOLVER" ] && [ -n "$CASEMATE_ORIGINS" ]; then
		v_also=$(printf '%s\n' "$CASEMATE_ORIGINS" | cut -d ' ' -f 1)
		verifyName "$v_also"
	fi
	v_url=https://$CASEMATE_DOMAIN/healthz
	if command -v curl >/dev/null; then
		curl -fsS --noproxy '*' -m 20 -o /dev/null "$v_url" 2>"$WORK/out"
	elif wget --version 2>/dev/null | grep -q GNU; then # busybox's does not check certificates
		https_proxy='' wget -q -T 20 -O /dev/null "$v_url" 2>"$WORK/out"
	elif command -v openssl >/dev/null; then
		openssl s_client -connect "$CASEMATE_DOMAIN:443" -servername "$CASEMATE_DOMAIN" -verify_hostname "$CASEMATE_DOMAIN" -verify_return_error </dev/null >"$WORK/out" 2>&1
	else
		say "$CASEMATE_DOMAIN${v_also:+ and $v_also} resolve to the bastions; there is no curl, wget or openssl to check the certificate with"
		return
	fi || die "$v_url cannot be fetched with the system's trust: $(tail -n 1 "$WORK/out" | tr -d '\r'); casemate doctor says why"
	say "$CASEMATE_DOMAIN${v_also:+ and $v_also} resolve to the bastions, and the certificate is trusted"
}

# --- What is asked for.

# noteBastions leaves their addresses where casemate doctor looks for them: who enrolled with --no-resolver has no resolver that says them.
noteBastions() {
	if ! { printf '%s\n' "$SERVERS" >"$STATE/bastions.new" && mv "$STATE/bastions.new" "$STATE/bastions"; }; then
		die "cannot write to $STATE"
	fi
}

enrol() {
	ID=$(nodeID)
	SERVERS=$(inOrder)
	LOCAL=$(nodeLocal)
	SEARCH=$(searched)
	resolvers=
	wantTrust
	if [ -n "$NO_RESOLVER" ]; then wantHosts; else wantResolver; fi
	wantBastions
	checkProxies
	compare
	if [ ! -s "$WORK/todo" ] && [ ! -s "$WORK/gone" ] && [ ! -s "$STATE/pending" ]; then
		if [ -z "$DRY_RUN" ] && [ -d "$STATE" ]; then noteBastions; fi
		say "nothing to do"
		return
	fi
	if [ -n "$DRY_RUN" ]; then
		while IFS= read -r e_path; do diffWanted "$e_path"; done <"$WORK/todo"
		while IFS= read -r e_path; do diffBack "$e_path"; done <"$WORK/gone"
		if [ -s "$WORK/todo" ] || [ -s "$WORK/gone" ]; then
			say "would change $(cat "$WORK/todo" "$WORK/gone" | grep -c .) files; nothing is changed"
		else
			say "would finish what an earlier run began: $(oneLine <"$STATE/pending"); nothing is changed"
		fi
		return
	fi
	openState
	# Whether the last run did everything and only could not see that it works.
	e_more=$(cat "$WORK/todo" "$WORK/gone" && grep -vx verify "$STATE/pending" 2>/dev/null)
	if live; then pending verify; fi
	# So that it can be undone when no bastion answers any more.
	if [ -f "$0" ]; then
		if ! { cp "$0" "$STATE/enroll.new" && mv "$STATE/enroll.new" "$STATE/enroll.sh"; }; then
			die "cannot write to $STATE"
		fi
	fi
	[ -f "$STATE/search" ] || printf '%s\n' "$SEARCH" >"$STATE/search"
	noteBastions
	: >"$WORK/left"
	while IFS= read -r e_path; do keep "$e_path"; done <"$WORK/todo"
	e_left=0
	if [ -s "$WORK/left" ]; then
		e_left=3
		grep -vxF -f "$WORK/left" "$WORK/todo" >"$WORK/todo.new" || :
		mv "$WORK/todo.new" "$WORK/todo"
	fi
	if grep -q '^/etc/dhc' "$WORK/plan"; then top3 >"$STATE/dhcp"; else rm -f "$STATE/dhcp"; fi
	cat "$WORK/todo" "$WORK/gone" >"$WORK/changes"
	while IFS= read -r e_path; do follow "$e_path"; done <"$WORK/changes"
	if live; then sync; fi # the originals are on disk before the first file is changed
	while IFS= read -r e_path; do
		write "$e_path"
		say "wrote $e_path"
	done <"$WORK/todo"
	while IFS= read -r e_path; do
		if back "$e_path"; then say "put back $e_path"; else e_left=3; fi
	done <"$WORK/gone"
	finish
	if live; then
		verify
		rm -f "$STATE/pending"
	fi
	if [ -z "$e_more" ]; then
		say "nothing to do"
		return
	fi
	say "done: $(cat "$WORK/todo" "$WORK/gone" | grep -c .) files changed"
	return $e_left
}

undo() {
	SERVERS=
	LOCAL=
	: >"$WORK/todo"
	: >"$WORK/plan"
	compare
	if [ ! -d "$STATE" ]; then
		say "nothing to do: this node is not enrolled"
		return
	fi
	if [ -n "$DRY_RUN" ]; then
		while IFS= read -r u_path; do diffBack "$u_path"; done <"$WORK/gone"
		say "would put back $(grep -c . "$WORK/gone") files; nothing is changed"
		return
	fi
	openState
	while IFS= read -r u_path; do follow "$u_path"; done <"$WORK/gone"
	u_left=0
	while IFS= read -r u_path; do
		if back "$u_path"; then say "put back $u_path"; else u_left=3; fi
	done <"$WORK/gone"
	finish
	if [ $u_left = 0 ]; then
		cat "$STATE/dirs" >"$WORK/dirs"
		rm -rf "$STATE" || die "cannot remove $STATE"
		# The deepest ones were written down last.
		sed -n '1!G;h;$p' "$WORK/dirs" | while IFS= read -r u_dir; do [ -z "$u_dir" ] || rmdir "$ROOT$u_dir" 2>/dev/null || :; done
		say "done: everything is as it was"
	fi
	return $u_left
}

# finish does what has to follow the changes, also those of an earlier run that broke off.
finish() {
	if isPending trust; then refreshTrust; fi
	if isPending resolver; then refreshResolver; fi
	if isPending runtimes; then restartRuntimes; fi
	if isPending verify; then echo verify >"$STATE/pending"; else rm -f "$STATE/pending"; fi
}

main() {
	ROOT='' DRY_RUN='' UNDO='' FORCE='' NO_RESOLVER='' NO_RESTART=''
	while [ $# -gt 0 ]; do
		case "$1" in
		--dry-run) DRY_RUN=1 ;;
		--undo) UNDO=1 ;;
		--force) FORCE=1 ;;
		--no-resolver) NO_RESOLVER=1 ;;
		--no-restart) NO_RESTART=1 ;;
		--root=*) ROOT=${1#--root=} ;;
		--root)
			[ $# -gt 1 ] || { usage >&2 && exit 2; }
			ROOT=$2
			shift
			;;
		-h | --help) usage && exit 0 ;;
		*)
			printf 'casemate-enroll: unknown argument %s\n' "$1" >&2
			usage >&2
			exit 2
			;;
		esac
		shift
	done
	if [ -n "$FORCE" ] && [ -z "$UNDO" ]; then
		echo 'casemate-enroll: --force goes with --undo' >&2
		exit 2
	fi
	case "$ROOT" in
	'') ;;
	/) ROOT='' ;;
	*) ROOT=$(cd "$ROOT" 2>/dev/null && pwd) || die "--root: there is no such directory" ;;
	esac
	if live && [ "$(id -u)" != 0 ]; then
		die "must be run as root"
	fi
	for m_tool in sha256sum awk sed stat readlink mktemp; do
		command -v $m_tool >/dev/null || die "the program $m_tool is not there"
	done
	STATE=$ROOT/var/lib/casemate-enroll
	WORK=$(mktemp -d) || die "no temporary directory can be made in ${TMPDIR:-/tmp}: is it full or read-only? TMPDIR names another"
	trap 'rm -rf "$WORK"' EXIT
	trap 'exit 1' HUP INT TERM
	head -c 1048576 /dev/zero >"$WORK/room" ||
		die "no room in ${TMPDIR:-/tmp}: free 1 MiB there, or name another directory with TMPDIR; nothing was done"
	rm "$WORK/room"
	mkdir "$WORK/want"
	: >"$WORK/plan"
	if [ -n "$UNDO" ]; then undo; else enrol; fi
}

# The last line: a script that was cut short does nothing.
main "$@"
