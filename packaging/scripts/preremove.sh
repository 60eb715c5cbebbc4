#!/bin/sh
# Runs before the files are removed: remove or upgrade from dpkg, 0 (erase) or 1 (upgrade) from rpm. An upgrade stops
# nothing.
set -e

case "$1" in
remove | deconfigure | 0) ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now casemate.service \
        casemate-http.socket casemate-https.socket casemate-dns-udp.socket casemate-dns-tcp.socket || :
    systemctl stop casemate-dns.service casemate-dns-link.socket || : # they start and stop with the others
fi
