"""The parts of a run, their schedules, and that a run goes through them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from configs import DEMO
from jaxft.build import build
from jaxft.config import Config, ModelConfig, OptimConfig
from jaxft.course import Course, Part, plan_course
from jaxft.optim_config import STAGES, RegularConfig, ScheduleConfig, StagesConfig
from jaxft.paths import by_name
from test_step import CLASSES, WIDTH, pretrained, random_batch

LINEAR = ScheduleConfig(schedule="linear")


def course(freeze: str = "none", epochs: int = 6, schedule: ScheduleConfig | None = None, **stages) -> Course:
    config = Config(
        model=ModelConfig(freeze=freeze),
        epochs=epochs,
        batch_size=8,
        accumulate=2,
        stages=StagesConfig(**stages),
        schedule=schedule or ScheduleConfig(),
    )
    return plan_course(config, 100)  # 6.25 updates an epoch, the last of an epoch being partly of the next.


def factors(found: Course, *steps: int) -> list[float]:
    assert found.schedule is not None
    return [float(found.schedule(step)) for step in steps]


def test_a_run_is_one_part_unless_told_otherwise():
    assert course() == Course([Part(0)])
    found = course(epochs=3, schedule=LINEAR)
    assert found.parts == [Part(0)]
    np.testing.assert_allclose(factors(found, 0, 18, 19), [1, 1 / 19, 0], atol=1e-6)


def test_the_head_comes_first_and_each_part_has_its_schedule():
    found = course(head_epochs=2, schedule=LINEAR)
    assert found.parts == [Part(0, STAGES), Part(13, (), new_head=False)]
    np.testing.assert_allclose(factors(found, 0, 12, 13, 37), [1, 1 / 13, 1, 1 / 25], atol=1e-6)
    assert course("layer2", head_epochs=1).parts == [Part(0, ("layer3", "layer4")), Part(7, (), new_head=False)]


def test_stages_join_from_the_top():
    assert course(unfreeze_epochs=2).parts == [Part(0, STAGES[:4]), Part(13, STAGES[:3]), Part(25, STAGES[:2])]
    found = course("layer1", head_epochs=1, unfreeze_epochs=1, schedule=LINEAR)
    assert found.parts == [
        Part(0, ("layer2", "layer3", "layer4")),
        *(Part(step, waiting, new_head=False) for step, waiting in ((7, STAGES[2:4]), (13, STAGES[2:3]), (19, ()))),
    ]
    np.testing.assert_allclose(factors(found, 6, 7, 37), [1 / 7, 1, 1 / 31], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_goes_through_its_parts_with_one_state(optimizer):
    config = Config(
        model=ModelConfig(width=WIDTH),
        images=replace(DEMO.images, augment=("none",)),
        optim=OptimConfig(optimizer=optimizer, lr=0.01, clip_norm=1.0),
        regular=RegularConfig(ema=0.5),
        batch_size=16,
        devices=1,
    )
    parts = (Part(0, STAGES), Part(1, STAGES[:4], new_head=False), Part(2, (), new_head=False))
    run = build(config, CLASSES, pretrained(), course=Course(parts, lambda step: 1.0 / (1 + step)))
    state, moved = run.state, []
    for step in range(3):
        before = jax.device_get(state)
        state, _ = run.train_step_at(step)(state, run.put(random_batch()), run.key)
        changed = [
            {
                name.split("_")[0].split("/")[0]
                for name, leaf in by_name(part).items()
                if np.any(leaf != by_name(old)[name])
            }
            for part, old in zip(
                (jax.device_get(state.params), jax.device_get(state.batch_stats)),
                (before.params, before.batch_stats),
                strict=True,
            )
        ]
        moved.append(changed)
        assert jax.tree.structure(jax.device_get(state)) == jax.tree.structure(before)
    body = {"layer1", "layer2", "layer3", "layer4", "conv1", "bn1"}
    assert moved == [[{"fc"}, set()], [{"fc", "layer4"}, {"layer4"}], [{"fc", *body}, body - {"conv1"}]]
