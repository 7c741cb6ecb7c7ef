#!/bin/sh
# Write constraints.txt anew, with uv: sh tools/lock.sh [--upgrade | --upgrade-package NAME]
#
# Versions that stand there stay, unless an upgrade is asked for. Every file of a version is listed by its hash, of any system and
# Python, so that no index can give another one under the same name.
set -eu
head="$(sed -n 1p constraints.txt)"
uv pip compile setup.py --extra dev --extra deepspeed --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --quiet --output-file constraints.txt "$@"
printf '%s\n%s\n' "$head" "$(cat constraints.txt)" >constraints.txt.new
mv constraints.txt.new constraints.txt
