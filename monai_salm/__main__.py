# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_salm`` is ``monai-salm``."""

from __future__ import annotations

from monai_salm.cli import main

if __name__ == "__main__":
    main()
