"""torch.func and forward-mode derivatives: a Python autograd.Function over `ortmod::run`, of any order."""

from typing import Any

import torch

from ortmod import _C
from ortmod._errors import GradientError


def active() -> bool:
    """True inside a functorch transform or a forward-mode level."""
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def run(executable: _C.Executable, args: list[torch.Tensor], training: bool) -> list[torch.Tensor]:
    """Outputs, then new values of updated buffers, under the active transforms."""
    return list(_Run.apply(executable, training, *args))


def _joint(executable: _C.Executable, needs: list[int], training: bool) -> tuple[_C.Executable, dict[str, list[int]]]:
    """The gradient as a graph of the arguments and the output gradients: recomputes forward, so it composes to any order."""
    reads, joint = executable.saved(needs, training), executable.joint(needs, training)
    if joint.num_args != executable.num_args + len(reads["seeds"]):
        raise GradientError(
            "[run] the graph draws random numbers in training mode, which torch.func and forward-mode derivatives cannot repeat; "
            "call eval() on the module, or differentiate by backward()"
        )
    return joint, reads


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(executable: _C.Executable, training: bool, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.ops.ortmod.run(executable.handle, list(args), training))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.executable, ctx.training, *args = inputs
        ctx.save_for_backward(*args)
        ctx.save_for_forward(*args)
        ctx.like = [(o.shape, o.dtype, o.device) for o in output]
        ctx.mark_non_differentiable(*(o for o in output if not o.is_floating_point()))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        args = ctx.saved_tensors
        needs = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        joint, reads = _joint(ctx.executable, needs, ctx.training)
        found = _Run.apply(joint, ctx.training, *args, *(grads[i] for i in reads["seeds"]))
        result: list[torch.Tensor | None] = [None] * len(args)
        for i, gradient in zip(reads["reached"], found, strict=True):
            result[i] = gradient
        return (None, None, *result)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple:
        """J v is the gradient of u -> <v, J'u>: the joint graph of the joint graph, at any u."""
        args, tangents = ctx.saved_tensors, tangents[2:]
        needs = [i for i, t in enumerate(tangents) if t is not None and args[i].is_floating_point()]
        joint, reads = _joint(ctx.executable, needs, ctx.training)
        seeds = [torch.zeros(ctx.like[i][0], dtype=ctx.like[i][1], device=ctx.like[i][2]) for i in reads["seeds"]]
        first = len(args)
        twice, second = _joint(joint, list(range(first, first + len(seeds))), ctx.training)
        along = [tangents[reads["reached"][k]] for k in second["seeds"]]
        found = _Run.apply(twice, ctx.training, *args, *seeds, *along)
        result: list[torch.Tensor | None] = [
            torch.zeros(shape, dtype=dtype, device=device) if dtype.is_floating_point else None for shape, dtype, device in ctx.like
        ]
        for i, tangent in zip(second["reached"], found, strict=True):
            result[reads["seeds"][i - first]] = tangent
        return tuple(result)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, executable: _C.Executable, training: bool, *args: torch.Tensor) -> tuple:
        rows = []
        for b in range(info.batch_size):
            row = [a if d is None else a.select(d, b) for a, d in zip(args, in_dims[2:], strict=True)]
            rows.append(_Run.apply(executable, training, *row))
        stacked = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        return stacked, (0,) * len(stacked)
