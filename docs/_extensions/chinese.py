"""Chinese pages are Chinese around their text too, say so to browsers, and can be searched by pairs of characters.

Of the theme's words Sphinx's own catalogue has some; the rest, and the captions of our list of pages, are in WORDS.
"""

import gettext
import re
from pathlib import Path
from typing import Any

import sphinx.locale
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

RUN = "[\u4e00-\u9fff]+"
CATALOGUE = gettext.translation("sphinx", Path(sphinx.locale.__file__).parent, ["zh_CN"])
WORDS = {
    "Learn": "学习", "Use": "使用", "Look up": "查阅", "On this page": "本页内容",
    "Next": "下一页", "Previous": "上一页", "Home": "首页", "Back to top": "回到顶部", "Skip to content": "跳到正文",
    "Toggle site navigation sidebar": "打开或关闭页面列表", "Toggle table of contents sidebar": "打开或关闭本页目录",
    "Toggle Light / Dark / Auto color theme": "切换浅色、深色或随系统", "Toggle navigation of ": "展开或收起：",
    "Please activate JavaScript to enable the search functionality.": "搜索需要启用 JavaScript。",
    "Copyright &#169; %(copyright)s": "版权所有 &#169; %(copyright)s", "Made with ": "网页主题：",
}
FIXED = r'(caption-text">|(?:aria-label|title)=")(Toggle navigation of |[^"<]+)'


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


def say(words: str) -> str:
    return WORDS.get(words) or CATALOGUE.gettext(words)


def around(page: str) -> str:
    """A page with words in Chinese that templates do not look up: captions and labels."""
    return re.sub(FIXED, lambda found: found[1] + say(found[2]), page)


def language(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: object) -> None:
    """The language of a page, for its first tag and all that templates say, and the search that speaks it."""
    chinese, pathto = ".zh" in name, context["pathto"]
    context |= {"language": "zh" if chinese else "en", "around": around if chinese else str}
    if chinese:
        context["gettext"] = say
        context["pathto"] = lambda to, *rest: pathto("search.zh" if to == "search" else to, *rest)
        app.add_js_file("sphinx.js")            # of the catalogue: what scripts say


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_search_language(Search)
    app.connect("html-page-context", language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
