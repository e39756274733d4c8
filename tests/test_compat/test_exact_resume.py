"""A resumed training against the uninterrupted one, on a toy model with every kind of randomness."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mmtrtvit.compat.exact_resume import SeededBatch, SeededBatchSampler
from tests.toy import NoisyNumbers, run, weights


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(('by_epoch', 'stop', 'first'), [(True, 6, 4), (False, 8, 6)])
def test_resumed_equals_uninterrupted(tmp_path: Path, by_epoch: bool, stop: int, first: int, workers: int) -> None:
    whole, whole_runner = run(tmp_path / 'whole', by_epoch=by_epoch, workers=workers)
    run(tmp_path / 'cut', by_epoch=by_epoch, workers=workers, stop=stop)
    rest, rest_runner = run(tmp_path / 'cut', by_epoch=by_epoch, workers=workers, resume=True)
    assert list(rest.losses) == list(range(first, 12))
    assert rest.losses == {i: whole.losses[i] for i in rest.losses}
    assert rest.data == {i: whole.data[i] for i in rest.data}
    assert weights(rest_runner) == weights(whole_runner)


def test_without_the_hook_mmengine_differs(tmp_path: Path) -> None:
    """The test above can fail: it does on mmengine alone."""
    whole, _ = run(tmp_path / 'whole', by_epoch=True, exact=False)
    run(tmp_path / 'cut', by_epoch=True, exact=False, stop=6)
    rest, _ = run(tmp_path / 'cut', by_epoch=True, exact=False, resume=True)
    assert rest.losses != {i: whole.losses[i] for i in rest.losses}


@pytest.mark.parametrize('by_epoch', [True, False])
def test_an_unset_seed_is_that_of_the_checkpoint(tmp_path: Path, by_epoch: bool) -> None:
    """Order of the data included, although the sampler is built before the checkpoint is read."""
    _, cut = run(tmp_path / 'cut', by_epoch=by_epoch, seed=None, stop=6)
    whole, _ = run(tmp_path / 'whole', by_epoch=by_epoch, seed=cut.seed)
    rest, _ = run(tmp_path / 'cut', by_epoch=by_epoch, seed=None, resume=True)
    assert rest.losses
    assert rest.losses == {i: whole.losses[i] for i in rest.losses}


def test_loading_processes_do_not_change_the_losses(tmp_path: Path) -> None:
    losses = [run(tmp_path / str(n), by_epoch=True, workers=n)[0].losses for n in (0, 1, 2)]
    assert losses[0] == losses[1] == losses[2]
    assert len(set(losses[0].values())) == 12


def test_skipped_data_is_not_loaded(tmp_path: Path) -> None:
    run(tmp_path, by_epoch=False, stop=8)
    _, runner = run(tmp_path, by_epoch=False, resume=True)
    assert runner.train_dataloader.dataset.drawn == 2 * 6


def test_iterations_over_a_finite_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine restarts a loader that runs out; the resumed run must be in the same epoch of it."""
    monkeypatch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=lambda seconds: None))
    loader = {'batch_size': 2, 'num_workers': 0, 'sampler': {'type': 'DefaultSampler', 'shuffle': True},
              'dataset': {'type': 'NoisyNumbers', 'size': 8}}  # fmt: skip
    whole, _ = run(tmp_path / 'whole', by_epoch=False, train_dataloader=loader)
    run(tmp_path / 'cut', by_epoch=False, train_dataloader=loader, stop=7)
    rest, _ = run(tmp_path / 'cut', by_epoch=False, train_dataloader=loader, resume=True)
    assert rest.data == {i: whole.data[i] for i in range(6, 12)}
    assert rest.losses == {i: whole.losses[i] for i in range(6, 12)}
    epochs = [sorted(s[0] for i in range(k, k + 4) for s in whole.data[i]) for k in (0, 4, 8)]
    assert epochs == [list(range(8))] * 3


def test_gradients_under_accumulation(tmp_path: Path) -> None:
    """A checkpoint every 3 iterations, a step every 4."""
    change = {'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 0.05}, 'accumulative_counts': 4}}
    whole, whole_runner = run(tmp_path / 'whole', by_epoch=False, **change)
    run(tmp_path / 'cut', by_epoch=False, stop=7, **change)
    rest, rest_runner = run(tmp_path / 'cut', by_epoch=False, resume=True, **change)
    assert rest.losses == {i: whole.losses[i] for i in range(6, 12)}
    assert weights(rest_runner) == weights(whole_runner)


def test_seeding_a_batch_leaves_the_generators_alone() -> None:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = [(index, random.random(), np.random.rand()) for index in SeededBatch([5, 7], (1, 2))]
    assert [index for index, *_ in drawn] == [5, 7]
    assert len({number for _, *numbers in drawn for number in numbers}) == 4
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_batch_survives_pickling_without_drawing() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    copy = pickle.loads(pickle.dumps(SeededBatch([5, 7], (1, 2))))
    assert random.random() == expected
    assert (len(copy), copy.indices, copy.key) == (2, [5, 7], (1, 2))


def test_pytorch_still_iterates_over_a_batch() -> None:
    """The one thing this leans on: the loader's fetcher iterates over what the batch sampler gives it."""
    data = NoisyNumbers()
    batches = SeededBatchSampler(BatchSampler(SequentialSampler(data), 2, False), seed=1, rank=0)
    first, second = (
        [batch['inputs'].tolist() for batch in DataLoader(data, batch_sampler=batches)] for batches.iteration in (0, 0)
    )
    assert first == second
    batches.iteration = 1
    assert first != [batch['inputs'].tolist() for batch in DataLoader(data, batch_sampler=batches)]
