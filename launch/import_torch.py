"""Start from PyTorch weights: `ssa-jax import_torch --weights F --config C --workdir W`.

F is a state_dict: .npz or .safetensors (no PyTorch needed), or .pth/.pt (with PyTorch installed).
Layout 'published' is the authors' SSA-Net; it fits a configuration with model.skip='add'. Layout
'torchvision' is a ResNet34 for the encoder alone; it fits model.encoder='torchvision'.
The workdir then serves evaluate, predict and --config.train.init_from.
"""

import sys

from launch import cli, configuration
from ssa_jax.experiment.weights import PUBLISHED, import_weights
from ssa_jax.models.torch_weights import LAYOUTS


def main(arguments: list[str]) -> None:
    """Read the flags and import."""
    parser = cli.make_parser("import_torch", __doc__)
    parser.add_argument(
        "--weights", type=cli.local_path, required=True, help="file with the state_dict"
    )
    parser.add_argument(
        "--workdir", type=cli.local_path, required=True, help="folder to write, new or empty"
    )
    parser.add_argument("--layout", choices=LAYOUTS, default=PUBLISHED, help="whose names it uses")
    options, settings = configuration.parse_with_settings(parser, arguments)
    import_weights(settings, options.weights, options.workdir, options.layout)
    print(f"{options.workdir}: holds the weights of {options.weights}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
