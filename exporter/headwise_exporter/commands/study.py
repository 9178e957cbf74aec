"""Commands that try something on a finished run, for its reader alone (`stages.study`).

Each imports what it does when it runs (`commands.app`).
"""

import json

from headwise_exporter.commands import console
from headwise_exporter.commands.options import (
    CompareLayersOption,
    CompareMaskByOption,
    JsonOption,
    PicturesOption,
    RunArgument,
    RunOption,
    SeedsOption,
    SetOption,
    SharesOption,
    SplitOption,
    SubsetLabelsOption,
    SubsetsOption,
    ThreadsOption,
)
from headwise_exporter.commands.shared import clear_errors, say, set_threads
from headwise_exporter.studies.settings import ComparisonSettings, SubsetSettings


def compare(
    run: RunOption,
    threads: ThreadsOption = None,
    share: SharesOption = None,
    mask_by: CompareMaskByOption = None,
    seeds: SeedsOption = ComparisonSettings.seeds,
    layers: CompareLayersOption = ComparisonSettings.layers,
    settings: SetOption = None,
    split: SplitOption = "validation",
    as_json: JsonOption = False,
) -> None:
    """Mask a run's dense model by ANDC and by each control, fine-tune, and compare on the same images.

    Fine-tuning is that of the recipe's pruning: --set prune.epochs=1 --set prune.images=10000 changes it.
    """
    with clear_errors():
        from headwise_exporter.commands.settings import comparison_settings, split_name
        from headwise_exporter.stages.run import run_comparison, trained_dataset, trained_recipe
        from headwise_exporter.stages.study import compare_stage

        set_threads(threads)
        data, recipe = trained_dataset(run, console.progress), trained_recipe(run, settings or ())
        compared = comparison_settings(recipe.prune, share, mask_by, seeds, layers)
        say("compare", compare_stage(run, compared, recipe.training, split_name(split), data, console.progress))
        comparison = run_comparison(run)
        if as_json:
            print(json.dumps(comparison))
        else:
            console.out.print(console.comparison_table(comparison))


def subsets(
    run: RunOption,
    threads: ThreadsOption = None,
    labels: SubsetLabelsOption = SubsetSettings.labels,
    count: SubsetsOption = SubsetSettings.subsets,
    split: SplitOption = "validation",
    as_json: JsonOption = False,
) -> None:
    """Remove the hidden nodes that random subsets of the labels need least, by the SNPs and by other criteria."""
    with clear_errors():
        from headwise_exporter.commands.settings import split_name, subset_settings
        from headwise_exporter.stages.run import run_subsets, trained_dataset
        from headwise_exporter.stages.study import subsets_stage

        set_threads(threads)
        data = trained_dataset(run, console.progress)
        settings = subset_settings(len(data.label_names), labels, count)
        say("subsets", subsets_stage(run, settings, split_name(split), data, console.progress))
        removal = run_subsets(run)
        if as_json:
            print(json.dumps(removal))
        else:
            console.out.print(console.subsets_table(removal))


def report(run: RunArgument, pictures: PicturesOption = None) -> None:
    """Write one page about a run: how good the model is and where it errs, what it knows, and the paper's claims."""
    with clear_errors():
        from headwise_exporter.stages.report import report_stage
        from headwise_exporter.stages.run import trained_dataset

        path, done = report_stage(
            run, lambda: trained_dataset(run, console.progress), console.progress, pictures=pictures
        )
        say("report", done)
        console.out.print(f"report: {path}", highlight=False, soft_wrap=True)
