# SPDX-License-Identifier: Apache-2.0
"""The program: its commands as one group, its logs, and one line where others show a traceback."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType

import click

from monai_salm.cli.bundle import bundle
from monai_salm.cli.demo import demo
from monai_salm.cli.evaluate import evaluate
from monai_salm.cli.exit_codes import EXIT_FAILED, EXIT_USAGE
from monai_salm.cli.keygen import keygen
from monai_salm.cli.plan import plan
from monai_salm.cli.printing import print_line
from monai_salm.cli.protect import protect
from monai_salm.cli.restore import rekey, restore
from monai_salm.cli.scan import scan
from monai_salm.cli.verify import verify
from monai_salm.errors import SalmError, UsageError
from monai_salm.pipeline.launching import alone
from monai_salm.progress import log_as


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("monai_salm"), prog_name="monai-salm")
@click.pass_context
def cli(context: click.Context) -> None:
    """Bounded, error-minimizing noise in DICOM and NIfTI files, for medical images that are to be looked at, but not
    trained on.
    """
    if context.invoked_subcommand not in (None, protect.name):
        alone(f"{context.info_name} {context.invoked_subcommand}")


for _command in (plan, protect, scan, verify, restore, keygen, rekey, evaluate, bundle, demo):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; a user never sees a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--quiet" in arguments:
        log_as("nothing")
        warnings.simplefilter("ignore")
    else:
        log_as("printable")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may have letters that the terminal's encoding lacks
    try:
        with _termination_interrupts():
            code = cli.main(arguments, standalone_mode=False, obj=arguments)
    except UsageError as error:
        code = _complain(str(error), EXIT_USAGE)
    except SalmError as error:
        code = _complain(str(error), EXIT_FAILED)
    except click.UsageError as error:
        if error.ctx is not None:
            for line in (*error.ctx.get_usage().splitlines(), f"Try '{error.ctx.command_path} --help' for help.", ""):
                print_line(line, err=True)
        code = _complain(error.format_message(), error.exit_code)
    except click.ClickException as error:
        code = _complain(error.format_message(), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        hint = (
            "; the same command with --resume goes on"
            if arguments[:1] in (["protect"], ["restore"])
            else "; the same command goes on"
            if "--state" in arguments
            else ""
        )
        code = _complain(f"stopped{hint}", EXIT_FAILED)
    except OSError as error:
        code = _complain(f"{error.filename or 'a file'}: {error.strerror or error}", EXIT_FAILED)
    except MemoryError:
        code = _complain("out of memory; give a smaller --working-size, or fewer --workers", EXIT_FAILED)
    except Exception as error:  # whatever it is, the user gets one line and can ask for the rest
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        code = _complain(
            f"unexpected {type(error).__name__}: {error}; please report it with the command that you gave", EXIT_FAILED
        )
    sys.exit(code or 0)


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Meet SIGTERM, which a scheduler sends, like Ctrl-C: what is written aside is removed, and locks are released."""
    if threading.current_thread() is not threading.main_thread():  # no other one can say what signals do
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(message: str, code: int) -> int:
    print_line(f"Error: {' '.join(message.splitlines())}", err=True)
    return code
