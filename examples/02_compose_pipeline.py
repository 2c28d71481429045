# SPDX-License-Identifier: Apache-2.0
"""Put stored noise into a MONAI pipeline: images are protected as they are loaded, and no protected copy is kept on
disk.

Usage: python 02_compose_pipeline.py EXPORT OUT.work/noise
"""

from __future__ import annotations

import sys
from pathlib import Path

from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_salm.transforms import SALMProtectd


def main(source: Path, noise: Path) -> list[float]:
    """Load all images of a folder, protected, and give their means."""
    files = [{"image": str(path)} for path in sorted(source.rglob("*")) if path.is_file()]
    pipeline = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SALMProtectd("image", noise=noise)])
    dataset = CacheDataset(files, pipeline, progress=False)
    return [float(batch["image"].mean()) for batch in DataLoader(dataset, batch_size=1)]


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
