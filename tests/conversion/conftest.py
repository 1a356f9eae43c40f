"""What tests of conversions share: a model of the book, and ids."""

import pytest

from tests.conversion.conversions import book_model, random_ids


@pytest.fixture
def book():
    return book_model()


@pytest.fixture
def input_ids():
    return random_ids()
