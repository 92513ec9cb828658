"""A model at a glance: what it is made of (`ts.summary`), and where a training step spends its time (`ts.profile`)."""

from tinyseq import check
from tinyseq.glance.profile import profile
from tinyseq.glance.summary import Row, Summary, summary

__all__ = ["Row", "Summary", "profile", "summary"]
check.public(__name__)
