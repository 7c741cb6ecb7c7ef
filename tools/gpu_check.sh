#!/bin/sh
# Try what computes on GPUs that are not there: sh tools/gpu_check.sh FOLDER
#
# A CUDA build of torch (several GB; x86-64 Linux) is installed into an environment in FOLDER, unless one is there. Under it every case of
# tests/distill/fake_gpu.py runs forward and backward for each compute capability, on tensors without numbers: what kernels are chosen,
# and whether torch takes their arguments. What they compute is not seen.
set -eu
folder="$1"
python="$folder/venv/bin/python"
version="$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' constraints.txt)"

mkdir -p "$folder"
if ! "$python" -c "import biomlm, torch; assert torch.version.cuda" 2>/dev/null; then
    "${PYTHON:-python3}" -m venv "$folder/venv"
    # === takes no other build of that version, such as +cpu
    "$python" -m pip --disable-pip-version-check --quiet install "torch===$version"
    sed -n 's/^\([a-z0-9._-]*==[^ ;]*\).*/\1/p' constraints.txt >"$folder/pins.txt"
    "$python" -m pip --disable-pip-version-check --quiet install --constraint "$folder/pins.txt" --editable .
fi
"${CC:-cc}" -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$folder/libcuda.so.1" tests/distill/fake_cuda.c

failed=""
for sm in 70 75 80 86 90 100 120; do
    FAKE_SM=$sm LD_LIBRARY_PATH="$folder" LD_PRELOAD="$folder/libcuda.so.1" OMP_NUM_THREADS=1 \
        "$python" tests/distill/fake_gpu.py >"$folder/sm$sm.log"
    wrong="$(grep -vc ', ""\]$' "$folder/sm$sm.log")" || true
    echo "sm$sm: $(grep -c ', ""\]$' "$folder/sm$sm.log") cases run, $wrong raise"
    [ "$wrong" -eq 0 ] || failed="$failed $folder/sm$sm.log"
done
[ -z "$failed" ] || {
    echo "see$failed" >&2
    exit 1
}
