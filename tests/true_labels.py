"""Train with the true labels of the unlabelled phantoms: the most that pseudo-labels could bring.

    python -m tests.true_labels OUT
    ssa-jax compare supervised=OUT/supervised true_labels=OUT/true_labels

Both networks are those of `ct_phantom_domains`, from fresh weights and with as many steps; half of
every batch of the second are unlabelled slices with their truth, strongly augmented as
pseudo-labelled ones are. Each is scored with its last checkpoint on the test slices, which are of
the labelled domain, and started again it goes on.
"""

import argparse
from functools import partial
from pathlib import Path

from configs import ct_phantom_domains
from ssa_jax.experiment import data, factory
from ssa_jax.experiment.evaluation import evaluate
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import start_variables, steps_of, train_on
from ssa_jax.experiment.workdir import save_settings

EPOCHS = 120
FIELDS = {
    "train.epochs": EPOCHS,
    "train.validate_every": EPOCHS // 2,
    "self_train.labelled_share": 0.5,
    "self_train.strong_intensity": 1.5,
}


def main() -> None:
    """Train both and score them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = Settings.from_config(ct_phantom_domains.get_config()).replace(
        FIELDS | {"seed": options.seed}
    )
    data.build_records(settings)
    for name in ("supervised", "true_labels"):
        workdir = options.out / name
        training, validation = data.training_slices(settings, workdir)
        truth = data.open_split(settings, "unlabelled_truth") if name == "true_labels" else ()
        train_on(
            settings,
            workdir,
            training,
            validation,
            others=truth,
            class_weight=factory.class_weight(settings, data.pixels_of(settings, training)),
            variables=start_variables(settings, quiet=False),
            commit=partial(save_settings, settings, workdir, {}),
            steps_per_epoch=steps_of(settings, len(training)),
            quiet=False,
        )
        out = workdir / "evaluation" / data.TEST
        scores = evaluate(
            {workdir: settings}, data.TEST, which="last", out=out, pictures=0, quiet=True
        )["standard"]["lesion"]["dsc"]
        print(f"{name}: test DSC {scores['mean']:.3f} [{scores['low']:.3f}, {scores['high']:.3f}]")


if __name__ == "__main__":
    main()
