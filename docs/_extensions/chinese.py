"""Chinese pages say so to browsers, and can be searched: a text without spaces is split into pairs of characters."""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

RUN = "[\u4e00-\u9fff]+"


class Search(SearchEnglish):
    """English words, and of a run of Chinese characters each and each pair: in the index, and of what is asked."""

    lang = "en-zh"
    js_splitter_code = """
var splitQuery = (query) => (query.match(/[\\u4e00-\\u9fff]+|[\\p{Letter}\\p{Number}_]+/gu) || []).flatMap((word) =>
  /^[\\u4e00-\\u9fff]{3,}$/u.test(word) ? [...word].slice(1).map((c, i) => word[i] + c) : [word]);
"""

    def split(self, input: str) -> list[str]:
        """The words of a text. What is asked is split by the line of JavaScript above, into pairs alone."""
        runs = re.findall(RUN, input)
        pairs = [run[i : i + n] for run in runs for n in (1, 2) for i in range(len(run) - n + 1)]
        return pairs + super().split(re.sub(RUN, " ", input))


def language(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: object) -> None:
    """The language of a page, for its first tag."""
    context["language"] = "zh" if ".zh" in name else "en"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_search_language(Search)
    app.connect("html-page-context", language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
