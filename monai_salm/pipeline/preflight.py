# SPDX-License-Identifier: Apache-2.0
"""What a run would find out only while it searches, found out before anything is written; a dry run and a scan promise
no more than it keeps.
"""

from __future__ import annotations

from monai_salm.errors import UsageError
from monai_salm.learning.networks import build_network
from monai_salm.learning.ranks import own_device
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.surrogate import load_surrogate
from monai_salm.methods.names import check_method
from monai_salm.methods.registry import find_method
from monai_salm.pipeline.deciding import Decision
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.loading import load_set
from monai_salm.pipeline.options import SURROGATE_SUFFIX, ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.search import check_fit, check_surrogate
from monai_salm.workers import Workers


def check_choices(options: ProtectOptions) -> None:
    """Find out before anything is read whether the device is there, and whether the surrogate is known and of use to
    the method.

    Raises:
        UsageError: it is not; the message says what is.
    """
    method, name = find_method(options.method, options.task), options.surrogate
    method.check(perturbed_fraction=options.perturbed_fraction, rounds=options.rounds)
    own_device(options.device)
    if name.endswith(SURROGATE_SUFFIX):
        if not method.takes_surrogate:
            raise UsageError(
                f"method {options.method!r} trains a surrogate of its own; give a network's name instead of {name}"
            )
        if options.gentle:
            raise UsageError(f"--gentle chooses the noise, which {name} has done already; leave out one of them")
        load_surrogate(name)
    elif name:
        try:
            build_network(name, spatial_dims=2, outputs=2, image_shape=(32, 32))
        except UsageError:
            build_network(name, spatial_dims=3, outputs=2, image_shape=(32, 32, 32))  # the samples decide which
    check_surrogate(options)


def preflight(
    inventory: Inventory, decision: Decision, options: ProtectOptions, workers: Workers, *, show_progress: bool = False
) -> tuple[ProtectionPlan, WorkingSet | None]:
    """Read all samples of a plan, and find out whether a search of their noise can be done; arguments and errors as of
    :func:`~monai_salm.pipeline.searching.preflight`.
    """
    loaded = load_set(inventory, decision, options, workers, show_progress=show_progress)
    if loaded.working is None:
        return loaded.plan, None
    check_method(options.method, options.task, loaded.working.spatial_dims)
    check_fit(loaded.working, loaded.plan, options)
    return loaded.plan, loaded.working
