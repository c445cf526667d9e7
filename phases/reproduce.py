"""The `reproduce` phase: from empty folders to the paper's experiments, step by step, and a page with the results.

Each step runs another phase, as a user would. Each row of the page can therefore be repeated alone with a command.
"""

import logging
import shutil

from ..utils import UserError, check_writable, count, locked, quiet_stderr
from .reproduction import ledger, plan, rows
from .reproduction.plan import Options
from .train import check_network


def run(options: Options) -> int:
    """Print the plan, follow it, and write the page with the results.

    Returns 0, or 1 if a step failed or the page cannot be written. If options, folders or the file of references are
    wrong, nothing is done.
    """
    check(options)
    references = rows.read_references(options.reference) if options.reference else []
    planned = plan.make_plan(options)
    print(plan.table(options, planned))
    if options.dry_run:
        return 0
    check_writable(options.folder)
    with quiet_stderr():
        from .reproduction import page, steps
    # TensorFlow warns about many networks in one process, as if one network were compiled again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with locked(options.folder / ".lock", f"is using {options.folder}"):
        outcomes = ledger.do_all(options, planned, steps.ACTIONS)
        report = page.Report(options, outcomes, references)
        print(f"\n{report.summary(shutil.get_terminal_size().columns)}")
        try:
            report.write()
            print(f"\nThe page with the pictures is {options.folder / 'README.md'}.")
        except OSError as error:  # The numbers were printed even so.
            print(f"error: the page cannot be written into {options.folder} ({error.strerror or error}).")
            return 1
    failed = [outcome for outcome in outcomes if outcome.reason]
    if failed:
        print(f"{count(len(failed), 'step')} of {len(outcomes)} failed; run the same command to try them again.")
    return 1 if failed else 0


def check(options: Options) -> None:
    """Check that the options fit together, and that each dataset has its own folder."""
    if not options.train and (options.context != "aspp" or options.seeds > 1):
        raise UserError("--context and --seeds only affect trainings: add --train.")
    if options.train:
        check_network(options.variant, options.context, options.init)
    if (options.path / "stimuli").is_dir() and len(options.names) > 1:
        raise UserError(
            f"{options.path} is the folder of one dataset, expected the folder that contains those of all of "
            f"{', '.join(options.names)}. Name it with -p."
        )
