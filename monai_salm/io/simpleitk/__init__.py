# SPDX-License-Identifier: Apache-2.0
"""A process of its own for SimpleITK, which writes to standard error past every switch, and ends its process where a
file is too strange for it.
"""
