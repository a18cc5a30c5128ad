"""Training from the outputs of a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tfprune_init.errors import OptionError
from tfprune_init.training.distillation import check_outputs, check_settings, check_student, learn_from
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.events.train import Train
from tfprune_init.training.teachers import Teacher, identify_teacher, is_file, make_teacher

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class Distill(Event):
    """Train as `Train` does, on the model's own loss and on the softened outputs of a teacher, as `tpi.distill` says.

    The cost counts the forward pass of the teacher too.

    Args:
        teacher: A model; the path of a .keras file; or the name of a snapshot, whose weights the network of the run
            teaches with.
        until: As in `Train`.
        steps: As in `Train`.
        temperature: As in `tpi.distill`.
        weight: As in `tpi.distill`.
        watch: As in `Train`.
        learning_rate_scale: As in `Train`.

    Attributes:
        identity: Which teacher it was when the event was made: a hash of its weights, or the name of the snapshot.

    Raises:
        OptionError: If a value is out of range, or the teacher is none of these.

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531
    """

    teacher: Any = field(repr=False)
    until: int | None = None
    steps: int | None = None
    temperature: float = 4.0
    weight: float = 0.9
    watch: int | None = None
    learning_rate_scale: float = 1
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        check_settings(self.temperature, self.weight)
        self._make_training()
        object.__setattr__(self, "identity", identify_teacher(self.teacher))

    def outline(self, outline: RunOutline) -> None:
        """Count the steps; refuse a snapshot that nobody kept."""
        if self._is_snapshot:
            outline.check_snapshot(self.teacher)
        self._make_training().outline(outline)

    def check(self, run: ProcedureRun) -> None:
        """Refuse a student that has no logits, and a teacher that has others or has changed since."""
        check_student(run.model, run.feed)
        if not self._is_snapshot:
            check_outputs(run.model, self._find_teacher(run), run.feed)

    def apply(self, run: ProcedureRun) -> None:
        """Train, and count the teacher's passes."""
        teacher, start = self._find_teacher(run), run.state.step
        with learn_from(run.model, teacher, self.temperature, self.weight):
            self._make_training().apply(run)
        one = teacher.count_multiply_adds()
        examples = run.feed.count_examples(start, run.state.step)
        run.state.cost.add(multiply_adds=None if one is None else examples * one)

    @property
    def _is_snapshot(self) -> bool:
        return isinstance(self.teacher, str) and not is_file(self.teacher)

    def _make_training(self) -> Train:
        return Train(self.until, self.steps, self.watch, self.learning_rate_scale)

    def _find_teacher(self, run: ProcedureRun) -> Teacher:
        if self._is_snapshot:
            return make_teacher(run.list_snapshots()[self.teacher], run.model)
        if identify_teacher(self.teacher) != self.identity:
            raise OptionError("The teacher has changed since its Distill was made. Make the event of it as it is now.")
        return make_teacher(self.teacher, run.model)
