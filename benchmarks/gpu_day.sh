#!/usr/bin/env bash
# First contact with a GPU: correctness of every kernel, then speed. Usage: benchmarks/gpu_day.sh OUT SECONDS [OPTION...]
#
# Needs python3 with a CUDA build of torch, and triton; no network and no installation: where climax_hpc is not
# installed it is put together from this checkout. Dependencies of training are taken from the wheels in .whl/
# (make gpu-wheels) where they are missing, or from those in the folder $WHEELS. What this script takes counts towards SECONDS.
set -euo pipefail
since=$(date +%s)
[ $# -ge 2 ] || { echo "usage: $0 OUT SECONDS [--rehearsal] [--stages NAME...]" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "$0: there is no program $python; set PYTHON to one that has torch" >&2; exit 2; }
[[ "$python" != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
wheels=${WHEELS:-$root/.whl}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

has_all='import importlib.util as u; exit(not all(map(u.find_spec, ("deepspeed", "h5py", "jsonargparse", "cftime"))))'
if [ -z "${WHEELS:-}" ] && "$python" -c "$has_all" 2>/dev/null; then
  : # what training needs is installed
elif compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --target "$site" "$wheels"/*.whl || echo "wheels in $wheels do not install: stages that need them will fail" >&2
elif [ -n "${WHEELS:-}" ]; then
  echo "no wheels in $WHEELS: stages that need them will fail" >&2
fi
if ! (cd / && "$python" -c 'import climax_hpc') 2>/dev/null; then
  mkdir -p "$site/climax_hpc" "$site/climax_hpc-0.1.0.dist-info"
  ln -s "$root"/climax_hpc/* "$root"/{kernels,launch,data_prep,slurm} "$site/climax_hpc/"
  printf 'Metadata-Version: 2.1\nName: climax_hpc\nVersion: 0.1.0\n' >"$site/climax_hpc-0.1.0.dist-info/METADATA"
fi
cd "$root"
# PYTHONSAFEPATH: the folder climax_hpc/ of the checkout is only a part of the package and must not be found first.
export PYTHONSAFEPATH=1 PYTHONPATH="$site:$root${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m benchmarks.gpu_day "$out" "${@:2}" --since "$since" &
day=$!
# A batch system's signal goes to this script alone; the day then ends its stages and writes what it has.
trap 'kill -TERM $day 2>/dev/null || true' TERM INT HUP
status=0
wait $day || status=$?
while kill -0 $day 2>/dev/null; do wait $day || status=$?; done
exit $status
