"""`climax-hpc plan`: what a run needs, or with `--goodput true` what failures cost it."""

from climax_hpc.tools.plan.config import PlanConfig
from climax_hpc.tools.plan.goodput_report import print_goodput
from climax_hpc.tools.plan.planner import plan


def plan_command(config: PlanConfig) -> None:
    """Print the plan, or the goodput.

    Raises:
        UserError: as `plan` and `print_goodput`.
    """
    if config.goodput:
        print_goodput(config)
    else:
        plan(config)
