"""Filter a real image in tiles, in worker processes, without sending the image once per tile.

The image (a NASA portrait that scikit-image ships) is put into shared memory once; every
worker maps it. Each job cuts its tile out of it, with a border, and sends the filtered tile back.

    pip install "asyncjobs-runner[examples]"
    python examples/big_arrays.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage import data, filters

import asyncjobs as aj

TILE = 128
BORDER = 16
SIGMA = 3.0

Image = np.ndarray[Any, Any]
Corner = tuple[int, int]


def blurred_tile(image: Image, corner: Corner) -> Image:
    """The tile at `corner` of the blurred image, shape (TILE, TILE, 3)."""
    row, column = corner
    top, left = max(0, row - BORDER), max(0, column - BORDER)
    piece = image[top : row + TILE + BORDER, left : column + TILE + BORDER]
    whole: Image = filters.gaussian(piece, SIGMA, channel_axis=-1, truncate=BORDER / SIGMA)
    return whole[row - top : row - top + TILE, column - left : column - left + TILE]


async def main() -> None:
    image = data.astronaut() / 255.0
    corners = [(row, column) for row in range(0, image.shape[0], TILE) for column in range(0, image.shape[1], TILE)]
    result = np.empty_like(image)
    async with aj.Runner(processes=2) as runner, runner.share(image) as shared:
        jobs = runner.options(lane="process")
        tiles = [await jobs.submit(blurred_tile, shared.argument, corner) for corner in corners]
        for (row, column), tile in zip(corners, tiles, strict=True):
            result[row : row + TILE, column : column + TILE] = await tile
        memory = runner.stats().memory
    whole = filters.gaussian(image, SIGMA, channel_axis=-1, truncate=BORDER / SIGMA)
    print(f"{len(corners)} tiles of an image of {image.shape}, {image.nbytes / 2**20:.0f} MiB in memory once")
    print(f"shared: {memory.shared_nbytes / 2**20:.0f} MiB, sent through sockets instead: {memory.inlined}")
    print(f"the same as the whole image filtered at once: {np.allclose(result, whole)}")


aj.run(main())
