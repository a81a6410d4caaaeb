"""Which batches of a training run by compiled graphs, and what compiling has cost."""

from config.schema import Config
from data import TrainBatches
from models.compiled import Graphs
from training.gradient_cache import chunk_count


def training_graphs(config: Config, batches: TrainBatches, eval_size: int) -> Graphs:
    """Return the graphs of a training: of its batches' two sizes, and of evaluation.

    Args:
        config: Config of the run.
        batches: Batches of the training split, which are nearly equal in size.
        eval_size: Crops of an evaluation batch.
    """
    n, n_batches, at_once = batches.n_own, batches.n_batches, config.train.backbone_batch
    sizes = {n // n_batches, -(-n // n_batches)}
    if at_once is not None:
        sizes = {
            chunk
            for size in sizes
            for count in [chunk_count(size, at_once)]
            for chunk in (size // count, -(-size // count))
        }
    return Graphs(frozenset(sizes), eval_size, chunked=at_once is not None)
