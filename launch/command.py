"""How a command ends: what a user can mend is one line on standard error and exit status 2."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import absl.logging

from ssa_jax.train import Interrupted, TrainingDiverged

USER_ERROR = 2
INTERRUPTED = 130
DEBUG_VARIABLE = "SSA_JAX_DEBUG"  # set to anything: errors come with their traceback


def run(main: Callable[[list[str]], None], arguments: list[str]) -> NoReturn:
    """Run a command and exit."""
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        main(arguments)
    except (ValueError, OSError, TrainingDiverged) as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(f"error: {' '.join(_text(error).split())}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _text(error: Exception) -> str:
    """An error's message; an OSError's own says 'what: file'."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
