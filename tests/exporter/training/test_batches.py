"""What a step trains on."""

import torch
from headwise_exporter.training.batches import order, seed_batch, seed_step, steps_of_epoch


def test_every_image_is_in_one_batch_of_an_epoch() -> None:
    """In another order in each epoch and for each seed, and in the same for the same."""
    batches = order(10, 4, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(batches) == steps_of_epoch(10, 4)
    assert torch.cat(batches).sort().values.tolist() == list(range(10))
    first = torch.cat(batches)
    assert torch.equal(first, torch.cat(order(10, 4, seed=0, epoch=0)))
    assert not torch.equal(first, torch.cat(order(10, 4, seed=0, epoch=1)))
    assert not torch.equal(first, torch.cat(order(10, 4, seed=1, epoch=0)))


def test_one_process_draws_for_a_step_what_all_draw_for_its_batch() -> None:
    """And another step draws other numbers."""
    seed_step(3, 5)
    drawn = torch.rand(4)
    seed_batch(3, 5)
    assert torch.equal(torch.rand(4), drawn)
    seed_batch(3, 6)
    assert not torch.equal(torch.rand(4), drawn)
