"""The stops of the road, in order, and what comes after on real data: each script's command, and its question.

    python -m examples
"""

import ast
from pathlib import Path

STOPS = (("window",), ("sentiment",), ("tagging",), ("language_model",), ("memory",),
         ("translate", "keywords", "contexts"), ("caption",), ("frames", "ctc"), ("attention", "recurrence"),
         ("parallel", "retained", "selective"))
REAL_DATA = ("pronounce", "charlm", "generate", "pretrained_g2p", "embed", "side_by_side")


def main() -> None:
    for number, names in [*enumerate(STOPS, start=1), ("+", REAL_DATA)]:
        for name in names:
            script = Path(__file__).with_name(f"{name}.py")
            question = ast.get_docstring(ast.parse(script.read_text("utf-8"))).splitlines()[0]
            print(f"{number:<2}  python examples/{script.name:20}  {question}")


if __name__ == "__main__":
    main()
