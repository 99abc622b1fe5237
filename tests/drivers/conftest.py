"""Which of the drivers' tests are quick."""

import pytest
from contract import ReadingContract


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave moto's reading to the attacks: rclone is quicker, of the same driver."""
    for item in items:
        name = getattr(item, "originalname", "")
        if getattr(item.cls, "__name__", "") == "TestMoto" and name in vars(
            ReadingContract
        ):
            item.add_marker(pytest.mark.attack)
