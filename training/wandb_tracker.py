"""One run at Weights & Biases for a fold and seed, through accelerate's tracker.

Its id stays when the fold is resumed. Online the server says which epochs it has, offline wandb's
own files do, which `wandb sync` joins: epochs that are missing there are sent, others never again.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import WandBTracker
from numpy.typing import NDArray

from system.errors import InputError
from system.files import make_folder
from system.regular import open_regular
from training.tracked_fold import FINISHED, TrackedFold

PROJECT = "maxmvit-gmu"  # or WANDB_PROJECT
SECONDS = 60  # that a start, or the upload at the end, may take
FLUSH = 0.5  # seconds until what is logged is in the file: a kill loses no more
BLOCK = 32768  # bytes of a block of wandb's file
HEADER = 7  # bytes: of the file, and of each record in it
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds of records


def check_wandb() -> None:
    """Refuse a run that would have to ask for an API key.

    Raises:
        InputError: wandb is online and knows no key.
    """
    import wandb

    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    settings = wandb.setup().settings
    online = settings.mode in ("online", "shared", "run")
    if online and not wandb.login(prompt=False, verify=False):
        raise InputError(
            "run.trackers=wandb: wandb has no API key. Run `wandb login`, set WANDB_API_KEY, or "
            "keep its files here with WANDB_MODE=offline"
        )


class WandbRun:
    """The run of one fold.

    Args:
        fold: Names, id and hyperparameters.
    """

    name = "wandb"

    def __init__(self, fold: TrackedFold) -> None:
        self.fold = fold
        self._tracker: WandBTracker | None = None
        self._logged: set[int] = set()

    def start(self) -> None:
        """Begin the run, or resume it; find out which epochs it has."""
        if self._tracker is not None:
            return
        import wandb

        folder = Path(os.environ.get("WANDB_DIR") or self.fold.root)
        make_folder(folder)
        logged = offline_epochs(folder, self.fold.id)
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=SECONDS,
            finish_timeout=SECONDS,
            finish_timeout_raises=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,  # host, user and paths of this machine
            x_disable_machine_info=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=FLUSH,
        )
        tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT") or PROJECT,
            id=self.fold.id,
            name=self.fold.name,
            group=self.fold.group,
            resume="allow",
            dir=str(folder),
            settings=settings,
        )
        tracker.start()
        self._tracker = tracker
        tracker.store_init_configuration(dict(self.fold.hyperparameters))
        self._logged = logged if tracker.run.offline else set(range(1, tracker.run.step))

    def log_epoch(
        self,
        history: Sequence[Mapping[str, float]],
        confusion: NDArray | None,
        gate: NDArray | None,
        n_new: int = 1,
    ) -> None:
        """Send the epochs that the run lacks; the step is the epoch. It cannot replace any."""
        for row in history:
            epoch = int(row["epoch"])
            if epoch not in self._logged:
                values = {name: value for name, value in row.items() if name != "epoch"}
                self._open.log(values, step=epoch, commit=True)
                self._logged.add(epoch)

    def log_scores(self, scores: Mapping[str, float], step: int) -> None:
        """Write the scores of the finished fold into the run's summary."""
        self._open.run.summary.update(dict(scores))

    def end(self, status: str) -> None:
        """End the run, after what was logged is uploaded.

        Raises:
            TimeoutError: Not all could be uploaded; `wandb sync` can do it later.
        """
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        if status == FINISHED:
            tracker.finish()
        else:
            tracker.run.finish(exit_code=1)

    @property
    def _open(self) -> Any:
        if self._tracker is None:
            raise RuntimeError("the run was not started")
        return self._tracker


def offline_epochs(folder: Path, run_id: str) -> set[int]:
    """Return the steps in wandb's offline files of a run; remove files that a kill left empty.

    `wandb sync` refuses an empty one, and all others with it.

    Args:
        folder: WANDB_DIR.
        run_id: Id of the run.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    steps = set()
    for file in sorted(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        records = [Record.FromString(data) for data in read_records(file)]
        if not records:
            file.unlink()
        steps |= {r.history.step.num for r in records if r.WhichOneof("record_type") == "history"}
    return steps


def read_records(file: Path) -> Iterator[bytes]:
    """Yield the records of wandb's file up to its end, or to where a kill cut it off.

    Source: LevelDB's log format (blocks of 32 KiB; records of check sum, length, kind and data),
    behind a header of 7 bytes that counts in the first block.
    """
    with open_regular(file) as opened:
        data = opened.readall()
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block is too small for a record
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        part = data[place + HEADER : place + HEADER + length]
        if len(part) < length or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        place += HEADER + length
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            yield parts
