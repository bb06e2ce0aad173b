"""`sinkbench eval`: run models with methods on tasks."""

from sinkbench.cli import options
from sinkbench.cli.failure import resumable


def evaluate(
    model: options.Model = None,
    method: options.Methods = None,
    task: options.Tasks = None,
    assignments: options.Parameters = None,
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    no_share: options.NoShare = False,
    stage: options.Stage = None,
    config: options.Config = None,
    scale: options.Scale = "full",
    output: options.Output = None,
    data_dir: options.DataDir = None,
    fresh: options.Fresh = False,
) -> None:
    """Answer a task's questions with a model and a method, and score the answers.

    Several methods are answered together and share their images.

    The same command again resumes what was interrupted, retries failed samples and reuses what is finished.
    """
    from sinkbench import runner
    from sinkbench.cli.console import quiet_libraries
    from sinkbench.cli.merging import merged
    from sinkbench.cli.progress import ConsoleReporter
    from sinkbench.cli.tables import show_outcomes
    from sinkbench.errors import IncompleteError
    from sinkbench.spec import expand

    flags = {
        "model": model,
        "method": method,
        "task": task,
        "limit": limit,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "share_prefix": False if no_share else None,
        "stage": stage,
        "output": output,
        "data_dir": data_dir,
    }
    quiet_libraries()
    specs = expand(merged(config, flags, assignments or [], max_new_tokens, scale))
    with resumable(), ConsoleReporter() as reporter:
        outcomes = runner.run(specs, reporter=reporter, fresh=fresh)
    show_outcomes(outcomes)
    failed = [outcome for outcome in outcomes if outcome.n_failed]
    if failed:
        raise IncompleteError(
            f"{sum(outcome.n_failed for outcome in failed)} samples failed; for example {failed[0].first_failure()}",
            "Mend the cause and run the same command again: it retries the failed samples only.",
        )
    unjudged = [outcome for outcome in outcomes if outcome.n_unjudged]
    if unjudged:
        raise IncompleteError(
            f"{sum(outcome.n_unjudged for outcome in unjudged)} answers have no verdict and no score; for example "
            f"{unjudged[0].first_unjudged()}",
            "Run the same command again: it asks the judge about these only.",
        )
