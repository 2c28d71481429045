# SPDX-License-Identifier: Apache-2.0
"""Prove that two checkouts of the package write the same bytes; see ``__main__``."""
