"""What is shipped: one package and the quickstart's data, free of anything of the machine it was made on."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from installs import ROOT, build_wheel

REGISTRY_HOSTS = ("pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "deb.debian" + ".org")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(home(?!/u/)|root|work|Users|opt/wheels|opt/pypi)(?=/\w)")
"""Folders of one machine; `u` is the user of examples."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout's sdist, which is in the same folder."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def wheel(built: Path) -> zipfile.ZipFile:
    """What the wheel holds."""
    return zipfile.ZipFile(built)


def test_sdist_holds_every_page(built: Path) -> None:
    """Those of the three folders are in the package, as their modules are."""
    (sdist,) = built.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    pages = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "scripts/README.md", "tests/README.md"}
    pages |= {f"stillhouse/{part}/README.md" for part in ("schemas", "gen", "cluster", "cluster/deploy")}
    assert sorted(pages - names) == []


def test_wheel_holds_one_package_typed_and_with_the_quickstart(wheel: zipfile.ZipFile) -> None:
    """Nothing else goes into site-packages, and nothing needed is missing."""
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"stillhouse"}
    needed = {"stillhouse/cluster/quickstart/recipe.yaml", "stillhouse/cluster/quickstart/prompts.jsonl"}
    needed |= {
        "stillhouse/gen/views/report/page.html.j2",
        "stillhouse/gen/views/report/page.css",
        "stillhouse/gen/views/card.md.j2",
        "stillhouse/cluster/commands/templates/judge.yaml",
    }
    assert names >= needed | {"stillhouse/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_wheel_holds_all_of_the_three_folders(wheel: zipfile.ZipFile) -> None:
    """In the wheel they are the package's own; a link that the sdist lost would leave it empty."""
    names = set(wheel.namelist())
    modules = {path.relative_to(ROOT) for part in ("schemas", "gen", "cluster") for path in (ROOT / part).rglob("*.py")}
    assert len(modules) > 100
    assert names >= {f"stillhouse/{path}" for path in modules}


@pytest.mark.parametrize("part", ["schemas", "gen", "cluster"])
def test_each_package_has_one_name(part: str) -> None:
    """In a checkout's root its bare name is found too, and fails with the name by which to import it."""
    done = subprocess.run([sys.executable, "-c", f"import {part}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: expected `import stillhouse.{part}`, got `import {part}`"


def test_the_package_exports_its_public_names(tmp_path: Path) -> None:
    """From anywhere, but only when they are used."""
    code = "from stillhouse import Recipe, __version__, read_recipe, run; print(run.__module__, read_recipe.__module__)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == ["stillhouse.cluster.driver", "stillhouse.schemas.recipe_file"]


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    """`stillhouse` is on the path after an install."""
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "stillhouse = stillhouse.cluster.cli:main" in wheel.read(entry_points).decode()


@pytest.mark.parametrize(
    "module",
    [
        "stillhouse",
        "stillhouse.cluster",
        "stillhouse.schemas",
        "stillhouse.schemas.recipe_file",
        "stillhouse.schemas.record",
    ],
)
def test_import_loads_nothing_heavy(module: str) -> None:
    """What only describes data needs no cluster, no network and no store."""
    code = (
        f"import sys, {module}; print(*sorted({{'ray', 'httpx', 'aiohttp', 'boto3', 'jinja2'}} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(
    ("modules", "needed"),
    [
        ("stillhouse.cluster.cli", set()),
        ("stillhouse.cluster.commands.jobs, stillhouse.cluster.jobs.submit", {"ray", "aiohttp"}),
        ("stillhouse.cluster.driver, stillhouse.cluster.crew", {"ray", "pyarrow", "numpy", "jinja2"}),
        ("stillhouse.cluster.actors.rate_limiter", {"ray"}),
    ],
    ids=["command line", "submit", "driver", "limiter"],
)
def test_a_start_waits_only_for_what_it_needs(modules: str, needed: set[str]) -> None:
    """Each of these takes a process 0.05 to 0.4 s of CPU to import, and a run starts five processes."""
    heavy = {"ray", "httpx", "aiohttp", "boto3", "pyarrow", "numpy", "jinja2", "rich", "stillhouse.gen.worker"}
    code = f"import sys, {modules}; print(*sorted({heavy} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert set(loaded.stdout.split()) == needed


def tracked_texts() -> list[tuple[str, str]]:
    """(path, text) of the files that git knows or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            found.append((name, path.read_bytes().decode(errors="replace")))
    return found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_no_file_names_a_package_index_or_a_machine() -> None:
    """The tree says nothing of where it was made: it installs from whatever registry the user has."""
    texts = tracked_texts()
    assert len(texts) > 20
    hosts = [f"{name}: {host}" for name, text in texts for host in REGISTRY_HOSTS if host in text]
    paths = [f"{name}: {found.group()}" for name, text in texts for found in MACHINE_PATH.finditer(text)]
    assert hosts + paths == []


def test_the_lock_file_pins_every_dependency_and_no_location() -> None:
    """The lock is versions alone: no index, no link, no path; it covers what pyproject.toml asks for."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    wanted = re.findall(
        r'^  "([\w-]+)(?:\[\w+\])?>=', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(wanted) > 20
    assert {name.lower() for name in wanted} <= pinned
