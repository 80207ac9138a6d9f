"""Every configuration builds what it describes, and every field has a reader."""

import ast
import importlib
import json
from dataclasses import FrozenInstanceError, asdict, fields

import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, semiseg_parts
from input_pipeline.augment import Augmentation
from input_pipeline.mixing import Mixing
from input_pipeline.slices import Slice
from launch import configuration, sweep
from ssa_jax.experiment import data, factory
from ssa_jax.experiment.rounds import check
from ssa_jax.experiment.settings import Settings
from ssa_jax.ops import tuning
from tests.support import ROOT

EXPERIMENTS = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "base")
)
PRESETS = [(name,) for name in EXPERIMENTS] + [
    ("covid_semiseg", "cpu"),
    ("covid_semiseg", "recommended"),
    ("covid_semiseg", "multiclass"),
    ("ct_phantom_domains", "multiclass"),
    ("semiseg_parts", "multiclass"),
    ("semiseg_parts", "gpu"),
]


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
    settings = Settings.from_config(config)
    model = factory.build_model(settings)
    classes = 1 + len(settings.class_names)
    assert model.outputs == (1 if classes == 2 else classes)
    assert factory.preprocessing(settings).image_size == config.data.image_size
    assert settings.augment == Augmentation(**config.augment)
    schedule, _ = factory.optimizer(settings, steps_per_epoch=10)
    updates = range(config.train.epochs * 10 // config.optim.accumulate_steps)
    rates = [float(schedule(n)) for n in (0, len(updates) // 2, len(updates) - 1)]
    assert max(rates) <= config.optim.learning_rate * (1 + 1e-6) and rates[1] > rates[2] > 0
    mask = np.repeat(np.arange(classes, dtype=np.uint8), 8)[None]  # as many pixels of each class
    pixels = data.pixels_of(settings, [Slice(mask, mask, None, "a", "a", None)])
    assert factory.class_weight(settings, pixels) == (1.0,) * classes


@pytest.mark.parametrize("preset", ["cpu", "multiclass", "gpu"])
def test_the_parts_of_semi_supervised_training_can_be_trained(preset):
    every = sweep.named(f"semiseg_parts:{preset}")
    changed = {
        name: configuration.read_settings(f"semiseg_parts:{preset}", every[name]) for name in every
    }
    for settings in changed.values():
        check(settings.replace({"train.batch_size": 64}))  # the tests have 8 devices
    flat = {name: settings.flat() for name, settings in changed.items()}
    # Without all parts it is the paper's loop but for eta, and no variant equals another.
    assert flat["paper"]["self_train.low_confidence"] == "background"
    assert flat["paper"]["self_train.eta"] == 0.95
    assert len({json.dumps(values, sort_keys=True) for values in flat.values()}) == len(flat)
    for part, values in semiseg_parts.PARTS.items():
        for field in values:
            assert flat["all"][field] != flat["paper"][field]
            assert flat[f"all but {part}"][field] == flat["paper"][field]
            assert flat[f"{part} alone"][field] == flat["all"][field]


def test_two_classes_are_told_apart_by_density_in_prediction_alone():
    settings = Settings.from_config(load("covid_semiseg", "multiclass"))
    assert factory.build_model(settings).density == (40.0, 0.5)
    assert factory.build_model(settings, "batch").density == (0.0, 0.0)
    assert factory.build_model(Settings.from_config(base.get_config())).density[0] == 0


def test_each_form_of_the_attention_loss_changes_it():
    named = sweep.named("semiseg_attention")
    read = [configuration.read_settings("semiseg_attention", fields) for fields in named.values()]
    assert len({(settings.attention, settings.model) for settings in read}) == len(named)
    assert len({settings.replace({"attention": None, "model": None}) for settings in read}) == 1


@pytest.mark.parametrize("preset", PRESETS, ids=":".join)
def test_settings_hold_every_field_and_come_back_from_json(preset):
    config = load(*preset)
    settings = Settings.from_config(config)
    assert settings.to_dict() == config.to_dict()
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert set(settings.flat()) == field_names(config)


def test_settings_are_frozen_and_replaced_by_dotted_names():
    settings = Settings.from_config(base.get_config())
    with pytest.raises(FrozenInstanceError):
        settings.train.epochs = 3
    changed = settings.replace({"train.epochs": 3, "train.batch_size": 4, "seed": 7})
    assert (changed.train.epochs, changed.train.batch_size, changed.seed) == (3, 4, 7)
    assert changed.replace({"train.epochs": 150, "train.batch_size": 8, "seed": 0}) == settings
    with pytest.raises(TypeError):
        settings.replace({"train.epoch": 3})


def test_a_stored_configuration_of_an_older_version_is_read():
    """Fields that it lacks keep their defaults; `self_train.move` is `slices_per_round`."""
    settings = Settings.from_config(base.get_config())
    stored = settings.to_dict()
    stored["self_train"]["move"] = 1 + stored["self_train"].pop("slices_per_round")
    del stored["eval"]["tolerance"]
    expected = settings.replace(
        {"self_train.slices_per_round": settings.self_train.slices_per_round + 1}
    )
    assert Settings.from_dict(stored) == expected
    stored["self_train"]["moved"] = 3
    with pytest.raises((KeyError, AttributeError), match="moved"):
        Settings.from_dict(stored)


def test_an_unknown_task_is_refused():
    config = base.get_config()
    config.data.task = "three"
    with pytest.raises(ValueError, match=r"data\.task is 'three'; expected one of"):
        Settings.from_config(config)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"covid_semiseg.py:gpu: expected one of .*'cpu'"):
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


def read_by_the_code():
    """Fields of the settings that the code reads by name, directly or by way of a group."""
    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("ssa_jax/experiment", "launch")
        for path in (ROOT / folder).rglob("*.py")
    ]
    groups = {field.name for field in fields(Settings)}
    names = set()
    for source in sources:
        for chain in chains(source):
            parts = chain.split(".")
            if parts[0] == "config":
                continue
            if "settings" in parts:
                parts = parts[parts.index("settings") + 1 :]
            # `data = settings.data` and then `data.name`: a local name of a group's.
            elif parts[0] not in groups:
                continue
            names.add(".".join(parts[:2]))
    return names


def test_every_field_is_read():
    read_at_once = {f"augment.{field.name}" for field in fields(Augmentation)}
    read_at_once |= {f"mixing.{field.name}" for field in fields(Mixing)}
    unread = field_names(base.get_config()) - read_by_the_code() - read_at_once
    assert unread == set()


def test_a_field_that_nobody_reads_is_seen():
    assert "train.nothing" not in read_by_the_code()
    assert {"train.epochs", "data.name", "self_train.eta", "seed"} <= read_by_the_code()


def test_every_augmentation_setting_is_used():
    source = (ROOT / "input_pipeline/augment.py").read_text(encoding="utf-8")
    used = {name.split(".")[1] for name in chains(source) if name.startswith("settings.")}
    assert {field.name for field in fields(Augmentation)} <= used


def test_the_walk_tells_reading_from_writing():
    found = chains("config.a.b = config.c.d[config.e](f.g.h)")
    assert {"config.c.d", "config.e", "f.g.h"} <= found
    assert "config.a.b" not in found


def test_the_learning_rate_grows_with_the_slices_of_an_update():
    settings = Settings.from_config(load("covid_semiseg", "cpu")).replace(
        {"optim.rate_for_batch": 8, "train.batch_size": 32, "optim.accumulate_steps": 2}
    )
    schedule, _ = factory.optimizer(settings, steps_per_epoch=100)
    assert float(schedule(settings.optim.warmup_epochs * 50)) == pytest.approx(8e-3)


@pytest.mark.parametrize(
    ("size", "groups"),
    [
        (0, None),
        (8, None),
        (2, ((0, 1), (2, 3), (4, 5), (6, 7))),
        (1, tuple((k,) for k in range(8))),
    ],
)
def test_devices_that_share_statistics(size, groups):
    settings = Settings.from_config(load("covid_semiseg", "cpu"))
    settings = settings.replace({"train.norm_devices": size, "train.batch_size": 8})
    assert factory.build_model(settings, "batch").axis_index_groups == groups
    assert factory.build_model(settings).axis_index_groups is None
    with pytest.raises(ValueError, match=r"train\.norm_devices is 3; expected 0"):
        factory.check(settings.replace({"train.norm_devices": 3}))


@pytest.mark.parametrize("parts", [0, 3, 4])
def test_parts_divide_a_device_s_share(parts):
    settings = Settings.from_config(load("covid_semiseg", "cpu"))
    two_each = settings.replace({"train.batch_size": 16, "train.microbatches": 2})
    assert factory.local_batch(two_each) == 16
    with pytest.raises(ValueError, match=rf"microbatches is {parts}; .* divides the 2 slices"):
        factory.check(two_each.replace({"train.microbatches": parts}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.consistency", True),
        ("self_train.labelled_share", 0.5),
        ("mixing.cutmix", 0.1),
        ("mixing.copy_paste", 0.1),
        ("mixing.amplitude", 0.1),
    ],
)
def test_the_host_augments_what_it_mixes(name, value):
    settings = Settings.from_config(load("covid_semiseg", "cpu"))
    settings = settings.replace({"train.batch_size": 16, "optim.average_decay": 0.9})
    settings = settings.replace({name: value})
    factory.check(settings)
    assert factory.augmentation_on_host(settings) == settings.augment
    assert factory.augmentation_on_device(settings) is None
    settings = settings.replace({"data.augment_on_device": True})
    with pytest.raises(ValueError, match=rf"augment_on_device is True with {name}={value}, .*or"):
        factory.check(settings)
    alone = settings.replace({name: type(value)()})
    factory.check(alone)
    assert factory.augmentation_on_host(alone) is None
    assert asdict(factory.augmentation_on_device(alone)) == asdict(settings.augment)


def test_what_a_tpu_trained_with_its_kernel_predicts_elsewhere_but_does_not_train(monkeypatch):
    settings = Settings.from_config(load("covid_semiseg", "cpu"))
    settings = settings.replace({"model.spatial_conv_impl": "pallas", "train.batch_size": 8})
    assert factory.build_model(settings).spatial_conv_implementation is None
    with pytest.raises(ValueError, match=r"'pallas' needs a TPU.*model\.spatial_conv_impl=auto"):
        factory.check(settings)
    monkeypatch.setitem(tuning.BY_BACKEND, "cpu", tuning.BY_BACKEND["tpu"])
    factory.check(settings)
    for axis in (None, "batch"):
        assert factory.build_model(settings, axis).spatial_conv_implementation == "pallas"


def test_bfloat16_is_computed_in_float32_where_it_is_slower(monkeypatch):
    settings = Settings.from_config(load("covid_semiseg", "cpu"))
    assert factory.dtype_note(settings) is None
    settings = settings.replace({"model.dtype": "bfloat16"})
    assert factory.build_model(settings).dtype == jnp.float32
    assert "computed in float32" in factory.dtype_note(settings)
    with tuning.compiling_for("tpu"):
        assert factory.build_model(settings).dtype == jnp.bfloat16
        assert factory.dtype_note(settings) is None
