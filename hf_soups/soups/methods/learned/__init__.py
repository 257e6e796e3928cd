"""The learned soup: coefficients found by gradient descent, with the memory of two models for any number of them.

`mixture` streams weights and inner products, `steps` turns them into steps of the `coefficients`, `method` makes a soup
of what comes out.
"""

from typing import Any

from hf_soups.soups.methods.learned.coefficients import LearnedStep, Per, Sign
from hf_soups.soups.methods.learned.method import learned
from hf_soups.soups.registry import MethodInputs, soup_method
from hf_soups.soups.soup import Soup

__all__ = ["LearnedStep", "learned"]


@soup_method("learned", needs_score=True)
def _learned(inputs: MethodInputs, *, epochs: int, learning_rate: float | None, seed: int) -> Soup:
    return _cooked(inputs, "ingredient", "softmax", epochs=epochs, learning_rate=learning_rate, seed=seed)


@soup_method("learned-by-tensor", needs_score=True)
def _learned_by_tensor(inputs: MethodInputs, *, epochs: int, learning_rate: float | None, seed: int) -> Soup:
    return _cooked(inputs, "tensor", "softmax", epochs=epochs, learning_rate=learning_rate, seed=seed)


@soup_method("learned-free", needs_score=True)
def _learned_free(
    inputs: MethodInputs, *, epochs: int, learning_rate: float | None, seed: int, models_at_once: int | None
) -> Soup:
    return _cooked(
        inputs, "ingredient", "free", epochs=epochs, learning_rate=learning_rate, seed=seed,
        models_at_once=models_at_once,
    )  # fmt: skip


def _cooked(inputs: MethodInputs, per: Per, sign: Sign, **options: Any) -> Soup:
    assert inputs.scorer is not None

    def on_step(step: LearnedStep) -> None:
        held_out = "" if step.held_out is None else f", {step.held_out:.4f} on rows held out"
        inputs.say(f"step {step.step}/{step.steps}: loss {step.loss:.4f}{held_out}")

    return learned(
        inputs.pool, inputs.scorer, per=per, sign=sign, state=inputs.state, on_step=on_step, threads=inputs.threads,
        **options,
    )  # fmt: skip
