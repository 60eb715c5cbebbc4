#!/bin/sh
# Runs after the files were removed: remove, upgrade or purge from dpkg, 0 or 1 from rpm. Only a purge deletes data and
# the files that init wrote.
set -e

config=/etc/casemate/casemate.yaml
kept=/etc/casemate/.casemate-upgrade.yaml # preinstall.sh has moved it there, and the upgrade failed
case "$1" in
abort-*)
    if [ -f "$kept" ] && [ ! -f "$config" ]; then
        mv "$kept" "$config"
    fi
    ;;
esac

dropins=/etc/systemd/system
if [ "$1" = purge ]; then
    data=/var/lib/casemate
    own=$dropins/casemate.service.d/10-data.conf
    if [ -f "$own" ]; then
        data=$(sed -n 's/^ReadWritePaths="-\{0,1\}\(.*\)"$/\1/p' "$own" | sed 's/%%/%/g; s/\\\(.\)/\1/g')
        echo "casemate's data in $data stays: the package did not create that directory." \
            "It contains keys of the CA: erase it if it is not needed any more" >&2
    fi
    if [ -L /var/lib/casemate ]; then
        echo "casemate's data in $(readlink /var/lib/casemate) stays: /var/lib/casemate is a link." \
            "It contains keys of the CA: erase it if it is not needed any more" >&2
        rm -f /var/lib/casemate
    elif [ -d /var/lib/casemate ]; then
        # It may be a mount point, which cannot be removed.
        find /var/lib/casemate -xdev -mindepth 1 ! -path /var/lib/casemate/lost+found -delete ||
            echo "not all of /var/lib/casemate could be removed" >&2
        rmdir /var/lib/casemate 2>/dev/null || :
    fi
    rm -f "$own"
    for name in http https dns-udp dns-tcp; do
        rm -f "$dropins/casemate-$name.socket.d/10-addresses.conf"
        rmdir "$dropins/casemate-$name.socket.d" 2>/dev/null || :
    done
    rmdir "$dropins/casemate.service.d" 2>/dev/null || :
    rm -f "$config" /etc/casemate/.casemate-*.yaml
    rmdir /etc/casemate 2>/dev/null || :
fi

case "$1" in
remove | purge | 0) [ ! -d /run/systemd/system ] || systemctl daemon-reload || : ;;
esac
