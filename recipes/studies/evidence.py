"""The page of evidence: each claim of the papers, what they report, what was seen here.

    python recipes/studies/evidence.py > docs/evidence.md

Figures come from the studies' files of figures (recipes/studies/STUDY/figures.json), which the studies' commands write.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUDIES = Path(__file__).parent
LEVEL = 0.05
MARGIN = 0.005  # of accuracy, that a cascade may have lost and still match
MATCHING = ("match accuracy", "worst case", "Streeter")
SOUPS = "Wortsman et al. 2022, arXiv:2203.05482"
COMMITTEES = "Wang et al. 2022, arXiv:2012.01988"
COPIES = "Kondratyuk et al. 2020, arXiv:2005.00570"
STREETER = "Streeter 2018, ICML"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a paper says, and which findings bear on it."""

    says: str
    reports: str
    source: str
    study: str
    seen: tuple[tuple[str, str, str], ...] = ()  # name in the file of figures, how a finding's name begins, the design
    without: str = ""  # what to say where nothing has run


IMAGES = "{runs} fine-tunes of EfficientNet-Lite0 with ImageNet weights, 20 classes of Tiny ImageNet"
LEARNT, RANDOM, CIFAR, LITE = "learnt head", "shared random head", "cifar-resnet", "efficientnet-lite"
HALF = "{halves} times, plans chosen on a random half, scored on the other"
SECOND_HAND = "says so; its figures are known to this project at second hand only and not repeated here"


def _images(*names: str) -> tuple[tuple[str, str, str], ...]:
    return tuple((head, name, f"{IMAGES}, {head}") for head in (LEARNT, RANDOM) for name in names)


def _committees(name: str, pools: tuple[str, ...] = (CIFAR, LITE)) -> tuple[tuple[str, str, str], ...]:
    about = {CIFAR: "ResNet-20 to 56, CIFAR-10 as JPEG", LITE: "EfficientNet-Lite 0-2, 1,000 images of ImageNet"}
    return tuple((pool, name, f"{about[pool]}; {HALF}") for pool in pools)


CLAIMS = (
    Claim("Fine-tuning gains over its start", "a check of the design: where the best fine-tune is below its start, "
          "soups that are above it may only have come back", "No paper's claim", "soups-on-images",
          (("starts", "best fine-tune", f"{IMAGES[7:]}"),)),
    Claim("The greedy soup is above the best fine-tune, at no cost of inference", SECOND_HAND, SOUPS,
          "soups-on-images", _images("greedy soup")),
    Claim("The uniform soup gains where all fine-tunes lie in one basin", SECOND_HAND, SOUPS, "soups-on-images",
          _images("uniform soup")),
    Claim("Learned soups, one weight for each or for each tensor, are level with greedy or above", SECOND_HAND, SOUPS,
          "soups-on-images", _images("learned soup", "learned-by-tensor soup"),
          without="no learned soup of these fine-tunes yet: `run.sh` of the study makes them"),
    Claim("An ensemble gains what soups gain or more, at the cost of all its members", SECOND_HAND, SOUPS,
          "soups-on-images", _images("mean-prob ensemble", "mean-logit ensemble", "selected ensemble")),
    Claim("Soups of two and the start, or on the line to it, gain too", "claims of others, held against the same "
          "fine-tunes", "Model Stock and WiSE-FT", "soups-on-images",
          _images("model-stock soup", "wise-ft soup")),
    Claim("The start matters: fine-tunes share a head that is learnt, or from texts", SECOND_HAND, SOUPS,
          "soups-on-images", (("heads", "", f"{IMAGES[7:]}, learnt against random head"),)),
    Claim("Soups gain out of distribution", SECOND_HAND, SOUPS, "soups-in-and-out",
          without="on published weights. A small CLIP of our own was, and its README calls the result negative; "
          "`recipes/studies/soups-on-images/full.yaml` has the shift set"),
    Claim("Soups gain on text tasks, less than on images", SECOND_HAND + "; its authors call it preliminary", SOUPS,
          "glue-soups", without="at the planned size. Eight small fine-tunes of each task were, without a gain that "
          "a test shows: see the study"),
    Claim("A cascade matches the best single model's accuracy at less cost", "the accuracy of EfficientNet-B7 at 5.4 "
          "times fewer FLOPs", COMMITTEES, "cascades", _committees("match accuracy")),
    Claim("At the best single model's cost a cascade is more accurate", "ViT-L at 224 pixels 82.0 at 192 images a "
          "second, a cascade of ViT-B and ViT-L 83.1 at 221", COMMITTEES, "cascades", _committees("match cost")),
    Claim("The same with a bound on the worst case", "a bound is an option of its search", COMMITTEES, "cascades",
          _committees("worst case")),
    Claim("One model at two input sizes cascades with itself", "self-cascades are among its results", COMMITTEES,
          "cascades", (("efficientnet-lite2-at-two-sizes", "match accuracy", f"EfficientNet-Lite2 at its own size and "
                        f"192 pixels; {HALF}"),)),
    Claim("A greedy rule finds cascades in large pools", "up to 2 times fewer multiplications", STREETER, "cascades",
          _committees("Streeter")),
    Claim("Copies of a small net beat a wider one at the same cost", "ensembles of smaller models reach a large one's "
          "accuracy at fewer multiply-adds, the more so the larger the models", COPIES, "small-copies",
          (("copies", "", "ViTs of 16 to 128 values, handwritten digits, 8 seeds; over seeds and rows"),)),
)  # fmt: skip


def verdict(found: dict[str, Any]) -> str:
    """What a finding says; what is to match needs no difference, but less cost and an interval above the margin."""
    could = f"could have shown {100 * found['could_show']:.1f}"
    if not found["could_show"]:
        return "not shown: the search kept the single model"
    if found["what"].startswith(MATCHING) and found["cost"] < 1 and found["low"] > -MARGIN:
        return f"shown, within {-100 * min(found['low'], 0):.1f} points"
    if found["p"] < LEVEL and found["effect"] > 0:
        return "shown"
    if found["p"] < LEVEL:
        return "the opposite was seen"
    return f"not shown at this size ({could})"


def line(found: dict[str, Any], design: str) -> str:
    """One finding as a line of a table."""
    if not found["could_show"]:  # the two never differ, so there is nothing to test
        pair = f"{found['what']} against {found['against']}"
        return f"| {pair} | {design} | {found['rows']:,} | 0 |  |  | {verdict(found)} |"
    effect, low, high = (f"{100 * found[key]:+.1f}" for key in ("effect", "low", "high"))
    cost = "" if found["cost"] is None else f"{found['cost']:.2f}x"
    p = f"{found['p']:.2g}" + (f" (Holm, {found['tests']})" if found["tests"] > 1 else "")
    what = f"{found['what']} against {found['against']}"
    return f"| {what} | {design} | {found['rows']:,} | {effect} [{low}, {high}] | {cost} | {p} | {verdict(found)} |"


HEAD = ("what", "design", "report rows", "difference, points [95%]", "cost", "p", "verdict")
TRUST = ("pool", "goal", "optimism, points", "report below the bound", "gain, points", "cost")


def heading(names: tuple[str, ...]) -> tuple[str, str]:
    """The first two lines of a table."""
    return "| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"


def section(number: int, claim: Claim, figures: dict[str, Any]) -> str:
    """One claim."""
    about = f"## {number}. {claim.says}\n\n{claim.source}: {claim.reports}.\n\n"
    found = [
        line(one, design.format(**figures[name]))
        for name, begins, design in claim.seen
        for one in figures.get(name, {}).get("findings", ())
        if one["what"].startswith(begins)
    ]
    rest = "\n".join((*heading(HEAD), *found)) if found else f"**Not run**: {claim.without or 'no figures are kept'}."
    return f"{about}{rest}\n\nStudy: [{claim.study}](../recipes/studies/{claim.study}/README.md)."


def trust(figures: dict[str, Any]) -> str:
    """What random halves say of scores and bounds."""
    lines = [
        f"| {name} | {goal} | {100 * (of['select'][0] - of['report'][0]):+.2f} | {of['below'][0]:.1%} "
        f"| {100 * of['gain'][0]:+.2f} [{100 * of['gain'][1]:+.2f}, {100 * of['gain'][2]:+.2f}] "
        f"| {of['cost'][0]:.2f} [{of['cost'][1]:.2f}, {of['cost'][2]:.2f}] |"
        for name, study in figures.items()
        for goal, of in study.get("goals", {}).items()
    ]
    return "\n".join((*heading(TRUST), *lines))


def page() -> str:
    """The whole page."""
    figures = {
        study: json.loads(path.read_text(encoding="utf-8"))
        for study in {claim.study for claim in CLAIMS}
        if (path := STUDIES / study / "figures.json").exists()
    }
    sections = "\n\n".join(section(i, claim, figures.get(claim.study, {})) for i, claim in enumerate(CLAIMS, start=1))
    return TEXT.format(sections=sections, trust=trust(figures.get("cascades", {})))


TEXT = """# Evidence: what the papers claim, and what was seen here

Written by `python recipes/studies/evidence.py` from the records that the studies' commands keep
(`recipes/studies/*/figures.json`); do not edit by hand. [The plan](../recipes/studies/PLAN.md) says what each design
can show.

Differences are of accuracy, in points (x 100), on report rows that nothing was chosen on, the first less the second.
Of soups: the 95% interval of a paired bootstrap by row, and McNemar's exact test, two-sided, corrected by Holm's rule
where several averages of one head are compared (the interval and what could have been shown are of one comparison).
Of cascades: the mean over random halves, and Nadeau and Bengio's
corrected resampled t-test, which allows for the halves' overlap. Of copies: a bootstrap over seeds and rows together,
of what one who trains each net once would see. Cost: average multiply-adds in shares of the second's.

- **shown**: p below 0.05, in the claim's direction.
- **not shown at this size (could have shown x)**: the design shows a difference of x points with 80% power at 5%;
  smaller ones it may miss. It does not say that there is none. It is worked out from how often the two were seen to
  disagree, without Holm's correction.
- A cascade that is to match an accuracy needs no difference: **shown, within x points** if it costs less and the
  interval leaves out a loss of more than half a point (a margin that was set with this page, not before the runs).
- **not run**: no figures at the planned size.

One data set, one draw of runs and one machine stand behind each line; other data and seeds are not tested. The plan was
written with the same runs at hand, not before them: it is one for the next. An earlier sweep of eight fine-tunes on
3,600 rows, whose greedy soup was 33 of 1,000 rows above its best fine-tune, is in
[benchmarks](../benchmarks/results/tiny-imagenet-20-efficientnet-lite0.md).

{sections}

## How far select scores and bounds can be trusted

A random half of a pool is searched and its plans are held against the other half, over and over. Optimism: select
score less report score. Below the bound: halves whose report score is under the plan's cross-fitted 95% lower bound;
a plan that nothing is chosen for is expected there in about 12% of halves, since both halves are samples. Gain and
cost are against the best single model of select, mean and range of 95% of halves, which overlap: this is no
confidence interval.

{trust}
"""


if __name__ == "__main__":
    print(page(), end="")
