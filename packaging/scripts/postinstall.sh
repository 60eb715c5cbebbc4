#!/bin/sh
# After the files are in place: configure [OLD-VERSION] from dpkg, also if it was removed in between; 1 (install) or 2 (upgrade) from rpm.
set -e

upgrade=
case "$1" in
configure) [ -z "${2-}" ] || upgrade=yes ;;
abort-*) exit 0 ;;
*) [ "${1:-1}" = 1 ] || upgrade=yes ;;
esac

config=/etc/casemate/casemate.yaml
kept=/etc/casemate/.casemate-upgrade.yaml # the config that an earlier package owned: preinstall.sh
if [ -f "$kept" ] && [ ! -f "$config" ]; then
    mv "$kept" "$config"
fi
# Earlier versions had the data directory as a condition of the unit: a disk that was mounted later started nothing.
own=/etc/systemd/system/casemate.service.d/10-data.conf
if [ -f "$own" ]; then
    sed -i -e '/^ConditionPathExists=/d' -e '/^RequiresMountsFor=/d' -e 's|^ReadWritePaths="/|ReadWritePaths="-/|' "$own"
fi

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers casemate.conf
elif ! id casemate >/dev/null 2>&1; then
    useradd --system --user-group --home-dir /var/lib/casemate --no-create-home --shell /usr/sbin/nologin casemate
fi
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create casemate.conf || : # it has said why; a package is not broken by a directory, init looks again
else
    install -d -m 0750 -o casemate -g casemate /var/lib/casemate
fi

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ -n "$upgrade" ]; then
        # A clean stop hands leadership over and lets downloads end; the sockets stay with systemd meanwhile, so nobody is refused.
        # DNS answers from its old process until the daemon is back, and takes its table along to the new one. Where DNS was
        # still the daemon's, casemate.service starts the new unit.
        dns=
        ! systemctl is-active --quiet casemate-dns.service || dns=yes
        systemctl try-restart casemate.service ||
            echo "casemate did not come back after the upgrade: journalctl -u casemate says why" >&2
        [ -z "$dns" ] || systemctl try-restart casemate-dns.service ||
            echo "casemate's DNS did not come back after the upgrade: journalctl -u casemate-dns says why" >&2
    fi
fi

if [ -d /run/systemd/system ] && systemctl is-enabled --quiet casemate.service; then
    exit 0 # it is set up
fi
if [ -d /var/lib/casemate/cluster ]; then
    echo "Casemate is installed; its data from before is here. Start it with: systemctl enable --now casemate.service"
else
    cat <<'EOF'
Casemate is installed and does not run yet. Next, as root:
  on the first bastion:   casemate init
  on every other:         casemate join --token TOKEN ADDRESS     (the token: casemate token create, on the first)
EOF
fi
