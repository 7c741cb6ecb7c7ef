#!/bin/sh
# Make an environment in which the real fairseq runs: biomlm-fairseq-env [DIR]
#
# fairseq pins old omegaconf and hydra and builds against the numpy and torch it finds, so it cannot share biomlm's environment.
# The package taken is fairseq-fixed, fairseq 0.12 mended for Python 3.11. The folder is that of
# biomlm's environment with -fairseq behind its name, or what BIOMLM_FAIRSEQ_ENV says, unless DIR says otherwise;
# FAIRSEQ_PYTHON names the Python to make it from, FAIRSEQ_TORCH the torch to put in. Run it again after a failure: it goes on.
set -eu
case "${1:-}" in -h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
dir="${1:-$DEFAULT}"
python="${FAIRSEQ_PYTHON:-python3.11}"
torch="${FAIRSEQ_TORCH:-torch==2.13.0}"

"${PYTHON:-python3}" -c 'import virtualenv' 2>/dev/null || {
    echo "biomlm-fairseq-env: the package virtualenv is not installed. Run: pip install 'biomlm[fairseq-env]'" >&2
    exit 2
}
command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || {
    echo "biomlm-fairseq-env: there is no C++ compiler, which fairseq's data readers need. Install one (g++) and run this again." >&2
    exit 2
}
if [ ! -x "$dir/bin/python" ]; then
    "${PYTHON:-python3}" -m virtualenv --quiet --python "$python" "$dir" || {
        echo "biomlm-fairseq-env: no $python here. Install Python 3.11, or name one: FAIRSEQ_PYTHON=/path/to/python3.11" >&2
        exit 2
    }
fi
unset PYTHONPATH # pip would take what lies there for installed
step() {
    echo "[$1 of 4] $2" >&2
    shift 2
    "$dir/bin/python" -m pip --disable-pip-version-check --quiet "$@" --no-warn-conflicts
}
step 1 "torch (the build that your package sources give; docs/install.md says how to choose it)" install "$torch"
step 2 "what fairseq is built with" install numpy cython wheel setuptools
# By the hashes of its files: it is another's project, and runs when it is installed.
echo "fairseq-fixed==0.12.3.1 --hash=sha256:3490abbbdfd0693b3b35bd81ab05dfc451b1b47f4258680e343a4a3e1f4ab9d5" \
    "--hash=sha256:38d6732118a4ff568aafa27a7667b51e4e74f23276c7da3600405532cc2d36e0" \
    "--hash=sha256:c607577a54ab30e2ee0f0b0a754ea5cdbc6ad0a9f99a1726638a2201445bc1cc" >"$dir/fairseq.txt"
step 3 "fairseq itself: compiles for 2 to 5 minutes" install --no-build-isolation --no-deps --require-hashes --requirement "$dir/fairseq.txt"
step 4 "what fairseq imports" install scikit-learn hydra-core==1.3.2 omegaconf==2.3.0 regex cffi sacrebleu tqdm bitarray
"$dir/bin/python" -c 'import logging; logging.disable(logging.INFO); import fairseq, torch; print(f"fairseq {fairseq.__version__} with torch {torch.__version__} works")'
echo "Use it so: $dir/bin/fairseq-train SHARDS --task masked_lm … (docs/fairseq.md)" >&2
