"""A resumed training computes what the uninterrupted one would have, bit for bit on CPU.

For mmengine 0.10.7, which resumes weights, optimizer and schedules but not randomness: dropout, stochastic depth
and proposal sampling go on from a fresh seed, augmentations depend on how long each loading process has lived, an
unset seed gives the sampler another order, gradients accumulated so far are lost, and iteration-based training
loads every batch it has already seen only to throw it away.

What is done: nothing random depends on history any more. Before iteration ``i`` the generators are seeded from
``(seed, rank, i)``, before sample ``j`` of its batch from ``(seed, rank, i, j)``. So no generator state needs to be
saved, the checkpoints of any mmengine run will do, several processes need no exchange, the number of loading
processes does not change the result, and skipping data means skipping indices.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS
from mmengine.runner.loops import EpochBasedTrainLoop, IterBasedTrainLoop, _InfiniteDataloaderIterator
from torch.utils.data import BatchSampler, get_worker_info

_MODEL, _DATA = 0, 1
_GRADIENTS = 'accumulated_gradients'


def _seed_generators(*key: int, cuda: bool) -> None:
    """Seed Python, numpy and torch from ``key``; neighbouring keys give unrelated streams."""
    words = np.random.SeedSequence(key).generate_state(10)
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:8])
    seed = int(words[8]) << 32 | int(words[9])
    if cuda:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


class SeededBatch:
    """The indices of one batch; iterating over them seeds the generators before each.

    The loading process iterates over it where it would iterate over a list of indices.

    Args:
        indices: Indices into the dataset.
        key: What the batch is to be seeded from; the place in the batch is added.
    """

    def __init__(self, indices: Sequence[Any], key: tuple[int, ...]) -> None:
        self.indices = indices
        self.key = key

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        # Without loading processes the model draws from the same generators: leave them as they were.
        mine = get_worker_info() is None
        if mine:
            state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        for place, index in enumerate(self.indices):
            _seed_generators(*self.key, place, cuda=False)
            yield index
        if mine:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])


class SeededBatchSampler:
    """A batch sampler that knows the number of the iteration each batch is for.

    Args:
        batches: The batch sampler to wrap.
        seed: Seed of the run.
        rank: Rank of this process.
    """

    def __init__(self, batches: Any, seed: int, rank: int) -> None:
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.iteration = 0
        self._skipped: Iterator[Any] | None = None

    @property
    def sampler(self) -> Any:
        """The sampler of single indices, on which mmengine sets the epoch."""
        return self.batches.sampler

    def __len__(self) -> int:
        return len(self.batches)

    def skip(self, count: int) -> int:
        """Draw ``count`` batches of indices without loading them; returns how often the data ran out on the way."""
        epoch, batches = 0, iter(self.batches)
        for _ in range(count):
            if next(batches, None) is None:
                epoch += 1
                if hasattr(self.sampler, 'set_epoch'):
                    self.sampler.set_epoch(epoch)
                batches = iter(self.batches)
                next(batches)
        self._skipped = batches
        return epoch

    def __iter__(self) -> Iterator[SeededBatch]:
        batches, self._skipped = self._skipped or iter(self.batches), None
        for indices in batches:
            batch = SeededBatch(indices, (self.seed, self.rank, _DATA, self.iteration))
            self.iteration += 1
            yield batch


class _SkippingIterator(_InfiniteDataloaderIterator):
    """For mmengine's loop, which asks ``to_skip`` times for data it throws away: that data is not loaded."""

    def __init__(self, dataloader: Any, to_skip: int, epoch: int) -> None:
        super().__init__(dataloader)
        self._to_skip = to_skip
        self._epoch = epoch

    def __next__(self) -> Any:
        if self._to_skip:
            self._to_skip -= 1
            return []
        return super().__next__()


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Make every random number of a training a function of ``(seed, rank, iteration)``; see the module.

    ``tools/train.py`` adds it to every config. Transforms that keep state of their own between samples (mmdet's
    ``CachedMosaic``) stay inexact, and so do gradients accumulated over several processes.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._gradients: dict[str, torch.Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Give the loader its sampling anew, from the seed of the run that is resumed, and go to its place."""
        self._restore_gradients(runner)
        loop = runner.train_loop
        settings = runner.cfg.get('train_dataloader')
        if not isinstance(settings, dict) or not isinstance(settings.get('sampler'), dict):
            runner.logger.warning('ExactResumeHook: the train dataloader is not from a config, its order is left alone')
            return
        self._seed = runner.seed - (get_rank() if runner.cfg.get('randomness', {}).get('diff_rank_seed') else 0)
        sampling = self._sampling(settings, loop.dataloader)
        # DataLoader forbids to assign these after construction; building a second one would lose what other hooks
        # and the config set on this one, and nothing has been drawn from it that is kept.
        object.__setattr__(loop.dataloader, 'batch_sampler', sampling)
        if hasattr(loop.dataloader.sampler, 'set_epoch'):
            object.__setattr__(loop.dataloader, 'sampler', sampling.sampler)
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader._iterator = None  # persistent loading processes that have begun with the old order
            epoch = sampling.skip(runner.iter)
            sampling.iteration = runner.iter
            loop.dataloader_iterator = _SkippingIterator(loop.dataloader, to_skip=runner.iter, epoch=epoch)

    def _sampling(self, settings: dict[str, Any], loader: Any) -> SeededBatchSampler:
        """Sampler and batch sampler as ``Runner.build_dataloader`` builds them."""
        sampler = DATA_SAMPLERS.build(
            settings['sampler'].copy(), default_args={'dataset': loader.dataset, 'seed': self._seed}
        )
        if settings.get('batch_sampler') is None:
            batches = BatchSampler(sampler, loader.batch_size, loader.drop_last)
        else:
            batches = DATA_SAMPLERS.build(
                settings['batch_sampler'].copy(),
                default_args={'sampler': sampler, 'batch_size': settings['batch_size']},
            )
        return SeededBatchSampler(batches, self._seed, get_rank())

    def before_train_epoch(self, runner: Any) -> None:
        """Tell the sampling which iteration comes next."""
        sampling = runner.train_loop.dataloader.batch_sampler
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and isinstance(sampling, SeededBatchSampler):
            sampling.iteration = runner.iter

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the model draws in this iteration."""
        _seed_generators(runner.seed, get_rank(), _MODEL, runner.iter, cuda=True)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Save the gradients of an accumulation that is under way."""
        model = getattr(runner.model, 'module', runner.model)
        pending = {name: p.grad.detach().cpu() for name, p in model.named_parameters() if p.grad is not None}
        if pending and get_world_size() > 1:
            runner.logger.warning('checkpoint within an accumulation of gradients: a resume will differ a little')
        elif pending:
            checkpoint[_GRADIENTS] = pending

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take the accumulated gradients out of the checkpoint."""
        self._gradients = checkpoint.get(_GRADIENTS, {})

    def _restore_gradients(self, runner: Any) -> None:
        if runner.iter:  # weights loaded for another purpose start at 0
            for name, parameter in getattr(runner.model, 'module', runner.model).named_parameters():
                if name in self._gradients:
                    parameter.grad = self._gradients[name].to(parameter.device, parameter.dtype)
        self._gradients = {}
