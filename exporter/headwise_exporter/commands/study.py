"""Commands that try something on a finished run, for its reader alone (`stages.study`)."""

import json

from headwise_exporter.commands import console
from headwise_exporter.commands.options import (
    ConnectionRulesOption,
    FineTuningEpochsOption,
    ImagesOption,
    JsonOption,
    LayersOption,
    RunArgument,
    RunOption,
    SeedsOption,
    SetOption,
    SharesOption,
    SplitOption,
    SubsetLabelsOption,
    SubsetsOption,
    ThreadsOption,
    comparison_settings,
    split_name,
    subset_settings,
)
from headwise_exporter.commands.shared import clear_errors, say, set_threads
from headwise_exporter.stages.build import trained_dataset, trained_recipe
from headwise_exporter.stages.study import compare_stage, report_stage, run_comparison, run_subsets, subsets_stage
from headwise_exporter.studies.comparison import ComparisonSettings
from headwise_exporter.studies.subsets import SubsetSettings


def compare(
    run: RunOption,
    threads: ThreadsOption = None,
    share: SharesOption = None,
    by: ConnectionRulesOption = None,
    seeds: SeedsOption = ComparisonSettings.seeds,
    rule: LayersOption = None,
    images: ImagesOption = None,
    epochs: FineTuningEpochsOption = None,
    settings: SetOption = None,
    split: SplitOption = "validation",
    as_json: JsonOption = False,
) -> None:
    """Mask a run's dense model by ANDC and by each control, train shortly, and compare on the same images."""
    with clear_errors():
        set_threads(threads)
        data, recipe = trained_dataset(run, console.progress), trained_recipe(run, settings or ())
        compared = comparison_settings(recipe.prune, share, by, seeds, rule, images, epochs)
        say("compare", compare_stage(run, compared, recipe.training, split_name(split), data, console.progress))
        found = run_comparison(run)
        if as_json:
            print(json.dumps(found))
        else:
            console.out.print(console.comparison_table(found))


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
        set_threads(threads)
        data = trained_dataset(run, console.progress)
        settings = subset_settings(len(data.label_names), labels, count)
        say("subsets", subsets_stage(run, settings, split_name(split), data, console.progress))
        found = run_subsets(run)
        if as_json:
            print(json.dumps(found))
        else:
            console.out.print(console.subsets_table(found))


def report(run: RunArgument) -> None:
    """Write one page about a run: the paper's claims, what was found, and the figures."""
    with clear_errors():
        path, done = report_stage(run, trained_dataset(run, console.progress))
        say("report", done)
        console.out.print(f"report: {path}", highlight=False, soft_wrap=True)
