"""The words of a metric's name, and which of them say how good a model is."""

from __future__ import annotations

import re

RESULT = re.compile(
    r"loss(es)?|acc|accuracy|accuracies|f1|precision|recall|auc|auroc|mcc|matthews|bleu|rouge[0-9l]*|perplexity|ppl|"
    r"rewards?|returns?|scores?|errors?|err|nll|bp[bc]|[cw]er|r?mse|mae|r2|psnr|ssim|fid|m?ap|map50|m?iou|dice|elo|"
    r"top[0-9]+|correlation|pearson|spearmanr?|exact|ndcg|metric|fitness"
)
"""A word of a result: a loss, a score, an error."""


def words_of(name: str) -> list[str]:
    """The words of a name in lower case; those of camelCase are split, except where the whole is a result (mIoU)."""
    words: list[str] = []
    for part in re.findall(r"[A-Za-z]+[0-9]*", name):
        whole = RESULT.fullmatch(part.lower()) or part.isupper()
        words += [part] if whole else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", part).split()
    return [word.lower() for word in words]
