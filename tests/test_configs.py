"""Every configuration builds what it describes, and every field has a reader."""

import ast
import importlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from configs import base
from input_pipeline.augment import Augmentation
from input_pipeline.preprocess import Slice
from launch import setup

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "base")
)
PRESETS = [(name,) for name in EXPERIMENTS] + [("covid_semiseg", "cpu")]


def load(name, *preset):
    return importlib.import_module(f"configs.{name}").get_config(*preset)


def field_names(config):
    """'group.field' of every field; 'field' of those without a group."""
    return {
        f"{group}.{name}" if name else group
        for group, value in config.to_dict().items()
        for name in (value if isinstance(value, dict) else [""])
    }


@pytest.mark.parametrize("preset", [("base",), *PRESETS], ids=":".join)
def test_a_configuration_is_locked_and_has_the_fields_of_base(preset):
    config = load(*preset)
    assert field_names(config) == field_names(base.get_config())
    with pytest.raises((AttributeError, KeyError)):
        config.train.epoch = 3
    with pytest.raises((AttributeError, KeyError)):
        config.trian = 3
    with pytest.raises(TypeError):
        config.train.epochs = "many"


@pytest.mark.parametrize("preset", PRESETS, ids=":".join)
def test_a_configuration_describes_real_objects(preset):
    config = load(*preset)
    model = setup.build_model(config)
    classes = 1 + len(setup.class_names(config))
    assert model.outputs == (1 if classes == 2 else classes)
    assert setup.preprocessing(config).image_size == config.data.image_size
    assert setup.augmentation(config) == Augmentation(**config.augment)
    schedule, _ = setup.optimizer(config, steps_per_epoch=10)
    updates = range(config.train.epochs * 10 // config.optim.accumulate_steps)
    rates = [float(schedule(n)) for n in (0, len(updates) // 2, len(updates) - 1)]
    assert max(rates) <= config.optim.learning_rate * (1 + 1e-6) and rates[1] > rates[2] > 0
    mask = np.repeat(np.arange(classes, dtype=np.uint8), 8)[None]  # as many pixels of each class
    losses = setup.loss_settings(config, [Slice(mask, mask, None, "a", "a", None)])
    assert losses.class_weight == (1.0,) * classes


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"covid_semiseg.py:gpu: expected 'paper' or 'cpu'"):
        load("covid_semiseg", "gpu")


def chains(source):
    """Dotted names that a file reads, 'config.data.name' for instance."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        parts = []
        while isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            found.add(".".join([node.id, *reversed(parts)]))
    return found


def read_by_launch():
    """Fields of the configuration that the code reads by name."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "launch").glob("*.py")]
    names = set().union(*(chains(source) for source in sources))
    return {name.removeprefix("config.") for name in names if name.startswith("config.")}


def test_every_field_is_read():
    assert "config.augment.to_dict" in chains((ROOT / "launch/setup.py").read_text("utf-8"))
    read_at_once = {f"augment.{field.name}" for field in fields(Augmentation)}
    unread = field_names(base.get_config()) - read_by_launch() - read_at_once
    assert unread == set()


def test_every_augmentation_setting_is_used():
    source = (ROOT / "input_pipeline/augment.py").read_text(encoding="utf-8")
    used = {name.split(".")[1] for name in chains(source) if name.startswith("settings.")}
    assert {field.name for field in fields(Augmentation)} <= used


def test_the_walk_tells_reading_from_writing():
    found = chains("config.a.b = config.c.d[config.e](f.g.h)")
    assert {"config.c.d", "config.e", "f.g.h"} <= found
    assert "config.a.b" not in found
