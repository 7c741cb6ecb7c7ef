#!/bin/sh
# Make a virtual environment and install biomlm into it: sh tools/install.sh VENV
#
# Every file is compared with its hash in constraints.txt before it is used, and nothing is installed that does not stand there.
#
# Without a GPU the CPU build of torch is taken where one can be had: from the package sources that pip is set up with, or from
# TORCH_INDEX (an index of such wheels, see docs/install.md). Only if there is none is the default build taken, and that is said.
# A GPU older than Turing (V100) has no kernels in torch's default builds: the CUDA 12.6 build is taken, or it is said what to do.
# DeepSpeed comes along where it can be installed and imported; where not, biomlm does without, and its tests are skipped.
set -eu
venv="$1"
python="${PYTHON:-python3}"
cuda='torch|triton|cuda-.*|nvidia-.*'
deepspeed='deepspeed|einops|hjson|msgpack|ninja|py-cpuinfo'

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || {
    echo "biomlm needs Python 3.11 to 3.14; say which with: make setup PYTHON=python3.11" >&2
    exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
locked="$venv/locked.txt"

# Install the packages of constraints.txt whose name matches (`~`) or does not (`!~`), and nothing else: what they need is listed too.
install() {
    awk "/^[a-z]/ { taken = \$0 $1 /^($2)==/ } taken" constraints.txt >"$locked"
    $pip install --no-deps --no-build-isolation --use-pep517 --require-hashes --requirement "$locked"
}

has_torch() { "$venv/bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"; }

torch="$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' constraints.txt)"
if ! has_torch && ! command -v nvidia-smi >/dev/null 2>&1 && [ "$(uname -s)" = Linux ]; then
    echo "no NVIDIA driver here: looking for a CPU build of torch $torch"
    # One index, and torch alone from it: of several pip takes the highest version, be it a stranger's project of the same name.
    $pip install --no-deps "torch==$torch+cpu" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} 2>/dev/null ||
        echo "none in the package sources here: taking the default build, with CUDA in it (docs/install.md says how to avoid that)" >&2
fi
has_sm_70() { "$venv/bin/python" -c "import sys, torch; sys.exit('sm_70' not in torch.cuda.get_arch_list())" 2>/dev/null; }

oldest="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -V | head -n 1)" || oldest=""
case "$oldest" in
[56].* | 7.0 | 7.2)
    echo "a GPU of compute capability $oldest here: looking for a build of torch that has kernels for it"
    if has_torch && has_sm_70; then
        echo "the torch that is installed here has them"
    elif $pip install --no-deps "torch==$torch+cu126" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} 2>/dev/null; then
        $pip install "torch==$torch+cu126" # what it needs, from the usual sources
        echo "torch $torch for CUDA 12.6, of which constraints.txt has no hash"
    else
        echo "no torch with kernels for it in the package sources here: name an index of CUDA 12.6 builds, make setup TORCH_INDEX=ADDRESS, or bring a wheel (docs/install.md)" >&2
        exit 2
    fi
    ;;
esac
has_torch || install '~' "$cuda"
install '!~' "$cuda|$deepspeed"
if ! { install '~' "$deepspeed" && "$venv/bin/python" -c "import deepspeed"; } >"$venv/deepspeed.log" 2>&1; then
    $pip uninstall --yes deepspeed 2>/dev/null
    echo "DeepSpeed cannot be installed here ($venv/deepspeed.log says why): --engine deepspeed will not work" >&2
fi
$pip install --no-deps --no-build-isolation --editable .
"$venv/bin/python" -m pip check
