"""PyTorch's weights become a workdir: the authors' numbers end to end; files that do not fit."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import ssa_jax
from configs import base
from launch import cli
from launch.import_torch import main
from ssa_jax.evaluation.inference import make_predict
from ssa_jax.experiment import factory, workdir
from ssa_jax.experiment import weights as weight_files
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.weights import import_weights, read_state_dict
from ssa_jax.models.torch_weights import torch_name
from tests.support import golden_numbers as golden

# ml_collections loads a configuration file by a way that Python will drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]


def settings_of(**model: str) -> Settings:
    config = base.get_config()
    config.model.update({"skip": "add", **model})
    return Settings.from_config(config)


@pytest.fixture(scope="module")
def state_dict() -> dict[str, np.ndarray]:
    return golden.state_dict()


def save(path: Path, entries: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **entries)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(entries, path)
    return path


def shapes(settings: Settings):
    return jax.eval_shape(lambda: factory.fresh_variables(settings))


@pytest.fixture
def zeros(monkeypatch):
    """Fresh variables are zeros, so that nothing is compiled."""
    fresh = factory.fresh_variables

    def made(settings):
        like = jax.eval_shape(lambda: fresh(settings))
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)

    monkeypatch.setattr(factory, "fresh_variables", made)


def run(capsys, *arguments: str | Path) -> tuple[int, str]:
    """Exit status and standard error of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), capsys.readouterr().err


def arguments(weights: Path, workdir: Path) -> list[str | Path]:
    config = Path(base.__file__)
    fields = ["--config.model.skip=add"]
    return ["--config", config, "--weights", weights, "--workdir", workdir, *fields]


def test_published_weights_predict_what_the_authors_network_predicts(tmp_path, state_dict):
    weights = save(tmp_path / "published.npz", {f"module.{k}": v for k, v in state_dict.items()})
    import_weights(settings_of(), weights, tmp_path / "work", "published")
    settings = workdir.load_settings(tmp_path / "work")
    assert settings == settings_of()
    variables, step = workdir.trained_variables(settings, tmp_path / "work", "best")
    assert step == 0
    theirs = golden.network()
    predict = make_predict(factory.build_model(settings), flip=False)(variables)
    prob = predict(golden.nhwc(theirs["x_nchw"])).prob
    assert golden.relative_error(prob[..., 1:], golden.nhwc(theirs["eval_prob"])) < 1e-4


def test_the_command_reads_safetensors(tmp_path, state_dict, capsys):
    weights = save(tmp_path / "w.safetensors", state_dict)
    status, errors = run(capsys, *arguments(weights, tmp_path / "work"))
    assert (status, errors) == (0, "")
    settings = workdir.load_settings(tmp_path / "work")
    variables, _ = workdir.trained_variables(settings, tmp_path / "work", "best")
    stem = state_dict["firstconv.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(variables["params"]["encoder"]["stem"]["kernel"], stem)
    names = [path.name for path in sorted((tmp_path / "work").iterdir())]
    assert names == ["checkpoints", "config.json", "training.json"]
    assert ssa_jax.load(tmp_path / "work").provenance.data == "imported from w.safetensors"


def test_pth_files_with_a_wrapped_state_dict(tmp_path, state_dict):
    torch = pytest.importorskip("torch")
    tensors = {f"module.{name}": torch.from_numpy(x) for name, x in state_dict.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "w.pth")
    read = read_state_dict(tmp_path / "w.pth")
    assert set(read) == set(state_dict)
    for name, array in read.items():
        np.testing.assert_array_equal(array, state_dict[name])


def test_pth_without_pytorch_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"w.pth: reading .pth needs PyTorch.*npz or .safetensors"):
        read_state_dict(tmp_path / "w.pth")


def torchvision_state_dict(settings: Settings) -> dict[str, np.ndarray]:
    """Random weights under torchvision's names, in its layout, with a stem for RGB."""
    rng = np.random.default_rng(0)
    entries = {"fc.weight": np.zeros((1000, 512)), "fc.bias": np.zeros(1000)}
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes(settings))[0]:
        name = torch_name(tuple(key.key for key in path[1:]), "torchvision")
        if name is not None:
            shape = leaf.shape if leaf.ndim == 1 else [leaf.shape[i] for i in (3, 2, 0, 1)]
            entries[name] = rng.standard_normal(shape).astype(np.float32)
    entries["conv1.weight"] = rng.standard_normal((64, 3, 7, 7)).astype(np.float32)
    entries["bn1.num_batches_tracked"] = np.zeros((), np.int64)
    return entries


def test_torchvision_fills_the_encoder_alone(tmp_path, zeros):
    settings = settings_of(encoder="torchvision", skip="concat")
    entries = torchvision_state_dict(settings)
    assert "layer1.0.downsample.0.weight" not in entries and "layer4.2.bn2.bias" in entries
    import_weights(settings, save(tmp_path / "r.npz", entries), tmp_path / "work", "torchvision")
    variables, _ = workdir.trained_variables(settings, tmp_path / "work", "best")
    params, stats = variables["params"], variables["batch_stats"]["encoder"]
    kernel = params["encoder"]["stage3_block2"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, entries["layer3.1.conv1.weight"].transpose(2, 3, 1, 0))
    variance = stats["stage2_block1"]["shortcut_norm"]["var"]
    np.testing.assert_array_equal(variance, entries["layer2.0.downsample.1.running_var"])
    stem = params["encoder"]["stem"]["kernel"]
    grey = entries["conv1.weight"].sum(axis=1).transpose(1, 2, 0)
    np.testing.assert_allclose(stem[:, :, 0], grey, rtol=1e-6)
    assert not stem[:, :, 1].any()
    rest = {name: value for name, value in params.items() if name != "encoder"}
    assert jax.tree.leaves(rest) and not any(x.any() for x in jax.tree.leaves(rest))


def test_entries_that_do_not_fit_are_listed_and_nothing_is_written(tmp_path, state_dict, capsys):
    entries = {**state_dict, "classifier.weight": np.zeros(3, np.float32)}
    del entries["finalconv2.bias"]
    entries["firstconv.0.weight"] = np.zeros((64, 3, 7, 7), np.float32)
    weights = save(tmp_path / "w.npz", entries)
    status, errors = run(capsys, *arguments(weights, tmp_path / "work"))
    *listed, last = errors.splitlines()
    assert status == 2
    assert listed == [
        "missing: finalconv2.bias",
        "extra: classifier.weight",
        "misshapen: firstconv.0.weight: got (64, 3, 7, 7), which does not fit (7, 7, 2, 64) here",
    ]
    assert last.startswith(f"error: {weights}: 1 missing, 1 extra, 1 misshapen (listed above)")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kind", ["missing", "extra", "misshapen"])
def test_one_entry_that_does_not_fit_is_enough(tmp_path, state_dict, kind, capsys):
    wrong = {"extra": ("head.weight", np.zeros(3)), "misshapen": ("finalconv2.bias", np.zeros(3))}
    entries = {**state_dict, **dict([wrong[kind]] if kind in wrong else [])}
    if kind == "missing":
        del entries["finalconv2.bias"]
    status, errors = run(capsys, *arguments(save(tmp_path / "w.npz", entries), tmp_path / "work"))
    assert status == 2 and errors.startswith(f"{kind}: ") and errors.count("\n") == 2
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
def test_a_truncated_file_is_one_line(tmp_path, name, capsys):
    whole = save(tmp_path / name, {"a": np.ones(100_000, np.float32)}).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    check_one_line(run(capsys, *arguments(tmp_path / name, tmp_path / "work")), "damaged")
    assert not (tmp_path / "work").exists()


def test_files_that_are_no_state_dict_are_one_line(tmp_path, capsys):
    np.savez(tmp_path / "words.npz", a=np.array(["one", "two"]))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(tmp_path / "nan.npz", a=np.array([1.0, np.nan]))
    (tmp_path / "weights.h5").write_bytes(b"anything")
    for name in ("words.npz", "objects.npz", "single.npz"):
        check_one_line(run(capsys, *arguments(tmp_path / name, tmp_path / "work")), "damaged")
    for name, text in (
        ("weights.h5", "the ending is '.h5'"),
        ("none.npz", "no such file"),
        ("nan.npz", "not finite"),
    ):
        check_one_line(run(capsys, *arguments(tmp_path / name, tmp_path / "work")), text)


def check_one_line(ended: tuple[int, str], text: str) -> None:
    status, errors = ended
    assert status == 2 and errors.startswith("error: ") and text in errors, errors
    assert errors.count("\n") == 1


def test_a_workdir_that_holds_a_network_stays(tmp_path, state_dict, capsys):
    workdir.save_settings(Settings.from_config(base.get_config()), tmp_path / "work")
    before = (tmp_path / "work" / "config.json").read_bytes()
    weights = save(tmp_path / "w.npz", state_dict)
    check_one_line(run(capsys, *arguments(weights, tmp_path / "work")), "is not empty")
    assert (tmp_path / "work" / "config.json").read_bytes() == before


def test_a_disk_that_refuses_leaves_nothing(tmp_path, state_dict, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_files.Checkpoints, "save_best", refuse)
    weights = save(tmp_path / "w.npz", state_dict)
    check_one_line(run(capsys, *arguments(weights, tmp_path / "work")), "No space left")
    assert not (tmp_path / "work").exists()
