"""One file of a user's into arrays; every defect of the file becomes one clear line.

8-bit pictures of slices and label masks (PNG, JPEG).
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L")
COLOUR_MODES = ("P", "RGB", "RGBA", "LA")
INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L")


def read_image(path: Path) -> np.ndarray:
    """Read an 8-bit grey picture of one slice.

    Colour files whose channels are equal count as grey.

    Args:
        path: PNG or JPEG.

    Returns:
        [H, W] uint8.

    Raises:
        ValueError: empty, truncated or no picture, coloured, transparent, or not 8 bits deep.
        OSError: the file cannot be opened.
    """
    picture = _open(path)
    if picture.mode in GREY_MODES:
        return np.asarray(picture.convert("L"))
    if picture.mode in COLOUR_MODES:
        return _equal_channels(picture, path)
    raise ValueError(
        f"{path}: pixels are {picture.mode!r}, expected an 8-bit grey picture; "
        f"save the slice as 8-bit grey with a lung window"
    )


def read_mask(path: Path, labels: Sequence[int]) -> np.ndarray:
    """Read a label mask.

    Pixels are class indices, palette indices (whatever the palette's colours) or, when `labels`
    are just 0 and 1, also 0 and 255.

    Args:
        path: PNG (JPEG blurs labels and is refused as soon as it did).
        labels: what the mask may hold, (0, 1) or (0, 1, 2).

    Returns:
        [H, W] uint8 class indices.

    Raises:
        ValueError: as `read_image`, or the mask holds other labels, which are listed.
        OSError: the file cannot be opened.
    """
    picture = _open(path)
    if picture.mode == "1":
        mask = np.asarray(picture, np.int64)
    elif picture.mode in ("L", "P", *INTEGER_MODES):
        mask = np.asarray(picture).astype(np.int64)
    elif picture.mode in COLOUR_MODES:
        mask = _equal_channels(picture, path).astype(np.int64)
    else:
        raise ValueError(f"{path}: pixels are {picture.mode!r}, expected class indices in a PNG")
    found = set(np.unique(mask).tolist())
    if set(labels) == {0, 1} and found <= {0, 255}:
        return (mask > 0).astype(np.uint8)
    stray = sorted(found - set(labels))
    if stray:
        listed = ", ".join(map(str, stray[:8])) + (", ..." if len(stray) > 8 else "")
        allowed = ", ".join(map(str, labels)) + (" (or 0 and 255)" if len(labels) == 2 else "")
        raise ValueError(
            f"{path}: mask holds labels {listed}, expected only {allowed}; "
            f"save it as a PNG of class indices"
        )
    return mask.astype(np.uint8)


def _open(path: Path) -> Image.Image:
    """Decode the whole picture, so that damage shows here and nowhere later."""
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            picture.load()
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path}: not a PNG or JPEG picture; convert or remove it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{path}: far too large for one CT slice; remove it") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged bytes
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: truncated or damaged ({reason}); copy or download it again"
        ) from None
    return picture


def _equal_channels(picture: Image.Image, path: Path) -> np.ndarray:
    """Grey values of a colour picture that shows no colour, [H, W] uint8."""
    colours = np.asarray(picture.convert("RGBA"))
    grey = colours[..., :1]
    if (colours[..., :3] != grey).any() or (colours[..., 3] != 255).any():
        raise ValueError(
            f"{path}: has colours or transparent pixels, expected a grey picture; "
            f"save it as 8-bit grey without annotations"
        )
    return grey[..., 0].copy()
