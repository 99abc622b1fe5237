"""Break each guarantee's key line in a copy, and expect its tests to go red.

    python tests/break_guarantees.py [WORD...]

Not collected: a suite that stays green over a broken product is what this looks for.
A word picks the guarantees whose names hold it. That the tests are green where nothing
is broken is for the suite to show, before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("modelkit_assets.py", "drivers", "tests", "README.md", "pyproject.toml")


class Guarantee(NamedTuple):
    """What is promised, the line that keeps it, what breaks that, what attacks it."""

    name: str
    line: str
    broken: str
    tests: tuple[str, ...]
    file: str = "modelkit_assets.py"


GUARANTEES = (
    Guarantee(
        "the order of marker and rename, of a file",
        "        self.mark(path, data, marker, manifest, folder, job)  # 6\n"
        "        return _swap_in(data, path, old)  # 7",
        "        before = _swap_in(data, path, old)  # 7\n"
        "        if not manifest.is_directory:\n"
        "            self.mark(path, data, marker, manifest, folder, job)  # 6\n"
        "        return before",
        (
            "tests/guarantees/test_crashes.py",
            "-k",
            "killed_fetch and file and not folder",
        ),
    ),
    Guarantee(
        "the order of marker and rename, of a folder",
        "            marker = os.path.join(data, "
        "_PARTIAL_MARKER if is_partial else _MARKER)\n",
        "            os.makedirs(path, exist_ok=True)\n"
        "            marker = os.path.join(path, _MARKER)\n",
        ("tests/guarantees/test_crashes.py", "-k", "killed_fetch and cold_folder"),
    ),
    Guarantee(
        "staging: nothing is visible before it is whole",
        '                data = os.path.join(folder, "data")\n'
        "                brought =",
        "                data = path\n                brought =",
        ("tests/guarantees/test_crashes.py", "-k", "killed_fetch and cold"),
    ),
    Guarantee(
        "the digest check",
        "        return right and self.size == self.piece.size",
        "        return self.size == self.piece.size",
        ("tests/store/test_round_trips.py", "-k", "wrong_byte", "-m", "not server"),
    ),
    Guarantee(
        "the digest check of what a killed fetch left",
        "                right = piece.sha256 == _hash(chunks, job.advance)\n",
        "                right = bool(_hash(chunks, job.advance))\n",
        ("tests/guarantees/test_crashes.py", "-k", "spoilt or adopted"),
    ),
    Guarantee(
        "the compare-and-swap of the commit",
        "object_name, if_match=etag)",
        "object_name, if_match=None)",
        (
            "tests/guarantees/test_concurrency.py",
            "-k",
            "overtakes_another_at_any_request",
        ),
    ),
    Guarantee(
        "the claim of a version",
        '            self._driver.write_object(data, object_name, if_match="")\n'
        "        except FileExistsError:",
        "            self._driver.write_object(data, object_name, if_match=None)\n"
        "        except FileExistsError:",
        (
            "tests/guarantees/test_concurrency.py",
            "-k",
            "overtakes_another_at_any_request",
        ),
    ),
    Guarantee(
        "the commit comes after the data",
        "                self._upload(source, version, is_begun)  # 3\n",
        "                is_new = not self._listed\n"
        "                self._store._commit(self._spec, version, is_new)\n"
        "                self._upload(source, version, is_begun)  # 3\n",
        ("tests/guarantees/test_crashes.py", "-k", "killed_publication_is_never"),
    ),
    Guarantee(
        "the containment check of names and parts",
        'if not kept or segment[1:2] == ":" or device in _WINDOWS_DEVICES:',
        "if False:",
        ("tests/guarantees/test_hostile.py", "tests/unit/test_manifest.py"),
    ),
    Guarantee(
        "the containment check of links",
        "    return not has_links or _resolve(path).startswith(_resolve(root))",
        "    return True",
        ("tests/cache/test_links.py",),
    ),
    Guarantee(
        "a planted lock file is not followed",
        'os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)',
        "os.O_RDWR | os.O_CREAT",
        ("tests/cache/test_links.py", "-k", "behind_a_link"),
    ),
    Guarantee(
        "links in a killed download's staging are not taken over",
        "is_plain and is_ours and _is_inside(path, os.path.dirname(old)):\n",
        "is_plain and is_ours:\n",
        ("tests/cache/test_links.py", "-k", "staging"),
    ),
    Guarantee(
        "the marker test",
        '    return "hit" if state == "whole" else "check"',
        '    return "hit"',
        ("tests/guarantees/test_crashes.py", "-k", "adopted_as_it_is or torn"),
    ),
    Guarantee(
        "a copy of another size is noticed",
        "                if got != file.size and "
        "(file.size is not None or isinstance(got, str)):\n",
        "                if False:\n",
        ("tests/cache/test_cache.py", "-k", "size"),
    ),
    Guarantee(
        "free space is looked at first",
        "    if needed > free:",
        "    if False:",
        ("tests/cache/test_cache.py", "-k", "free_space"),
    ),
    Guarantee(
        "a source that changes is not published",
        "        if stamp and not _is_same(self._find(file), stamp):\n",
        "        if False:\n",
        ("tests/store/test_source_changes.py", "-m", "not server"),
    ),
    Guarantee(
        "a waiter waits as long as there is progress",
        "        if progress != seen:",
        "        if seen == -1:",
        ("tests/guarantees/test_concurrency.py", "-k", "waiter_waits"),
    ),
    Guarantee(
        "a waiter gives up without progress",
        "        elif now >= deadline:",
        "        elif False:",
        ("tests/guarantees/test_concurrency.py", "-k", "gives_up"),
    ),
    Guarantee(
        "one downloads, the others wait",
        "            if _try_lock(file, path):\n                with",
        "            if True:\n                with",
        ("tests/guarantees/test_concurrency.py", "-k", "sixteen_that_fetch_one"),
    ),
    Guarantee(
        "a copy is on the disk before its marker is",
        "        _sync_tree(data, job)\n        origin",
        "        origin",
        ("tests/guarantees/test_power_cuts.py", "-k", "a_cut_leaves"),
    ),
    Guarantee(
        "an empty marker is believed only where something proves it",
        '        if state == "whole" and not stamps[1][0]:\n',
        "        if False:\n",
        ("tests/cache/test_cache.py", "-k", "empty_marker"),
    ),
    Guarantee(
        "an object is on the disk before it has a name",
        "                fill(file)\n                _sync(file)\n",
        "                fill(file)\n",
        ("tests/guarantees/test_power_cuts.py", "-k", "commit_that_was_reported"),
    ),
    Guarantee(
        "a name is on the disk before a commit is reported",
        "        _sync_folder(os.path.dirname(path))\n        return etag",
        "        return etag",
        ("tests/guarantees/test_power_cuts.py", "-k", "commit_that_was_reported"),
    ),
    Guarantee(
        "data are created only if absent",
        "                self._driver.upload_object("
        "path, target, advance, if_match=etag)\n",
        "                self._driver._driver.upload_object("
        "path, target, advance, if_match=None)\n",
        ("tests/guarantees/test_twins.py", "-k", "goes_on"),
    ),
    Guarantee(
        "a copy within the store is made of what has the right size",
        "if file.sha256 and sizes.get(source) == file.size:\n",
        "if file.sha256:\n",
        ("tests/guarantees/test_twins.py", "-k", "damage_on"),
    ),
    Guarantee(
        "a body that stalls is broken off",
        "        elif waited > _SILENCE_S:\n",
        "        elif False:\n",
        ("tests/guarantees/test_stalls.py", "-k", "goes_on and trickle and s3"),
    ),
    Guarantee(
        "what trickles in is given up",
        "        if left <= 0:\n            about = ",
        "        if False:\n            about = ",
        ("tests/guarantees/test_stalls.py", "-k", "trickles_in and s3 and drip-read"),
    ),
    Guarantee(
        "an asset whose name differs in case alone is refused",
        "if _fold(other) == _fold(name) and other != name:",
        "if False:",
        ("tests/cache/test_names.py", "-k", "differs_in_case_alone"),
    ),
    Guarantee(
        "one asset is not served for another",
        "if name != own and _fold(name) == _fold(own):",
        "if False:",
        ("tests/cache/test_names.py", "-k", "served_for_another"),
    ),
    Guarantee(
        "two files that the disk takes for one are an error",
        "if manifest.is_directory and there < len(manifest.files):",
        "if False:",
        ("tests/cache/test_names.py", "-k", "disk_takes_for_one"),
    ),
    Guarantee(
        "no asset is in the way of ours in the cache",
        'f"{one}~" if ours.fullmatch(one) else one for',
        "one for",
        ("tests/cache/test_names.py", "-k", "in_the_way"),
    ),
    Guarantee(
        "what lies where `--to` puts an asset is never overwritten",
        "            raise self._make_error(place)\n",
        "            return False\n",
        ("tests/cache/test_delivery.py", "-k", "changed_since_an_interrupt"),
    ),
    Guarantee(
        "what comes there meanwhile is never overwritten",
        "            if not self._is_entry_there(name, wanted):\n",
        "            if _remove_tree(os.path.join(self._to, name)) is None:\n",
        ("tests/cache/test_delivery.py", "-k", "meanwhile"),
    ),
    Guarantee(
        "a file is not marked before wrong data is out of its way",
        "        elif os.path.exists(path) and "
        "not _has_content(self, path, manifest, job):\n",
        "        elif False:\n",
        ("tests/cache/test_cache.py", "-k", "never_marks_what_was_there"),
    ),
    Guarantee(
        "only marked copies are deleted",
        "    return os.path.exists(_find_marker(path))\n",
        "    return True\n",
        ("tests/cache/test_removal.py", "-k", "nothing_but or no_copy"),
    ),
    Guarantee(
        "a deleted copy vanishes at once",
        "os.rename(waste, os.path.join(folder, os.path.basename(waste)))",
        "_remove_tree(waste) if os.path.isdir(waste) else os.unlink(waste)",
        ("tests/cache/test_removal.py", "-k", "killed_deletion and folder"),
    ),
    Guarantee(
        "http: the authorization goes to no other host",
        "if self._authorization and origin == self._origin:",
        "if self._authorization:",
        ("tests/drivers/test_http.py", "-k", "other_host or another_host"),
        "drivers/http.py",
    ),
    Guarantee(
        "http: what came over TLS is not taken from elsewhere",
        '    if (place[0], scheme) == ("https", "http"):\n',
        "    if False:\n",
        ("tests/drivers/test_http.py", "-k", "out_of_tls"),
        "drivers/http.py",
    ),
    Guarantee(
        "http: an object that has changed is noticed",
        "        if if_match and etag.strip",
        "        if not etag and etag.strip",
        ("tests/drivers/test_http.py", "-k", "etag or meant"),
        "drivers/http.py",
    ),
)


def main(words: list[str]) -> int:
    """Run all, two at a time; return 1 if a broken copy stayed green."""
    chosen = [one for one in GUARANTEES if all(word in one.name for word in words)]
    failures = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for one, is_unseen in zip(chosen, pool.map(stays_green, chosen)):
            failures += is_unseen
            print(f"{one.name}: {'GREEN, no test saw it' if is_unseen else 'red'}")
    print(f"{len(chosen) - failures} passed, {failures} failed")
    return 1 if failures or not chosen else 0


def stays_green(guarantee: Guarantee) -> bool:
    """Tell whether its tests pass on a copy in which its line is broken."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        copy.mkdir()
        for name in COPIED:
            source, ignored = ROOT / name, shutil.ignore_patterns("node_modules")
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy2(source, copy / name)
        break_line(copy / guarantee.file, guarantee)
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
        command += ["-m", "", "-n", "0", "--basetemp", str(Path(folder, "temporary"))]
        command += guarantee.tests
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{guarantee.name}: {done.stdout}{done.stderr}")
    return done.returncode == 0


def break_line(path: Path, guarantee: Guarantee) -> None:
    text = path.read_text(encoding="utf-8")
    if text.count(guarantee.line) != 1:
        raise RuntimeError(f"{guarantee.name}: its line is not in {path.name} once")
    broken = text.replace(guarantee.line, guarantee.broken)
    compile(broken, path.name, "exec")
    path.write_text(broken, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
