# SPDX-License-Identifier: MIT
"""How the wheel is laid out: the one file is a package there, its drivers inside."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = {
    "modelkit_assets.py": "modelkit_assets/__init__.py",
    "drivers": "modelkit_assets/drivers",
    ".wheel/__main__.py": "modelkit_assets/__main__.py",
    ".wheel/py.typed": "modelkit_assets/py.typed",
}


class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        if version != "editable":  # which finds all where it lies, and copies nothing
            build_data["force_include"].update(PACKAGE)
