"""From files to batches: vocabularies and tokenizers, padding, and streams whose position is part of a checkpoint.

    stream = (ts.data.lines("train.txt").shuffle(10_000, seed=0).map(encode)
              .bucket(1000).batch(tokens=4096).shuffle(100, seed=1).map(ts.data.pad).prefetch())
    for ids, lengths in stream:                                 # an epoch
        ...
    checkpoint.save("run.safetensors", {"data": stream.state_dict(), ...})

Everything here is plain Python and NumPy on the host; a batch becomes a tensor where the model takes it, or by
`prefetch(to=...)`.
"""

from tinyseq import check
from tinyseq.data.padding import batches, pad
from tinyseq.data.sources import items, json_lines, lines, pairs, text
from tinyseq.data.streams import Stream
from tinyseq.data.tokenizers import Tokenizer
from tinyseq.data.vocabulary import Vocabulary

__all__ = ["Stream", "Tokenizer", "Vocabulary", "batches", "items", "json_lines", "lines", "pad", "pairs", "text"]
check.public(__name__, Stream, Tokenizer, Vocabulary)
