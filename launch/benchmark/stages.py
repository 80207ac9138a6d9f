"""What `ssa-jax benchmark all` measures, as data: stages in the order in which they tell most."""

from collections.abc import Mapping
from typing import NamedTuple

ACCELERATOR, CPU, QUICK = "accelerator", "cpu", "quick"  # the kinds of run
RESUMABLE = ("compile_time", "spatial_conv", "train_step", "inference")  # have a flag --resume
ANEW = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


class Way(NamedTuple):
    """How a stage is measured in one kind of run.

    Attributes:
        arguments: of `ssa-jax benchmark`; '{data}' is a folder for data sets, shared by all stages.
        seconds: that it takes, about; on accelerators estimated, with a minute and a half for the
            first compilation of a training step, and in quick runs seen on one busy core.
        environment: variables that are set for it.
    """

    arguments: str
    seconds: float
    environment: Mapping[str, str] = {}


class Stage(NamedTuple):
    """A measurement: one process, which is ended when its time is over.

    Attributes:
        name: of its folder.
        answers: what one knows after it.
        ways: by kind of run; a stage without one is not for that kind.
    """

    name: str
    answers: str
    ways: Mapping[str, Way]


_PHANTOM = "--config ct_phantom --config.data.data_dir={data}"
_TINY = f"{_PHANTOM} --config.data.image_size=32 --config.model.stage_sizes=(1,1,1,1)"
_FORMS = "spatial_conv --forms custom_vjp scan unrolled --compile-rows --dtypes bfloat16 float32"

STAGES = (
    Stage(
        "ceilings",
        "what the machine reaches: large matmuls, a copy",
        {
            ACCELERATOR: Way("ceilings", 25),
            CPU: Way("ceilings", 15),
            QUICK: Way("ceilings --repeats 1", 15),
        },
    ),
    Stage(
        "compile_time",
        "how long each program of a small training compiles",
        {
            ACCELERATOR: Way("compile_time", 100, ANEW),
            CPU: Way("compile_time", 120, ANEW),
            QUICK: Way("compile_time --sizes 32 --batches 1", 150),
        },
    ),
    Stage(
        "compile_time_untuned",
        "the same without trying kernels out, which XLA does on GPUs",
        {
            ACCELERATOR: Way(
                "compile_time", 70, {**ANEW, "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
            ),
        },
    ),
    Stage(
        "train_step_256",
        "training step at 256 px beside PyTorch's",
        {
            ACCELERATOR: Way(
                "train_step --sizes 256 --batches 32 --dtypes bfloat16 --no-parts", 160
            ),
            CPU: Way("train_step --sizes 256 --batches 2 4 --no-parts --repeats 15", 420),
            QUICK: Way("train_step --sizes 32 --batches 1 --no-parts --repeats 1", 150),
        },
    ),
    Stage(
        "golden",
        "whether the device computes the authors' numbers",
        {
            ACCELERATOR: Way("golden", 60),
            CPU: Way("golden", 120),
            QUICK: Way("golden", 130),
        },
    ),
    Stage(
        "inference_256",
        "inference at 256 px beside PyTorch's",
        {
            ACCELERATOR: Way("inference --sizes 256 --batches 32 --dtypes bfloat16", 90),
            CPU: Way("inference --sizes 256 --batches 2 4 --repeats 11", 240),
            QUICK: Way("inference --sizes 32 --batches 1 --repeats 1", 60),
        },
    ),
    Stage(
        "spatial_conv",
        "the spatial convolution's forms, forward and backward, beside PyTorch's loop",
        {
            ACCELERATOR: Way(f"{_FORMS} --directions forward+backward --unrolls 8", 150),
            CPU: Way("spatial_conv --compile-rows --directions forward+backward --unrolls 1", 120),
            QUICK: Way(
                "spatial_conv --shapes 1x3x4 2x3x4 --channels 4 --kernels 3 --compile-rows "
                "--directions forward+backward --unrolls 1 --repeats 1",
                40,
            ),
        },
    ),
    Stage(
        "to_dsc",
        "time from nothing to a network that segments the phantoms",
        {
            ACCELERATOR: Way(f"to_dsc --dsc 0.5 {_PHANTOM}", 180),
            CPU: Way(f"to_dsc --dsc 0.5 {_PHANTOM}", 420),
            QUICK: Way(f"to_dsc --dsc 0 {_TINY}", 150),
        },
    ),
    Stage(
        "train_step_256_float32",
        "training step at 256 px in float32 beside PyTorch's",
        {ACCELERATOR: Way("train_step --sizes 256 --batches 32 --no-parts", 160)},
    ),
    Stage(
        "inference_256_float32",
        "inference at 256 px in float32 beside PyTorch's",
        {ACCELERATOR: Way("inference --sizes 256 --batches 32", 90)},
    ),
    Stage(
        "input",
        "whether slices come as fast as the step takes them",
        {
            ACCELERATOR: Way(
                f"input {_PHANTOM} --repeats 5 --config.data.image_size=256 "
                "--config.train.batch_size=32 --config.data.workers=8 "
                "--config.model.dtype=bfloat16",
                180,
            ),
            CPU: Way(f"input {_PHANTOM} --repeats 5", 240),
            QUICK: Way(f"input {_TINY} --repeats 1 --steps 2", 120),
        },
    ),
    Stage(
        "train_step_512",
        "training step at 512 px beside PyTorch's",
        {
            ACCELERATOR: Way(
                "train_step --sizes 512 --batches 8 --dtypes bfloat16 float32 --no-parts", 300
            ),
            CPU: Way("train_step --sizes 512 --batches 2 --no-parts --repeats 5", 420),
        },
    ),
    Stage(
        "inference_512",
        "inference at 512 px beside PyTorch's",
        {
            ACCELERATOR: Way("inference --sizes 512 --batches 8 --dtypes bfloat16 float32", 150),
            CPU: Way("inference --sizes 512 --batches 2 4 --repeats 11", 300),
        },
    ),
    Stage(
        "train_step_352",
        "training step at the paper's 352 px beside PyTorch's",
        {
            ACCELERATOR: Way(
                "train_step --sizes 352 --batches 16 --dtypes bfloat16 float32 --no-parts", 300
            ),
            CPU: Way("train_step --sizes 352 --batches 2 --no-parts --repeats 5", 420),
        },
    ),
    Stage(
        "inference_352",
        "inference at the paper's 352 px beside PyTorch's",
        {
            ACCELERATOR: Way("inference --sizes 352 --batches 16 --dtypes bfloat16 float32", 150),
            CPU: Way("inference --sizes 352 --batches 2 --repeats 5", 180),
        },
    ),
    Stage(
        "train_step_parts",
        "training step in small batches, and its parts",
        {
            ACCELERATOR: Way("train_step --sizes 256 --batches 4 8 --dtypes bfloat16", 400),
            CPU: Way("train_step --sizes 128 --batches 2 --repeats 5", 420),
        },
    ),
    Stage(
        "inference_batches",
        "inference in small and large batches",
        {
            ACCELERATOR: Way("inference --sizes 256 --batches 1 4 8 64 --dtypes bfloat16", 240),
            CPU: Way("inference --sizes 256 --batches 1 8 --repeats 5", 180),
        },
    ),
    Stage(
        "spatial_conv_forward",
        "the spatial convolution's forms, forward alone",
        {
            ACCELERATOR: Way(f"{_FORMS} --directions forward --unrolls 8", 120),
            CPU: Way("spatial_conv --compile-rows --directions forward --unrolls 1", 90),
        },
    ),
    Stage(
        "spatial_conv_unrolls",
        "how many slices an iteration the spatial convolution's scans should take",
        {
            ACCELERATOR: Way(
                "spatial_conv --forms custom_vjp scan --compile-rows --dtypes bfloat16 float32 "
                "--directions forward+backward --unrolls 1 4 8",
                180,
            ),
            CPU: Way("spatial_conv --compile-rows --directions forward+backward --unrolls 4", 120),
        },
    ),
)
