"""How good a model is: figures that are counted batch by batch, and functions that give one at once.

    accuracy, perplexity = metrics.Accuracy(ignore_index=0), metrics.Perplexity()
    for x, targets in dev:
        logits = model(x)
        accuracy.update(logits.argmax(axis=-1), targets)
        perplexity.update(cross_entropy(logits, targets, ignore_index=0, reduction="sum"), targets != 0)
    print(accuracy, perplexity)                 # Accuracy 0.8123, Perplexity 7.302
    log(step, dev_accuracy=accuracy.compute())

Every class counts whole numbers or sums (`Metric`), so that batches may be cut as they come, and what several processes
counted is merged: the figure is that of all at once, never a mean of means. What is a share is a fraction from 0 to 1;
BLEU and chrF go to 100, as sacrebleu has them.
"""

from tinyseq import check
from tinyseq.metrics.counts import Accuracy, BitsPerCharacter, Mean, Perplexity
from tinyseq.metrics.edits import SequenceErrorRate, TokenErrorRate, sequence_error_rate, token_error_rate
from tinyseq.metrics.metric import Metric
from tinyseq.metrics.spans import SpanF1, span_f1
from tinyseq.metrics.translation import BLEU, CHRF

__all__ = ["Accuracy", "BLEU", "BitsPerCharacter", "CHRF", "Mean", "Metric", "Perplexity", "SequenceErrorRate",
           "SpanF1", "TokenErrorRate", "sequence_error_rate", "span_f1", "token_error_rate"]
check.public(__name__)
