#!/usr/bin/env bash
# What a CUDA device has to say, in under eight minutes and without a network: the GPU tests, QLoRA,
# log-probs and steps against stock TRL, estimated and measured memory. On a machine without a GPU
# it is a dry run on tiny shapes.
#
#     benchmarks/gpu.sh OUT [WHEELS] [SECONDS] [PART...]
#
# OUT gets results.md, results.json and a log per part. WHEELS (default .whl, see gpu_wheels.sh) is
# what the machine lacks; it is installed into a temporary folder, nothing else is touched. This
# checkout runs as it is: its entry points are written beside the wheels. SECONDS (default 460) is
# for all parts together; PARTs are beginnings of their titles, such as "Steps at 1B" (all by default).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT [WHEELS] [SECONDS] [PART...]}
wheels=${2:-.whl}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python=${PYTHON:-python3}

if compgen -G "$wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --disable-pip-version-check --root-user-action=ignore --target "$site" "$wheels"/*.whl
else
    echo "no wheels in $wheels: only what is installed will be used"
fi
"$python" - "$site" <<'END'
import pathlib, sys, tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
lines = []
for group, names in {"console_scripts": project["scripts"], **project["entry-points"]}.items():
    lines += [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
info = pathlib.Path(sys.argv[1], f"trl_deepseek-{project['version']}.dist-info")
info.mkdir()
(info / "entry_points.txt").write_text("\n".join(lines) + "\n")
(info / "METADATA").write_text(
    f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
)
END
export PYTHONPATH="$site:$PWD:$PWD/plugins" TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TRL_EXPERIMENTAL_SILENCE=1
"$python" -m benchmarks.gpu.run "$out" --seconds "${3:-460}" ${4:+--only "${@:4}"}
