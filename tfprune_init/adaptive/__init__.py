"""Self-adaptive networks: modules decide for each example which channels are computed.

`tfprune_init.layers` has the layers; `insertion` puts them into a model: `adaptive_copy` builds it, `channel_flow` and
`decided_channels` follow what is closed, `cost_terms` says what that saves;
`stages` trains, `budget_schedule` lowers the budget, `example_costs` counts what each example costs.
"""

from tfprune_init.adaptive.budget_schedule import BudgetSchedule
from tfprune_init.adaptive.example_costs import AdaptiveCost, CostSummary, measure_adaptive_cost
from tfprune_init.adaptive.insertion import insert_saliency
from tfprune_init.adaptive.stages import AdaptiveStage, AdaptiveTraining, train_adaptively

__all__ = [
    "AdaptiveCost",
    "AdaptiveStage",
    "AdaptiveTraining",
    "BudgetSchedule",
    "CostSummary",
    "insert_saliency",
    "measure_adaptive_cost",
    "train_adaptively",
]
