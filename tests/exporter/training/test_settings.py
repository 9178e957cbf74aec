"""What a training depends on, and what fine-tuning takes over from it."""

from dataclasses import replace

from headwise_exporter.training.settings import TrainingSettings, fine_tuning_settings

SETTINGS = TrainingSettings(epochs=4, batch_size=32, average_decay=0.99)


def test_fine_tuning_is_the_recipe_with_fewer_epochs() -> None:
    """Everything but length, peak, warm-up, averaging and patience stays, and the batch where none is given."""
    short = fine_tuning_settings(replace(SETTINGS, patience_epochs=3), 2, 1e-4)
    assert short == replace(SETTINGS, epochs=2, learning_rate=1e-4, warm_up_epochs=0.2, average_decay=0.0)
    assert fine_tuning_settings(SETTINGS, 2, 1e-4, batch_size=3) == replace(short, batch_size=3)


def test_training_is_evaluated_twenty_times() -> None:
    """A patience of fewer epochs evaluates that often; a short training after every epoch."""
    assert replace(SETTINGS, epochs=280).evaluate_every() == 14
    assert replace(SETTINGS, epochs=280, patience_epochs=5).evaluate_every() == 5
    assert SETTINGS.evaluate_every() == 1
