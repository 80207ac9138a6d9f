"""Connected parts of a whole volume, found slice by slice.

A label volume takes four bytes per voxel, which for a scan is most of the memory there is. Here the
regions of each slice are found on their own and linked to those they overlap in the next slice.
"""

import numpy as np
from scipy import ndimage, sparse


class Components:
    """The parts of a mask that hang together through the faces of voxels.

    Attributes:
        count: of components.
        of_region: [regions] the component, 0..count-1, of each slice's regions. Regions are
            numbered through all slices, from 0.

    Args:
        mask: [slices, rows, columns], true inside. It is kept, not copied: `labels` looks at it
            again, so a caller may change a slice only after the last look at it.
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
        """Regions of one slice: [rows, columns] int64, 0 outside, else 1 + the region's number."""
        here, _ = self._label(index)
        here[here > 0] += self._first[index]
        return here

    def totals(self, per_region: np.ndarray) -> np.ndarray:
        """Sums of a number per region over each component, [count] float64."""
        return np.bincount(self.of_region, weights=per_region, minlength=self.count)

    def _label(self, index: int) -> tuple[np.ndarray, int]:
        here = np.zeros(self._mask.shape[1:], np.int64)
        return here, int(ndimage.label(self._mask[index], output=here))
