"""The loop: batch after batch, read ahead, with its log, its checkpoints and its way to stop."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray

from tilezoo.errors import PretrainError
from tilezoo.pretrain.checkpoint import save_kept, save_last
from tilezoo.pretrain.distributed import add_up
from tilezoo.pretrain.knn_task import KnnTask
from tilezoo.pretrain.log import Entry, Log, draw_curves
from tilezoo.pretrain.setup import Training
from tilezoo.pretrain.trainer import Batch, Measures, Trainer
from tilezoo.progress import Advance

_AHEAD = 3  # batches read before they are needed
_LOOK_EVERY = 10  # steps; to look is to wait for the device
# A network that has collapsed stays so; what lasts this many looks is no passing state.
_PATIENCE = 20
_NO_SPREAD = 1e-3
_NO_CHOICE = 0.9999  # share of log K, the entropy of targets that are all alike


class NotFiniteError(PretrainError):
    """The training has left the numbers."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"step {step}: {what}; the last checkpoint is from before: lower lr (--set lr=…, "
            "another RUN) or take --precision fp32 or bf16"
        )


@dataclass
class Watch:
    """Looks at measures as they come.

    Attributes:
        out_dim: K, outputs of the head.
    """

    out_dim: int
    _alike: int = 0
    _even: int = 0

    def check(self, step: int, *, loss: float, entropy: float, spread: float) -> None:
        """Check one window's means.

        Raises:
            PretrainError: The loss is no number, or the teacher says the same of every tile.
        """
        if not math.isfinite(loss):
            raise NotFiniteError(step, f"the loss is {loss}")
        self._alike = self._alike + 1 if spread < _NO_SPREAD else 0
        self._even = self._even + 1 if entropy > _NO_CHOICE * math.log(self.out_dim) else 0
        if max(self._alike, self._even) >= _PATIENCE:
            sign = "gives every tile the same output" if self._alike else "has no preference at all"
            raise PretrainError(
                f"step {step}: collapsed, the teacher {sign} (spread {spread:.2g}, entropy "
                f"{entropy:.3f} of {math.log(self.out_dim):.3f}); start another RUN with a lower "
                "teacher_temp, a longer warmup_teacher_temp_epochs or a lower lr"
            )


@dataclass
class Stop:
    """Whether a signal asked the run to stop, and which."""

    asked: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGTERM (a spot instance is reclaimed) and Ctrl-C into a wish to stop after a step.

    Only the main thread receives signals; elsewhere the caller has to deal with them.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.asked = signal.Signals(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Means:
    """Means of a window of steps, over all processes."""

    loss: float
    entropy: float
    spread: float
    asked_to_stop: bool


@dataclass(kw_only=True)
class Loop:
    """All that a run is made of, put together.

    Attributes:
        training: What is trained, on what and how.
        trainer: Learns.
        log: Of the first process; None in the others.
        knn: Tiles for kNN accuracy; None for none.
        checkpoint_seconds: Between checkpoints of a run that goes on; 0 for one every step.
        stop: Looked at after every step.
        advance: Called with the number of tiles that are done.
    """

    training: Training
    trainer: Trainer
    log: Log | None
    knn: KnnTask | None
    checkpoint_seconds: float
    stop: Stop
    advance: Advance
    _window: list[Measures] = field(default_factory=list)
    _opened: float = 0.0
    _waited: float = 0.0
    _saved: float = 0.0

    def go(self, first_step: int, last_step: int) -> int:
        """Train from one step to another (exclusive); returns the steps that are done.

        Raises:
            PretrainError: The loss is no number, the teacher collapsed, or a checkpoint could not
                be written.
        """
        watch = Watch(self.training.recipe.out_dim)
        if first_step == 0 and self.training.recipe.knn_every_epochs:
            self.measure_knn(0)  # of random weights: where the curve starts
        self._opened = self._saved = time.monotonic()
        with Feed(self.training).batches(first_step, last_step) as batches:
            for batch in self._time_waits(batches):
                self._window.append(self.trainer.step(batch))
                done = batch.step + 1
                self.advance(self.training.recipe.batch_size)
                stopping = self._take_stock(done, watch, last=done == last_step)
                self._end_epoch(done)
                self._keep(done, now=stopping or done == last_step)
                if stopping:
                    return done
        return last_step

    def _time_waits(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def _take_stock(self, done: int, watch: Watch, *, last: bool) -> bool:
        """Every few steps average the measures of all processes and log them; returns whether to stop."""
        alone = self.training.world.backend is None
        due = done % _LOOK_EVERY == 0 or last
        if not due and not (alone and self.stop.asked):
            return False
        means = self._means()
        watch.check(done, loss=means.loss, entropy=means.entropy, spread=means.spread)
        self._write(done, means)
        return means.asked_to_stop

    def _means(self) -> _Means:
        """Mean of the window over its steps and all processes."""
        window = self._window
        measured = (
            torch.stack([getattr(measures, name) for measures in window]).mean()
            for name in ("loss", "entropy", "spread")
        )
        sums = list(measured)
        asked = torch.tensor(float(self.stop.asked is not None), device=sums[0].device)
        total = add_up(torch.stack([*sums, asked]), self.training.world) / self.training.world.size
        loss, entropy, spread, stop = total.tolist()
        return _Means(loss=loss, entropy=entropy, spread=spread, asked_to_stop=stop > 0)

    def _write(self, done: int, means: _Means) -> None:
        now = time.monotonic()
        seconds = max(now - self._opened, 1e-9)
        images = len(self._window) * self.training.recipe.batch_size
        schedules, step = self.training.schedules, done - 1  # of the window's last step
        if self.log is not None:
            entry = Entry(
                step=done,
                epoch=self._epoch(done),
                loss=means.loss,
                entropy=means.entropy,
                spread=means.spread,
                lr=float(schedules.lr[step]),
                weight_decay=float(schedules.weight_decay[step]),
                teacher_momentum=float(schedules.teacher_momentum[step]),
                teacher_temp=float(schedules.teacher_temp[step]),
                images_per_s=round(images / seconds, 2),
                data_wait=round(self._waited / seconds, 4),
            )
            self.log.write(entry)
        self._window.clear()
        self._opened, self._waited = now, 0.0

    def _epoch(self, done: int) -> float:
        return round(done / self.training.steps_per_epoch, 4)

    def _end_epoch(self, done: int) -> None:
        """Measure kNN accuracy and draw the curves, when an epoch is over."""
        epoch, rest = divmod(done, self.training.steps_per_epoch)
        if rest or self.log is None:
            return
        every = self.training.recipe.knn_every_epochs
        if self.knn is not None and every and epoch % every == 0:
            self.measure_knn(done)
        draw_curves(self.training.run, self.training.run.name)

    def measure_knn(self, done: int) -> None:
        """Write the teacher's kNN accuracy into the log."""
        if self.knn is not None and self.log is not None:
            accuracy = self.knn.accuracy(self.trainer.teacher.backbone, self.training.device)
            self.log.write(Entry(step=done, epoch=self._epoch(done), knn_accuracy=accuracy))

    def _keep(self, done: int, *, now: bool) -> None:
        """Write the checkpoints that are due."""
        if self.log is None:
            return
        epoch, rest = divmod(done, self.training.steps_per_epoch)
        due = time.monotonic() - self._saved >= self.checkpoint_seconds
        kept = rest == 0 and epoch % self.training.recipe.checkpoint_every_epochs == 0
        if not (due or now or kept):
            return
        if not self.trainer.is_finite():
            raise NotFiniteError(done, "a weight is NaN or infinite")
        self.log.sync()
        checkpoint = self.trainer.checkpoint(done)
        save_last(self.training.run, checkpoint)
        if kept:
            save_kept(
                self.training.run,
                checkpoint,
                epoch=epoch,
                keep=self.training.recipe.keep_checkpoints,
            )
        self._saved = time.monotonic()


class Feed:
    """Reads batches ahead of the training, in a thread."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._epoch = (-1, np.empty((0, 0), np.int64))

    @contextmanager
    def batches(self, first_step: int, last_step: int) -> Iterator[Iterator[Batch]]:
        """Yield the batches of steps `first_step` to `last_step` (exclusive)."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            begun: deque[Future[Batch]] = deque()
            try:
                yield self._ahead(reader, begun, range(first_step, last_step))
            finally:
                for future in begun:
                    future.cancel()

    def _ahead(
        self, reader: ThreadPoolExecutor, begun: deque[Future[Batch]], steps: range
    ) -> Iterator[Batch]:
        for step in steps:
            begun.append(reader.submit(self._read, step))
            if len(begun) > _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _read(self, step: int) -> Batch:
        training, world = self._training, self._training.world
        epoch, place = divmod(step, training.steps_per_epoch)
        share = training.recipe.batch_size // world.size
        rows = self._rows_of(epoch)[place][world.rank * share :][:share]
        pixels = torch.from_numpy(_widen(training.pack.read(rows)))
        if training.device.type == "cuda":  # a GPU fetches pinned memory by itself
            pixels = pixels.pin_memory()
        draw = training.maker.draw(epoch, rows, training.pack.size_px)
        return Batch(step=step, pixels=pixels, draw=draw)

    def _rows_of(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._training.order.epoch(epoch))
        return self._epoch[1]


def _widen(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Widen uint16, for which torch has few operations."""
    return pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels
