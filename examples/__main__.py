"""The stops of the road, in order: of each script the command, and the question that it answers.

    python -m examples
"""

import ast
from pathlib import Path

ROAD = ("window", "sentiment", "tagging", "language_model", "memory", "translate", "keywords", "caption", "frames",
        "ctc", "attention", "recurrence", "contexts", "pronounce", "pretrained_g2p", "pretrained_minilm",
        "charlm", "generate", "side_by_side")


def main() -> None:
    for number, name in enumerate(ROAD, start=1):
        script = Path(__file__).with_name(f"{name}.py")
        if script.exists():
            question = ast.get_docstring(ast.parse(script.read_text("utf-8"))).splitlines()[0]
            print(f"{number:2}. python examples/{script.name:20} {question}")


if __name__ == "__main__":
    main()
