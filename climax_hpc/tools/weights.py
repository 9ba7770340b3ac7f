"""`climax-hpc weights`: the trained weights in the package, which every command takes by their name."""

from climax_hpc.checkpoint import packaged
from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.config.training import NoConfig
from climax_hpc.utils.formatting import readable_size


def print_weights(_config: NoConfig) -> None:
    """Print name, size, training and model card of all weights in the package.

    Raises:
        UserError: weights in the package are damaged.
    """
    names = packaged.packaged_names()
    for name in names:
        print("\n".join(_lines(name, load_checkpoint(packaged.FOLDER / name / packaged.MODEL))))
    if not names:
        print("this version of climax_hpc has no weights in the package; docs/guides/weights.md says how to make them")


def _lines(name: str, weights: Checkpoint) -> list[str]:
    model, trained = weights.metadata.config, weights.metadata.training
    size = readable_size((packaged.FOLDER / name / packaged.MODEL).stat().st_size)
    parameters = sum(tensor.numel() for tensor in weights.weights.values())
    lines = [
        f"{size}, {parameters / 1e6:.2f} M parameters, output mode {model.output_mode}, grid "
        f"{model.height}×{model.width}, {len(model.variables)} variables",
    ]
    if trained:
        lines.append(
            f"{weights.metadata.step} steps on {', '.join(trained.sources or [])}, lead times "
            f"{trained.min_lead_hours:g} to {trained.max_lead_hours:g} h"
        )
    lines.append(str(packaged.FOLDER / name / packaged.CARD))
    return [f"{name if number == 0 else '':<14}{line}" for number, line in enumerate(lines)]
