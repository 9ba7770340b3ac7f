#!/usr/bin/env bash
# `make release-check`: what a user gets from a release. Builds the sdist, the wheel from the sdist, installs the wheel
# with its dependencies in a new virtual environment, and runs it in a folder from which the checkout cannot be seen.
# Arguments: the Python with the build tools of the project (default: python3). Takes about four minutes.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
pip=(-m pip --disable-pip-version-check)

step "sdist, from the committed files alone"
mkdir "$work/source"
git -C "$root" archive HEAD | tar -x -C "$work/source"
(cd "$work/source" && "$python" -c 'from setuptools import build_meta; build_meta.build_sdist("../dist")' >"$work/log" 2>&1) \
  || { tail -20 "$work/log"; exit 1; }

step "wheel, from the sdist"
"$python" "${pip[@]}" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist" "$work"/dist/*.tar.gz
ls -l "$work/dist" | awk 'NR > 1 { printf "%7.1f MB  %s\n", $5 / 1e6, $9 }'

step "clean virtual environment"
"$python" -m venv "$work/venv"
bin=$work/venv/bin
"$bin/python" "${pip[@]}" install --quiet --require-hashes --no-deps --requirement "$root/constraints.txt"
"$bin/python" "${pip[@]}" install --quiet --constraint "$root/constraints-torch.txt" "$work"/dist/*.whl
"$bin/python" "${pip[@]}" check

step "the installed package"
mkdir "$work/user" && cd "$work/user"
"$bin/climax-hpc" --version
"$bin/python" - "$root" "$work" <<'PY'
import pathlib, sys
import climax_hpc
root, work = map(pathlib.Path, sys.argv[1:])
package = pathlib.Path(climax_hpc.__file__).resolve()
assert work.resolve() in package.parents, f"{package} is not in the new environment"
assert not any(root in (pathlib.Path(p).resolve(), *pathlib.Path(p).resolve().parents) for p in sys.path), sys.path
assert (package.parent / "py.typed").is_file(), "py.typed is not in the wheel"
PY

step "climax-hpc demo --quick true"
"$bin/climax-hpc" demo --quick true
test -s runs/demo/report.html

step "all well"
