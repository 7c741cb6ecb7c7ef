#!/bin/sh
# Set up and run the smoke demo with each Python that biomlm supports and that is here: sh tools/matrix.sh FOLDER
set -eu
folder="$1"
tried=0 failed=""
for version in 3.11 3.12 3.13 3.14; do
    python="python$version"
    if ! "$python" -c '' 2>/dev/null; then
        echo "Python $version: skipped, there is no $python here"
        continue
    fi
    tried=$((tried + 1))
    here="$folder/$version"
    mkdir -p "$here"
    if PYTHON="$python" sh tools/install.sh "$here/venv" >"$here/setup.log" 2>&1 &&
        "$here/venv/bin/biomlm" launch demo --scale smoke --out "$here/demo" >"$here/demo.log" 2>&1; then
        echo "Python $version: set up, and the smoke demo ran to its end"
    else
        echo "Python $version: failed, see $here/setup.log and demo.log" >&2
        failed="$failed $version"
    fi
done
[ "$tried" -gt 0 ] && [ -z "$failed" ]
