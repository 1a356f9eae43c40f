"""Corpora of a folder, opened as a recipe would."""

from configuration.data import DataConfig
from training.data.sources import open_corpus


def opened(corpus, **fields):
    return open_corpus(DataConfig(corpus=str(corpus), **fields))


def texts(folder, text_field="text") -> list[str]:
    return ["".join(document.pieces()) for document in opened(folder, text_field=text_field).documents()]
