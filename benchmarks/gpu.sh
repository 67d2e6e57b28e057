#!/usr/bin/env bash
# All measurements and tests that need a GPU, in at most 8 minutes, without network.
#
#     benchmarks/gpu.sh [--wheels FOLDER] [--site FOLDER] [OPTION...]
#
# --wheels  folder of the wheels that the Python there lacks (benchmarks/gpu-wheels.txt)
# --site    folder into which they are unpacked; default: a temporary one. A folder that is not
#           empty is used as it is.
# PYTHON    the Python to use, with PyTorch for the GPU; default: python3
#
# All other options are those of `python -m benchmarks.gpu`. `--device cpu` tries it without a GPU,
# on small networks. The report is printed at the end; progress goes to the standard error.
set -euo pipefail
started=$SECONDS
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
wheels="" site="" temporary=""
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --wheels | --site)
            [ $# -gt 1 ] || { echo "error: $1 needs a folder" >&2; exit 2; }
            [ "$1" = --wheels ] && wheels=$2 || site=$2
            shift
            ;;
        *) options+=("$1") ;;
    esac
    shift
done
if [ -n "$wheels" ]; then
    compgen -G "$wheels/*.whl" > /dev/null || { echo "error: $wheels: no wheels in it" >&2; exit 2; }
    if [ -z "$site" ]; then
        site=$(mktemp -d)
        temporary=$site
        trap 'rm -rf "$temporary"' EXIT
    fi
    if [ -z "$(ls -A "$site" 2> /dev/null)" ]; then
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
            --target "$site" "$wheels"/*.whl
    fi
fi
if [ -n "$site" ]; then
    # Processes that start in another folder need it, too.
    export PYTHONPATH="$(cd "$site" && pwd)${PYTHONPATH:+:$PYTHONPATH}"
fi
# Unpacking counts: 20 s of the 8 minutes are for starting and ending.
seconds=$((460 - (SECONDS - started)))
"$PYTHON" -m benchmarks.gpu --seconds "$seconds" ${options[@]+"${options[@]}"}
