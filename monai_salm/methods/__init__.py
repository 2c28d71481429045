# SPDX-License-Identifier: Apache-2.0
"""How noise is made: SALM, its controls, and the methods of others, each from its published formula, to compare with.

The room lies below the pipeline, not in the evaluation, because ``protect`` makes a baseline's files as it makes all
others, and what is judged must come out of the same writer as what it is judged against.
"""
