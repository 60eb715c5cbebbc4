#!/bin/sh
# Runs before the files are in place: install [OLD-VERSION] or upgrade OLD-VERSION from dpkg; 1 (install) or 2 (upgrade)
# from rpm. Earlier packages owned /etc/casemate/casemate.yaml, which casemate init writes, so a new template would have
# made dpkg ask. An upgrade from them keeps the file as it is, and no package owns it any more.
set -e

config=/etc/casemate/casemate.yaml
kept=/etc/casemate/.casemate-upgrade.yaml # postinstall.sh, or postremove.sh when the upgrade fails, puts it back

[ -f "$config" ] || exit 0
case "$1" in
install | upgrade)
    # Each line is " PATH MD5", followed by " obsolete" if the installed package does not own the file any more.
    sum=$(dpkg-query -W -f='${Conffiles}\n' casemate 2>/dev/null | sed -n "s|^ $config \([0-9a-f]*\).*|\1|p")
    [ -n "$sum" ] || exit 0 # it belongs to no package
    if [ "$(md5sum <"$config")" = "$sum  -" ] && [ ! -d /var/lib/casemate/cluster ]; then
        rm -f "$config" # nobody has written into it
    else
        mv "$config" "$kept" # dpkg forgets a file of the old package that it does not find
    fi
    ;;
2)
    # rpm deletes or renames the file when it removes the old package: after all other scripts but %posttrans.
    if rpm -q --configfiles casemate 2>/dev/null | grep -qx "$config" &&
        { rpm -V --nodeps casemate 2>/dev/null | grep -q " $config\$" || [ -d /var/lib/casemate/cluster ]; }; then
        cp -p "$config" "$kept"
    fi
    ;;
esac
