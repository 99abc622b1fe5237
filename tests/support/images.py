"""Images without a Docker engine: root folders in which a Dockerfile's steps are run.

An image is a pile of folders that the kernel shows as one (overlay), as Docker's are;
at the bottom lies a Debian, made by `debootstrap` from the machine's own mirror.
Commands run in mount namespaces of their own: nothing stays mounted, whatever happens.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple, Optional

BUILD_S = 240  # debootstrap takes 40 s on two idle cores
RUN_S = 60
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# the whole of the standard library: what distroless has, and less than `python3`
PACKAGES = "python3-minimal,libpython3-stdlib"

# mounts the overlay, and files into it; then enters it
_SCRIPT = """
set -eu
mount -t overlay overlay -o "$1" "$2"; root=$2; shift 2
while [ "$1" != in ]; do
  mkdir -p "$root$(dirname "$2")"; touch "$root$2"; mount --bind "$1" "$root$2"; shift 2
done
shift; exec unshare --root="$root" "$@"
"""


class ImageError(RuntimeError):
    """Images cannot be made here; the message says why."""


class Image(NamedTuple):
    """A root folder, and how it is run."""

    layers: tuple[Path, ...]  # the topmost first
    environ: dict[str, str] = {}
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    def add_layer(self, folder: Path) -> "Image":
        """Return an image with a new folder on top, which `change` writes to."""
        folder.mkdir(parents=True)
        return self._replace(layers=(folder, *self.layers))

    def find(self, path: str) -> Path:
        """Return where a path of the image lies."""
        places = [layer / path.strip("/") for layer in self.layers]
        return next(place for place in places if place.exists())

    def run(self, *command: str, user: int, **settings: Any) -> Any:
        """Run a command, or the image's own: read-only, and without network."""
        command = (*self.entrypoint, *(command or self.command))
        options = "lowerdir=" + ":".join(map(str, self.layers))
        return self._enter(["--net"], options, user, command, **settings)

    def change(self, *command: str, user: int = 0, **settings: Any) -> str:
        """Run a command that may write and has a network; return what it printed.

        `files` are pairs of a file and the path in the image where it is meanwhile.
        """
        top, *below = map(str, self.layers)
        os.makedirs(f"{top}.work", exist_ok=True)
        options = f"lowerdir={':'.join(below)},upperdir={top},workdir={top}.work"
        done = self._enter([], options, user, command, **settings)
        assert (done.returncode, done.stderr) == (0, ""), done
        return str(done.stdout)

    def _enter(
        self, namespaces, options, user, command, files=(), environ=(), **settings
    ):
        root = f"{self.layers[0]}.root"
        os.makedirs(root, exist_ok=True)
        placed = [str(value) for pair in files for value in pair]
        entry = [f"--wd={self.workdir}", f"--setgid={user}", f"--setuid={user}", "--"]
        script = ["sh", "-c", _SCRIPT, "sh", options, root, *placed, "in", *entry]
        return subprocess.run(
            ["unshare", "--mount", *namespaces, *script, *command],
            env={"PATH": PATH, **self.environ, **dict(environ)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_S,
            **settings,
        )  # fmt: skip


# ---------------------------------------------------------------------- Debian


@contextlib.contextmanager
def share_debian(folder: Path) -> Any:
    """Make a Debian once for all processes; the last of them to leave deletes it."""
    root, failure = folder / "debian", folder / "debian.failure"
    with contextlib.ExitStack() as stack:
        lock, users = (
            stack.enter_context((folder / f"debian.{name}").open("w"))
            for name in ("lock", "users")
        )
        with _locked(lock):
            if not root.exists() and not failure.exists():
                try:
                    _make_debian(root)
                except ImageError as error:
                    failure.write_text(str(error))
                    shutil.rmtree(root, ignore_errors=True)
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            if failure.exists():
                raise ImageError(failure.read_text())
            yield Image((root,))
        finally:
            with _locked(lock), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _locked(file):
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _make_debian(root: Path) -> None:
    if os.geteuid() != 0:
        raise ImageError("only root can make a root folder")
    for program in ("apt-get", "debootstrap", "mount", "unshare"):
        if shutil.which(program) is None:
            raise ImageError(f"{program} is not installed")
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}"]
    release, mirror = _find_mirror()
    # when it ends, or is ended, so do all that it started, and their mounts
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    log = root.with_suffix(".log")
    with log.open("wb") as output:
        try:
            subprocess.run(
                [*isolated, *command, release, str(root), mirror],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                check=True, timeout=BUILD_S,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as error:
            last = "".join(log.read_text(errors="replace").splitlines()[-1:])
            text = f"debootstrap failed: {type(error).__name__}: {last}"
            raise ImageError(text) from error
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / waste, ignore_errors=True)
    probe = Image((root,)).add_layer(root.with_suffix(".probe"))
    done = probe.run("true", user=65534)
    if done.returncode:
        raise ImageError(f"one cannot mount or change root here: {done.stderr}")


def _find_mirror() -> tuple[str, str]:
    """Return the machine's own release, and where its packages come from."""
    release = _find_release()
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    # without release info: as configured, `apt-get update` may not have been run yet
    command = ["apt-get", "indextargets", "--no-release-info", "--format", form]
    command.append("Created-By: Packages")
    done = subprocess.run(command, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        *of, uri = line.split(" ", 2)
        if of == [release, "main"]:
            return str(release), uri
    raise ImageError(f"apt has no mirror of {release}: {done.stderr}")


def _find_release() -> Optional[str]:
    with contextlib.suppress(OSError):
        text = Path("/etc/os-release").read_text()
        found = re.search(r'^VERSION_CODENAME="?(\w+)', text, re.MULTILINE)
        return found and found[1]
    return None


# ---------------------------------------------------------------------- Dockerfiles


class Build:
    """The steps of a Dockerfile, run one after the other; `image` is the last stage.

    - `stages` has the base images by name at first, and then the named stages too
    - it knows the instructions that the README uses, and fails on any other
    """

    def __init__(self, folder: Path, context: Path, bases: dict, secrets: dict):
        self.folder, self.context, self.secrets = folder, context, secrets
        self.stages, self.name = dict(bases), ""

    @property
    def image(self) -> Image:
        return self.stages[self.name]

    def run(self, dockerfile: str) -> Image:
        text = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE)
        for line in text.replace("\\\n", "").splitlines():
            if line.strip():
                instruction, rest = line.split(maxsplit=1)
                getattr(self, f"_{instruction.lower()}")(rest)
        return self.image

    def _from(self, rest):
        base, _, name = rest.partition(" AS ")
        layer = self.folder / f"stage-{len(self.stages)}"
        self.name = name or layer.name
        self.stages[self.name] = self.stages[base].add_layer(layer)

    def _workdir(self, rest):
        os.makedirs(self._at(rest), exist_ok=True)
        self._change(workdir=rest)

    def _env(self, rest):
        assert "$" not in rest
        pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
        self._change(environ={**self.image.environ, **pairs})

    def _cmd(self, rest):
        self._change(command=tuple(json.loads(rest)))

    def _copy(self, rest):
        *sources, target = rest.split()
        find = self.context.joinpath
        if sources[0].startswith("--from="):
            find = self.stages[sources.pop(0)[len("--from=") :]].find
        for source in map(find, sources):
            if source.is_dir():  # Docker copies what is in it
                shutil.copytree(source, self._at(target), dirs_exist_ok=True)
            else:
                assert target.endswith("/"), rest
                os.makedirs(self._at(target), exist_ok=True)
                shutil.copy(source, self._at(target))

    def _run(self, rest):
        files = []
        while rest.startswith("--mount="):
            option, rest = rest[len("--mount=") :].split(maxsplit=1)
            values = dict(pair.split("=") for pair in option.split(","))
            assert set(values) == {"type", "id", "target"}
            assert values["type"] == "secret"
            files.append((self.secrets[values["id"]], values["target"]))
        if rest.startswith("pip install "):
            self._install([word for word in rest.split()[2:] if word[0] != "-"])
        else:
            environ = {"HOME": "/root"}
            self.image.change("/bin/sh", "-c", rest, files=files, environ=environ)

    def _install(self, names):
        """Copy packages from this Python, and what they need: the files are pip's."""
        show = "import site; print(site.getsitepackages()[0])"
        target = Path(self._at(self.image.change("python3", "-c", show).strip()))
        seen = set()
        while names:
            name = names.pop()
            if name in seen:
                continue
            seen.add(name)
            package = importlib.metadata.distribution(name)
            needed = [one for one in package.requires or () if "extra ==" not in one]
            names += [re.match(r"[\w.-]+", one)[0] for one in needed]
            for file in package.files:
                if ".." not in file.parts and file.suffix != ".pyc":
                    (target / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file.locate(), target / file)

    def _at(self, path):
        """Return where the stage's own folder has a path of the image."""
        path = os.path.join(self.image.workdir, path)
        return str(self.image.layers[0]) + path

    def _change(self, **changes):
        self.stages[self.name] = self.image._replace(**changes)
