#!/bin/sh
# Make a virtual environment and install biomlm into it: sh tools/install.sh VENV
#
# Without a GPU the CPU build of torch is taken where one can be had: from the package sources that pip is set up with, or from
# TORCH_INDEX (an index of CPU wheels, see docs/install.md). Only if there is none is the default build taken, and that is said.
# DeepSpeed comes along where it can be installed and imported; where not, biomlm does without, and its tests are skipped.
set -eu
venv="$1"
python="${PYTHON:-python3}"
torch_version="$(sed -n 's/^torch==//p' constraints.txt)"

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || {
    echo "biomlm needs Python 3.11 to 3.14; say which with: make setup PYTHON=python3.11" >&2
    exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"

if ! command -v nvidia-smi >/dev/null 2>&1 && [ "$(uname -s)" = Linux ]; then
    echo "no NVIDIA driver here: looking for a CPU build of torch $torch_version"
    $pip install "torch==$torch_version+cpu" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} 2>/dev/null ||
        echo "none in the package sources here: taking the default build, with CUDA in it (docs/install.md says how to avoid that)" >&2
fi
$pip install --constraint constraints.txt --editable ".[dev]"
if ! { $pip install --constraint constraints.txt --editable ".[dev,deepspeed]" &&
    "$venv/bin/python" -c "import deepspeed"; } >"$venv/deepspeed.log" 2>&1; then
    $pip uninstall --yes deepspeed 2>/dev/null
    echo "DeepSpeed cannot be installed here ($venv/deepspeed.log says why): --engine deepspeed will not work" >&2
fi
"$venv/bin/python" -m pip check
