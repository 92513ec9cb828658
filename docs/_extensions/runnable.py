"""Cells that a reader edits and runs: `{runnable}`, whose content is the path of a cell's file in docs/cells.

    ```{runnable}
    docs/cells/05-memory.py
    ```

and playgrounds: `{playground} attention knightly` asks docs/_playground/attention.py of what the reader types, a word
that is "knightly" at first.

The page shows its code, and what it printed and drew when the site was built: here, by CPython. _static/cells/cells.js
makes it run in the reader's browser, where Pyodide comes from its public address, or from the folder that
`make site PYODIDE=...` names, relative to the site's root. The package is beside the page, as a wheel.
"""

import html
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "docs/_static/cells/cell.py"
DATA = ROOT / "examples/data"                   # where a cell runs; in a browser these files are fetched
ASKED = ROOT / "docs/_playground"
BROUGHT = {                                     # what each playground needs in a browser
    "attention": "weights.py attention.py pronounce.py _commands.py pronounce.safetensors",
    "gates": "weights.py gates.py sentiment.py _real.py _commands.py gates.safetensors"}
CELLS = ROOT / "docs/cells"
KEPT = ROOT / "build/cells"                     # outputs, by what made them
PYODIDE = "https://cdn.jsdelivr.net/pyodide/v0.27.7/full/"


def output(path: Path) -> dict[str, str]:
    """The text and the picture of a cell's file, of a run now or an earlier one of the same code and package."""
    kept = KEPT / f"{path.stem}-{sha256(path.read_bytes() + DRIVER.read_bytes() + package()).hexdigest()[:16]}.json"
    if not kept.exists():
        done = subprocess.run([sys.executable, DRIVER, path], cwd=DATA, capture_output=True, text=True, check=False,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode or (error := json.loads(done.stdout)["error"]):
            raise ExtensionError(f"{path} does not run: {done.stderr or error}")
        KEPT.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout, "utf-8")
    found: dict[str, str] = json.loads(kept.read_text("utf-8"))
    return found


def outputs(app: Sphinx) -> None:
    """Run cells on all cores before pages are read: a process that reads some pages would run theirs one by one."""
    package()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        [*pool.map(output, sorted(CELLS.glob("*.py")))]


@cache
def package() -> bytes:
    """A hash of the package's source."""
    files = sorted([*ROOT.glob("tinyseq/**/*.py"), *ROOT.glob("backends/**/*.py")])
    return sha256(b"".join(file.read_bytes() for file in files)).digest()


class Runnable(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        path = ROOT / self.content[0]
        self.env.note_dependency(str(path))
        code, found = path.read_text("utf-8").strip(), output(path)
        up = "../" * self.env.docname.count("/")
        data = " ".join(file.name for file in sorted(DATA.glob("*.npz")) if file.name in code)
        picture = f'<img class="cell-picture" alt="" src="data:image/png;base64,{found["picture"]}">'
        return [nodes.raw("", f"""<div class="cell" id="cell-{path.stem}" data-root="{up}" data-files="{data}"
 data-pyodide="{html.escape(self.config.runnable_pyodide)}" data-language="{language(self.env.docname)}">
<textarea class="cell-code" spellcheck="false" autocapitalize="off" rows="{len(code.splitlines()) + 2}"
 aria-label="{path.name}">
{html.escape(code)}
</textarea>
<div class="cell-bar" hidden><button class="cell-run"></button> <button class="cell-stop" disabled></button>
<span class="cell-state" role="status"></span></div>
<pre class="cell-text">{html.escape(found["text"])}</pre>
<pre class="cell-error" role="alert" hidden></pre>
{picture if found["picture"] else ""}</div>""", format="html")]


class Playground(SphinxDirective):
    required_arguments = 2
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        name, text = self.arguments
        spoken = language(self.env.docname)
        program = f"import {name}; print({name}.watch({text!r}, {spoken!r}))"
        paths = os.pathsep.join(map(str, (ASKED, ROOT / "examples")))
        found = subprocess.run([sys.executable, "-c", program], cwd=ASKED, capture_output=True, text=True, check=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}).stdout
        return [nodes.raw("", f"""<div class="playground" id="playground-{name}" data-file="{name}.py"
 data-root="{"../" * self.env.docname.count("/")}" data-files="{BROUGHT[name]}"
 data-pyodide="{html.escape(self.config.runnable_pyodide)}" data-language="{spoken}"
 data-found="{html.escape(found)}">
<input class="cell-code" spellcheck="false" autocapitalize="off" value="{html.escape(text)}">
<div class="cell-state" role="status"></div><div class="playground-text"></div><div class="playground-maps"></div>
</div>""", format="html")]


def language(page: str) -> str:
    return "zh" if ".zh" in page else "en"


def wheel(app: Sphinx, exception: Exception | None) -> None:
    """The package for the browser, and what cells and playgrounds read, beside the pages."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static/cells"
    shutil.rmtree(ROOT / "build/lib", ignore_errors=True)       # of an earlier wheel, which would come into this one
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps",
                    "--wheel-dir", folder, ROOT], check=True)
    for built in folder.glob("tinyseq-*.whl"):
        built.replace(folder / "tinyseq.whl")
    for name in " ".join(BROUGHT.values()).split():
        home = ASKED if (ASKED / name).exists() else ROOT / "examples"
        (folder / name).write_bytes((home / name).read_bytes())
    for file in DATA.glob("*.npz"):
        (folder / file.name).write_bytes(file.read_bytes())


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("runnable_pyodide", PYODIDE, "env", str)
    app.add_directive("runnable", Runnable)
    app.add_directive("playground", Playground)
    app.add_css_file("cells/cells.css")
    app.add_js_file("cells/cells.js", defer="defer")
    app.connect("builder-inited", outputs)
    app.connect("build-finished", wheel)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
