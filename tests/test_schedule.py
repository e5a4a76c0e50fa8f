"""Schedules against closed forms and torch's, and what a run makes of them."""

import math

import numpy as np
import pytest
import torch

from jaxft.optim_config import ScheduleConfig
from jaxft.schedule import make_schedule

NUM, PER_EPOCH = 50, 12.5


def factors(**fields) -> np.ndarray:
    schedule = make_schedule(ScheduleConfig(**fields), NUM, PER_EPOCH)
    return np.array([float(schedule(t)) for t in range(NUM)])


def of_torch(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(NUM):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_shapes_are_their_closed_forms():
    done = np.arange(NUM) / NUM
    np.testing.assert_array_equal(factors(), 1)
    np.testing.assert_allclose(factors(schedule="linear"), 1 - done, atol=1e-6)
    np.testing.assert_allclose(factors(schedule="cosine"), (1 + np.cos(np.pi * done)) / 2, atol=1e-6)
    falls = [math.floor(t / (1.2 * PER_EPOCH)) for t in range(NUM)]
    np.testing.assert_allclose(factors(schedule="step", decay_epochs=1.2, decay_factor=0.5), 0.5 ** np.array(falls))


def test_shapes_are_torchs():
    cosine = of_torch(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM))
    np.testing.assert_allclose(factors(schedule="cosine"), cosine, atol=1e-6)
    step = of_torch(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 25, 0.1))
    np.testing.assert_allclose(factors(schedule="step", decay_epochs=2), step, atol=1e-6)
    cycle = of_torch(lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=NUM + 1))[:NUM]
    whole = of_torch(lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=NUM))
    np.testing.assert_allclose(factors(schedule="one-cycle"), whole, atol=1e-6)
    assert np.abs(factors(schedule="one-cycle") - cycle).max() > 1e-3


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "step"])
def test_a_warm_up_rises_in_equal_steps_and_the_rest_follows_the_shape(schedule):
    warm = factors(schedule=schedule, warmup_epochs=0.8)
    np.testing.assert_allclose(warm[:10], np.arange(1, 11) / 10, atol=1e-6)
    shape = make_schedule(ScheduleConfig(schedule=schedule), NUM - 10, PER_EPOCH)
    np.testing.assert_allclose(warm[10:], [float(shape(t)) for t in range(NUM - 10)], atol=1e-6)


def test_a_run_that_is_all_warm_up_only_rises():
    np.testing.assert_allclose(factors(schedule="cosine", warmup_epochs=9), np.arange(1, NUM + 1) / NUM, atol=1e-6)
