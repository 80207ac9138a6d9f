"""Find the connected components of a whole volume slice by slice.

A volume of labels takes four bytes per voxel, more than the scan itself. Here the regions of each
slice are labelled separately and linked to the regions of the next slice that they overlap.
"""

import numpy as np
from scipy import ndimage, sparse


class Components:
    """The connected components of a mask; voxels are connected through their faces.

    Attributes:
        count: number of components.
        of_region: `[regions]` the component (0 to count - 1) of each region of a slice. Regions
            are numbered from 0 through all slices.

    Args:
        mask: `[slices, rows, columns]`, true inside. It is not copied, and `labels` reads it again:
            change a slice only after the last call of `labels` for it.
    """

    def __init__(self, mask: np.ndarray) -> None:
        self._mask = mask
        self._first = np.zeros(len(mask) + 1, np.int64)
        links = [np.zeros((2, 0), np.int64)]
        below = np.zeros(mask.shape[1:], np.int64)
        for index in range(len(mask)):
            here, regions = self._label(index)
            self._first[index + 1] = self._first[index] + regions
            both = (below > 0) & (here > 0)
            pairs = np.unique(below[both] * np.int64(regions + 1) + here[both])
            lower, upper = np.divmod(pairs, regions + 1)
            links.append(
                np.stack([lower + self._first[max(index - 1, 0)], upper + self._first[index]]) - 1
            )
            below = here
        lower, upper = np.concatenate(links, axis=1)
        total = int(self._first[-1])
        graph = sparse.coo_array((np.ones(lower.size, bool), (lower, upper)), (total, total))
        self.count, self.of_region = sparse.csgraph.connected_components(graph, directed=False)

    def labels(self, index: int) -> np.ndarray:
        """Return the regions of one slice.

        Args:
            index: index of the slice.

        Returns:
            `[rows, columns]` int64: 0 outside the mask, else 1 + the number of the region.
        """
        here, _ = self._label(index)
        here[here > 0] += self._first[index]
        return here

    def totals(self, per_region: np.ndarray) -> np.ndarray:
        """Return the sum of a quantity over the regions of each component.

        Args:
            per_region: `[regions]` the quantity for each region.

        Returns:
            `[count]` float64.
        """
        return np.bincount(self.of_region, weights=per_region, minlength=self.count)

    def _label(self, index: int) -> tuple[np.ndarray, int]:
        """Return the regions of one slice, numbered from 1 in the slice, and their number."""
        here = np.zeros(self._mask.shape[1:], np.int64)
        return here, int(ndimage.label(self._mask[index], output=here))
