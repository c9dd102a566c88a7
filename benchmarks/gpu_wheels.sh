#!/usr/bin/env bash
# Downloads into a folder (default .whl) what benchmarks/gpu.sh needs and a machine with torch,
# transformers and accelerate may lack, for Python 3.12 on x86-64 Linux. About 46 MB, of which
# bitsandbytes is 43.
#
#     benchmarks/gpu_wheels.sh [FOLDER] [PYTHON_VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.whl}
version=${2:-3.12}
names="trl datasets dill multiprocess bitsandbytes peft pluggy math-verify latex2sympy2_extended antlr4-python3-runtime"
pins=()
for name in $names; do pins+=("$(grep -i "^$name==" constraints.txt)"); done
rm -rf "$folder"
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version "$version" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest "$folder" "${pins[@]}"
du -sh "$folder"
