# SPDX-License-Identifier: MIT
"""How the wheel is laid out: the one file is a package there, its drivers inside."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = {
    "modelkit_assets.py": "modelkit_assets/__init__.py",
    ".wheel/__main__.py": "modelkit_assets/__main__.py",
    ".wheel/py.typed": "modelkit_assets/py.typed",
}


class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        if version != "editable":  # which finds all where it lies, and copies nothing
            drivers = Path(self.root, "drivers").glob("*.py")  # not its README.md
            own = {
                f"drivers/{one.name}": f"modelkit_assets/drivers/{one.name}"
                for one in drivers
            }
            build_data["force_include"].update({**PACKAGE, **own})
