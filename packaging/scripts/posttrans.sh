#!/bin/sh
# The last script that rpm runs: the old package is removed by now, with the config that it owned (preinstall.sh).
set -e

config=/etc/casemate/casemate.yaml
kept=/etc/casemate/.casemate-upgrade.yaml
if [ -f "$kept" ]; then
    if [ -f "$config" ]; then
        rm -f "$kept" # it was not taken away
    else
        mv "$kept" "$config"
        cmp -s "$config" "$config.rpmsave" && rm -f "$config.rpmsave" || :
    fi
fi
