"""climax_hpc.plan.measure with DeepSpeed's reduction bucket set, or it hides everything else; for torchrun.

Usage: measure_small_buckets.py BUCKET_ELEMENTS JSON, or in process through `small_buckets`.
"""

import sys
from collections.abc import Callable
from typing import Any

from climax_hpc import engine
from climax_hpc.plan import measure


def small_buckets(config_of: Callable[..., dict[str, Any]], elements: int) -> Callable[..., dict[str, Any]]:
    """The engine's own settings, but for the bucket."""

    def changed(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        settings = config_of(*arguments, **keywords)
        settings["zero_optimization"]["reduce_bucket_size"] = elements
        return settings

    return changed


if __name__ == "__main__":
    engine.deepspeed_config = small_buckets(engine.deepspeed_config, int(sys.argv.pop(1)))
    measure.main()
