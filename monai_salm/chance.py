# SPDX-License-Identifier: Apache-2.0
"""One rule for chance: what is drawn for a sample depends on the seed, the sample and the round, and on nothing else;
not on which other samples there are, nor on the order of batches, nor on how many processes share the work.

A seed that somebody can guess gives away all that is drawn with it: where it is noise, whoever has the files and this
code draws it again and takes it off. So the seed of a run over files is :func:`secret_seed`.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np


def secret_seed(secret: bytes, seed: int) -> int:
    """Give the seed that only who knows a secret can find: the same for the same secret and seed.

    Args:
        secret: of a run; as long as a key should be.
        seed: that the user chose.

    Returns:
        A number of 128 bits, more than anybody can try. It is as secret as the secret: nothing leads back to that, but
        with it the noise can be drawn again.
    """
    return int.from_bytes(hmac.new(secret, f"monai_salm seed/{seed}".encode(), hashlib.sha256).digest()[:16], "little")


def torch_seed(seed: int) -> int:
    """Give what torch takes for a seed of any size: the seed itself if it has 63 bits, else as many of its digest."""
    if 0 <= seed < 1 << 63:
        return seed
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "little") >> 1


def sample_generator(seed: int, sample_id: str, round_number: int = 0, purpose: str = "") -> np.random.Generator:
    """Give the generator of a sample in a round; the same for the same arguments, and unlike that of any others.

    Args:
        seed: of the run; any integer, see :func:`secret_seed`.
        sample_id: identity of the sample; any text.
        round_number: of the search, or the epoch of a training.
        purpose: what is drawn, so that two kinds of draws of one round differ.
    """
    digest = hashlib.sha256(f"{seed}/{round_number}/{purpose}/{sample_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
