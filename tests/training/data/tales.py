"""A corpus of tales and its preparation, for tests of what is found again."""

from configuration.data import DataConfig
from training.data.preparation import prepare_shards
from training.data.shards import TokenShards

TALES = [f"Tale {number}: one lamp, {number} ships and a letter that came home.\n" for number in range(60)]


def prepare(run: DataConfig, say=lambda line: None, **options) -> TokenShards:
    return prepare_shards(run, 400, window=8, say=say, **options)
