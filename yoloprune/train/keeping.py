"""The mix-in that keeps Ultralytics' trainers honest: structure kept, runs gone on with exactly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch import distributed as dist
from ultralytics.utils import LOCAL_RANK, RANK
from ultralytics.utils.torch_utils import (
    strip_optimizer,
    torch_distributed_zero_first,
    unwrap_model,
)

from yoloprune.errors import TrainError
from yoloprune.files import held
from yoloprune.measure.handover import labelled, only_what_was_handed
from yoloprune.models.door import save
from yoloprune.models.marker import is_marked, mark
from yoloprune.train import exact
from yoloprune.train.classes import fit_classes
from yoloprune.train.sparsity import Sparsity
from yoloprune.train.voice import EpochLines
from yoloprune.train.zeros import KeptZeros


class StructureKeeping:
    """Trainer mix-in: trains a copy of the model it is given, whatever its channel counts.

    Stock Ultralytics rebuilds the network from ``model.yaml`` and copies the tensors that still
    fit, so that a slim model grows back. This one never rebuilds.

    A killed run goes on exactly, see :mod:`yoloprune.train.exact`, and runs that torchrun
    starts span machines.

    Attributes:
        sparsity: applied after each optimizer step, before the EMA takes the weights in.
        taught: parts of the training loss that a teacher gives; validation does not have them.
        wish: what was asked for beyond Ultralytics' settings, which a resume must not change.
        snapshots: epochs, from 1, after which the averaged model is kept.
        zeros: held after each optimizer step, and kept from its gradients.
        shown: called with the trainer, the inputs of each batch, and its number in the epoch.
        resumed_sparsity: what the sparsity of a resumed run starts from …
        resumed_zeros: … and which zeros it keeps.
        holds_norms: whether BatchNorms keep their statistics.
        last_step: number of the batch that the last optimizer step followed, from 0.
        final_metrics: of the best epoch's network, as Ultralytics measures them at last.
        lines: tell how each epoch went; None where Ultralytics does.
    """

    sparsity: Sparsity | None = None
    zeros: KeptZeros | None = None
    snapshots: tuple[int, ...] = ()
    taught: tuple[str, ...] = ()
    wish: str | None = None
    shown: Callable[[Any, Tensor, int], None] | None = None
    resumed_sparsity: dict[str, Any] | None = None
    resumed_zeros: dict[str, Any] | None = None
    holds_norms = False
    last_step = -1
    lines: EpochLines | None = None
    final_metrics: dict[str, float] | None = None
    _batches = 0
    _accumulate = 1
    _ahead = 0
    _state: dict[str, Any] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if RANK == -1:
            return
        # stock counts the devices of one machine, none of CPUs, and wants each one named
        self.world_size = int(os.environ["WORLD_SIZE"])
        trainer: Any = self
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if trainer.device.type == "cuda" and len(trainer.args.device.split(",")) < here:
            trainer.args.device = ",".join(map(str, range(here)))

    def check_resume(self, overrides: Any) -> None:
        """As stock, but a run's folder is where its checkpoint lies, if it was moved, too."""
        super().check_resume(overrides)  # type: ignore[misc]
        trainer: Any = self
        if trainer.resume:
            trainer.args.save_dir = str(Path(trainer.args.model).resolve().parent.parent)

    def get_model(
        self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> nn.Module:
        """A copy of ``weights``, adapted to the data set's classes where these differ.

        Raises:
            TrainError: there is no model to copy, only a description that it does not follow,
                or the data asks for outputs that the model does not have.
        """
        args: Any = self.args  # type: ignore[attr-defined]
        if not isinstance(weights, nn.Module):
            if is_marked(cfg):
                raise TrainError(
                    "pretrained=False: would build the model anew from its YAML, at full size. "
                    "Leave it out to train the slim model."
                )
            return super().get_model(cfg, weights, verbose)  # type: ignore[misc,no-any-return]
        if isinstance(args.pretrained, (str, Path)) and not self.resume:  # type: ignore[attr-defined]
            raise TrainError(
                f"pretrained={args.pretrained}: cannot be copied into a model whose structure is "
                "kept. Train that file itself."
            )
        return self._kept(weights)

    def _kept(self, weights: nn.Module) -> nn.Module:
        data: dict[str, Any] = self.data  # type: ignore[attr-defined]
        model: Any = fit_classes(weights, data["names"])
        shape = getattr(model.model[-1], "kpt_shape", None)
        if shape is not None and tuple(shape) != tuple(data.get("kpt_shape", shape)):
            raise TrainError(
                f"the model has keypoints of shape {list(shape)}, the data "
                f"{list(data['kpt_shape'])}, and only classes may differ."
            )
        model.criterion = None  # of earlier classes and settings
        if hasattr(model, "class_weights"):
            del model.class_weights
        mark(model)
        return cast(nn.Module, model)

    def run_callbacks(self, event: str) -> None:
        """As stock, after what an epoch and a batch need to be repeatable."""
        if event == "on_train_epoch_start":
            self._begin_epoch()
        elif event == "on_train_batch_start":
            self._batches += 1
        elif event == "on_train_epoch_end":
            self._settle()
        super().run_callbacks(event)  # type: ignore[misc]

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As stock, and the inputs are shown to who wants to see them."""
        done: dict[str, Any] = super().preprocess_batch(batch)  # type: ignore[misc]
        if self.shown is not None:
            trainer: Any = self
            at = self._batches - 1 - len(trainer.train_loader) * trainer.epoch
            self.shown(self, done["img"], at)
        return done

    def _model_train(self) -> None:
        """As stock, but BatchNorms may be held."""
        super()._model_train()  # type: ignore[misc]
        for module in self.model.modules() if self.holds_norms else ():  # type: ignore[attr-defined]
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _begin_epoch(self) -> None:
        trainer: Any = self
        self._batches = len(trainer.train_loader) * trainer.epoch
        if trainer.args.deterministic:
            exact.seed_epoch(trainer)
        if self._state is not None:  # the first epoch after a resume
            exact.restore_gradients(trainer, self._state)
            self.last_step = self._state["last_step"]
            self._ahead = self.last_step + 1
            self._state = None

    def _settle(self) -> None:
        """Let an epoch that ends on gathered gradients stand where its end asks sparsity to."""
        sparsity = self.sparsity
        if sparsity is None or not sparsity.done(self.progress):
            return
        if not sparsity.done(self._share(self.last_step + 1)):
            trainer: Any = self
            model = student_of(trainer.model)
            sparsity.step(model, trainer.optimizer, self.progress)
            if trainer.ema:
                sparsity.follow(model, student_of(trainer.ema.ema))

    @property
    def progress(self) -> float:
        """Share of all epochs that the present batch completes, in (0, 1]."""
        return self._share(self._batches)

    def _share(self, batches: int) -> float:
        trainer: Any = self
        return min(1.0, batches / max(len(trainer.train_loader) * int(trainer.epochs), 1))

    @property
    def gathering(self) -> bool:
        """Whether gradients wait for a step to come."""
        return self.last_step != self._batches - 1

    @property
    def accumulate(self) -> int:
        """Batches a step. Stock counts from 0 after a resume; ``_ahead`` makes up for it."""
        return self._accumulate + self._ahead

    @accumulate.setter
    def accumulate(self, batches: int) -> None:
        self._accumulate = batches

    def optimizer_step(self) -> None:
        """Step, then make sparse and hold zeros, then let the EMA follow."""
        self.last_step, self._ahead = self._batches - 1, 0
        if self.sparsity is None and self.zeros is None:
            super().optimizer_step()  # type: ignore[misc]
            return
        model = student_of(self.model)  # type: ignore[attr-defined]
        if self.zeros is not None:
            self.zeros.stop_gradients(model)
        ema, self.ema = self.ema, None  # type: ignore[has-type]
        super().optimizer_step()  # type: ignore[misc]
        self.ema = ema
        if self.sparsity is not None:
            self.sparsity.step(model, self.optimizer, self.progress)  # type: ignore[attr-defined]
        if self.zeros is not None:
            self.zeros.hold(model)
        if ema:
            ema.update(self.model)  # type: ignore[attr-defined]
            if self.sparsity is not None:
                self.sparsity.follow(model, student_of(ema.ema))
            if self.zeros is not None:
                self.zeros.hold(student_of(ema.ema))

    def validate(self) -> Any:
        """As stock, but before the sparsity stands there is no best epoch, and no stopping.

        Where there is nothing to measure on, every epoch is the best one so far.
        """
        trainer: Any = self
        if not labelled(trainer.data, "val"):
            return {}, None
        if self.sparsity is not None and not self.sparsity.done(trainer.epoch / trainer.epochs):
            trainer.best_fitness = None  # of an epoch that does not count any more
        metrics, fitness = super().validate()  # type: ignore[misc]
        if self.sparsity is not None and not self.sparsity.done(self.progress):
            trainer.stopper.best_fitness, trainer.stopper.best_epoch = 0.0, trainer.epoch + 1
        return metrics, fitness

    def label_loss_items(self, loss_items: Any = None, prefix: str = "train") -> Any:
        """As stock, but validation has no column for a teacher's loss, which it never fills."""
        items: Any = super().label_loss_items(loss_items, prefix)  # type: ignore[misc]
        if prefix != "val":
            return items
        left_out = {f"val/{name}" for name in self.taught}
        if isinstance(items, dict):
            return {name: value for name, value in items.items() if name not in left_out}
        return [name for name in items if name not in left_out]

    def plot_training_labels(self) -> None:
        """As stock, where there are labels."""
        if labelled(self.data, "train"):  # type: ignore[attr-defined]
            super().plot_training_labels()  # type: ignore[misc]

    def save_model(self) -> bool:
        """As stock, but a kill while it writes leaves the checkpoints of the epoch before."""
        trainer: Any = self
        with self._aside("new") as written:
            done: bool = super().save_model()  # type: ignore[misc]
        for new, target in written:
            if new.exists():
                new.replace(target)
        if trainer.epoch + 1 in self.snapshots:
            save(student_of(trainer.ema.ema), trainer.wdir / f"epoch{trainer.epoch + 1}")
        exact.write_state(trainer)
        return done

    def resume_training(self, ckpt: Any) -> None:
        """As stock, then exactly where the run was, if it left its state.

        The state is the authority: a kill may have left a checkpoint of the epoch after it.
        """
        trainer: Any = self
        self._state = exact.read_state(trainer.wdir) if ckpt and trainer.resume else None
        if self._state is None:
            super().resume_training(ckpt)  # type: ignore[misc]
            return
        super().resume_training({**ckpt, "epoch": self._state["epoch"]})  # type: ignore[misc]
        exact.apply_state(trainer, self._state)
        self.resumed_sparsity = self._state["sparsity"]
        self.resumed_zeros = self._state.get("zeros")

    def final_eval(self) -> None:
        """As stock, but a kill while checkpoints are stripped leaves them whole."""
        trainer: Any = self
        with self._aside("final") as written:
            with torch_distributed_zero_first(LOCAL_RANK):
                for new, target in written:
                    if RANK in {-1, 0} and target.exists():
                        shutil.copyfile(target, new)
            # stock validation takes every worker for one with a GPU
            if self._on_cpus or not labelled(trainer.data, "val"):
                for new, _ in written:
                    if RANK in {-1, 0} and new.exists():
                        strip_optimizer(new)
            else:
                super().final_eval()  # type: ignore[misc]
                self.final_metrics = dict(trainer.metrics)
        if RANK in {-1, 0}:
            for new, target in reversed(written):  # that last.pt is stripped says that all is
                if new.exists():
                    new.replace(target)

    @contextmanager
    def _aside(self, prefix: str) -> Iterator[list[tuple[Path, Path]]]:
        """Let stock code write its checkpoints elsewhere; gives pairs of there and here."""
        trainer: Any = self
        targets = trainer.last, trainer.best
        trainer.last, trainer.best = (path.with_name(f".{prefix}-{path.name}") for path in targets)
        written = [(trainer.last, targets[0]), (trainer.best, targets[1])]
        if RANK in {-1, 0}:
            for new, _ in written:
                new.unlink(missing_ok=True)  # a killed run's
        try:
            yield written
        finally:
            trainer.last, trainer.best = targets

    def train(self) -> None:
        """As stock, but a start on several devices leaves what lies in the folder alone.

        Its workers hold the folder, for they outlive a starter that is killed.
        """
        try:
            self._train()
        finally:
            if self.lines is not None:
                self.lines.close()

    def _train(self) -> None:
        trainer: Any = self
        if RANK != -1:
            with held(trainer.save_dir, alone=False), only_what_was_handed():
                super().train()  # type: ignore[misc]
            return
        if not (trainer.ddp and not trainer.resume):
            with only_what_was_handed():
                super().train()  # type: ignore[misc]
            return
        folder = trainer.save_dir
        trainer.save_dir = folder / ".ddp"  # which stock removes before it starts its workers
        trainer.save_dir.mkdir(parents=True, exist_ok=True)
        try:
            super().train()  # type: ignore[misc]
        finally:
            trainer.save_dir = folder

    @property
    def _on_cpus(self) -> bool:
        """Whether several processes train on CPUs, which stock Ultralytics does not offer."""
        return self.device.type == "cpu" and self.world_size > 1  # type: ignore[attr-defined]

    def _setup_ddp(self) -> None:
        if self._on_cpus:
            dist.init_process_group("gloo", rank=RANK, world_size=self.world_size)
        else:
            super()._setup_ddp()  # type: ignore[misc]

    def _setup_train(self) -> None:
        with _without_device_index() if self._on_cpus else nullcontext():
            super()._setup_train()  # type: ignore[misc]


def student_of(model: Any) -> nn.Module:
    """The network that is trained, without what is wrapped around it."""
    inner = unwrap_model(model)
    return cast(nn.Module, getattr(inner, "student_model", inner))


@contextmanager
def _without_device_index() -> Iterator[None]:
    """Let Ultralytics build its distributed model on CPUs, for which it still names an index."""
    stock = nn.parallel.DistributedDataParallel

    def build(module: nn.Module, device_ids: Any = None, **options: Any) -> nn.Module:
        return stock(module, **options)

    nn.parallel.DistributedDataParallel = build  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        nn.parallel.DistributedDataParallel = stock  # type: ignore[misc]
