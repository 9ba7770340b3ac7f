#!/usr/bin/env bash
# First contact with a GPU: correctness of every kernel, then speed. Usage: benchmarks/gpu_day.sh OUT SECONDS [OPTION...]
#
# Needs python3 with a CUDA build of torch, and triton; no network and no installation: where climax_hpc is not
# installed it is put together from this checkout. Wheels of missing dependencies of training are taken from $WHEELS.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 OUT SECONDS [--rehearsal] [--stages NAME...]" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

if compgen -G "${WHEELS:-/nonexistent}/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl ||
    echo "wheels in $WHEELS do not install: stages that need them will fail" >&2
fi
if ! (cd / && "$python" -c 'import climax_hpc') 2>/dev/null; then
  mkdir "$site/climax_hpc" "$site/climax_hpc-0.1.0.dist-info"
  ln -s "$root"/climax_hpc/* "$root"/{kernels,launch,data_prep,slurm} "$site/climax_hpc/"
  printf 'Metadata-Version: 2.1\nName: climax_hpc\nVersion: 0.1.0\n' >"$site/climax_hpc-0.1.0.dist-info/METADATA"
fi
cd "$root"
# PYTHONSAFEPATH: the folder climax_hpc/ of the checkout is only a part of the package and must not be found first.
PYTHONSAFEPATH=1 PYTHONPATH="$site:$root${PYTHONPATH:+:$PYTHONPATH}" "$python" -m benchmarks.gpu_day "$out" "${@:2}"
