#!/bin/sh
# Runs after the files are in place: configure [OLD-VERSION] from dpkg, also if it was removed in between; 1 (install)
# or 2 (upgrade) from rpm.
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
    sed -i -e '/^ConditionPathExists=/d' -e '/^RequiresMountsFor=/d' \
        -e 's|^ReadWritePaths="/|ReadWritePaths="-/|' "$own"
fi

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers casemate.conf
elif ! id casemate >/dev/null 2>&1; then
    useradd --system --user-group --home-dir /var/lib/casemate --no-create-home --shell /usr/sbin/nologin casemate
fi
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create casemate.conf || : # it has printed the reason; init checks the directory again
else
    install -d -m 0750 -o casemate -g casemate /var/lib/casemate
fi

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ -n "$upgrade" ]; then
        # A clean stop transfers leadership and lets downloads end; systemd keeps the sockets open meanwhile, so no
        # client is refused. The old DNS process answers until the daemon is back, and leaves its table to the new one.
        # Where the daemon itself still answered DNS, casemate.service starts the new unit.
        dns=
        ! systemctl is-active --quiet casemate-dns.service || dns=yes
        systemctl try-restart casemate.service ||
            echo "casemate did not start after the upgrade: see journalctl -u casemate" >&2
        [ -z "$dns" ] || systemctl try-restart casemate-dns.service ||
            echo "casemate's DNS did not start after the upgrade: see journalctl -u casemate-dns" >&2
    fi
fi

if [ -d /run/systemd/system ] && systemctl is-enabled --quiet casemate.service; then
    exit 0 # it is set up already
fi
if [ -d /var/lib/casemate/cluster ]; then
    echo "Casemate is installed, and data of an earlier installation exists." \
        "Start it with: systemctl enable --now casemate.service"
else
    cat <<'EOF'
Casemate is installed and does not run yet. Next, as root:
  on the first bastion:   casemate init
  on every other:         casemate join --token TOKEN ADDRESS     (the token: casemate token create, on the first)
EOF
fi
