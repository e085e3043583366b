"""What a run can be told to train, by `training.task`.

Here stands what is known of a task without loading anything. What a task does is a table of
functions where it is done: its loss (`assembly.training`), its evaluation (`evaluation.report`) and
what is watched (`commands.monitor`). A test holds their keys equal to these.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      headline: the diagnostic of its loss that the progress bar shows.
      parts: parts of the parameters that it always trains.
      refuses: fields of another task's loss -> the one value that they may have.
      samples: whether the model can be sampled.
    """

    headline: str
    parts: tuple[str, ...]
    refuses: dict[str, float | str] = dataclasses.field(default_factory=dict)
    samples: bool = True

    @property
    def classifies(self) -> bool:
        """Whether a classifier is what it trains."""
        return "classifier" in self.parts


TASKS = {
    "denoiser": Task("denoising_loss", ("network", "log_variance")),
    "classifier": Task(
        "classifier_loss",
        ("classifier",),
        {
            "ngmg.weight": 0,
            "contrastive.weight": 0,
            "diffusion.preconditioning": "edm",
            "diffusion.weighting": "denoising",
            "training.target": "data",
            "training.rematerialize": False,
        },
        samples=False,
    ),
}
