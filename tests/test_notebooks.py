"""The notebooks of the road: each runs, draws and tells how far it is, and is the same program in both languages."""

import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from test_road import STOPS

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/road/*.md"))[:10]
FLAGS = {name: flags.replace(" --data reviews.tsv", "") for name, (flags, _) in STOPS.items()}
FLAGS["contexts"] = "--seconds 3"

made = runpy.run_path(str(ROOT / "docs/_extensions/notebooks.py"))
cells = lambda notebook, kind: [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_has_its_page_and_its_scripts(page: Path) -> None:
    notebook = made["notebook"](page)
    text = "\n".join(cell["source"] for cell in cells(notebook, "markdown"))
    code = "\n".join(cell["source"] for cell in cells(notebook, "code"))
    held = [name for cell in cells(notebook, "markdown") for name in cell.get("attachments", {})]
    assert re.findall(r"!\[.*?\]\(attachment:(.*?)\)", text) == held != []
    assert "](../" not in text and text.startswith("# ")
    commands = re.findall(r"^python examples/(\w+)\.py", page.read_text("utf-8"), re.MULTILINE)
    assert [cell["metadata"]["script"] for cell in cells(notebook, "code")
            if "script" in cell["metadata"]] == commands != []
    for name in commands:                       # whole, and once, but for what asks whether it is the program
        lines = (ROOT / f"examples/{name}.py").read_text("utf-8").partition('"""\n\n')[2].splitlines()
        kept = [line.replace("Path(__file__).parent", "EXAMPLES") for line in lines if "_commands  #" not in line]
        assert not {*kept[:-2]} - {*code.splitlines(), 'if __name__ == "__main__":'}
    assert code.count("\ndef main() -> None:") == len({*commands})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_both_languages_have_the_same_program(page: Path) -> None:
    english, chinese = (made["notebook"](ROOT / f"docs/{road}/{page.name}") for road in ("road", "road.zh"))
    programs = [[cell["source"] for cell in cells(notebook, "code")] for notebook in (english, chinese)]
    assert programs[0] == programs[1]


@pytest.mark.skipif(os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated", reason="a kernel of its own, on NumPy")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")    # of zmq and jupyter_client
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_runs_and_shows_its_pictures(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'tinyseq[site]')")
    for library in ("ipykernel", "matplotlib", "babel", "rapidfuzz"):
        pytest.importorskip(library, reason=f"{library} is not installed (pip install 'tinyseq[site]')")
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.from_dict(made["notebook"](page))
    nbformat.validate(notebook)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for cell in notebook.cells:
        if name := cell.metadata.get("script"):
            assert cell.source.count("]  ") == 1
            cell.source = cell.source.replace("]  ", f", *{FLAGS[name]!r}.split()]  ")      # of two the last one counts
    (tmp_path / "road").mkdir()                 # where it lies in notebooks.zip
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path / "road"}}).execute()
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        if name := cell.metadata.get("script"):
            said = "".join(output.text for output in outputs if output.output_type == "stream")
            assert "baseline" in said and "left" in said, f"{name}: neither its figure nor how far it was"
        if cell.metadata.get("pictures"):
            assert outputs and all("image/png" in output.data for output in outputs), cell.source


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_notebook_shows_of_tensors_modules_figures_and_progress(tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'tinyseq[site]')")
    import nbformat
    from nbclient import NotebookClient

    sources = ["import tinyseq as ts; from tinyseq import nn, plot; ts.ones((2, 2))", "nn.GRU(2, 3)",
               "plot.curves({'loss': [2.0, 1.0]})", "for _ in ts.logs.progress(range(3), desc='learns'): pass"]
    notebook: Any = nbformat.from_dict(made["of_cells"]([made["code"](source) for source in sources]))
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()
    tensor, module, figure, bar = (cell.outputs[-1] for cell in notebook.cells)
    assert tensor.data["text/plain"] == "tensor([[1., 1.],\n        [1., 1.]])"
    assert module.data["text/plain"].startswith("GRU(2, 3")
    assert "image/png" in figure.data
    assert re.fullmatch(r"(learns +\d+%, .* left\n)+", bar.text), bar.text
