# SPDX-License-Identifier: Apache-2.0
"""What surrogates and victims have in common: tasks, networks, samples, augmentation, and how they are trained."""
