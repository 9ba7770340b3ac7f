"""The drawings of the documentation: `python docs/tools/drawings.py` writes docs/images/*.svg, `--check` compares."""

import sys
from collections.abc import Callable
from pathlib import Path

from drawings_data import chain, data_flow, loading, packing, shard
from drawings_training import aggregation, checkpoint, projection, regional, requeue, sample_order
from svg import Drawing

IMAGES = Path(__file__).resolve().parents[1] / "images"

DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "chain": chain, "data-flow": data_flow, "sample-order": sample_order, "aggregation": aggregation,
    "loading": loading, "shard": shard, "checkpoint": checkpoint, "packing": packing, "regional": regional,
    "projection": projection, "requeue": requeue,
}  # fmt: skip


def main() -> int:
    """Write the files, or say which differ."""
    stale = []
    for name, draw in DRAWINGS.items():
        path, text = IMAGES / f"{name}.svg", draw().svg()
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"{', '.join(stale)}: run python docs/tools/drawings.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
