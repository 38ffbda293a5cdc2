"""Find what slows PyTorch code down on a GPU, from its syntax tree. Pure.

The rules follow PyTorch's "Performance Tuning Guide" and "CUDA semantics".
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

SYNCING = {"item", "tolist", "numpy", "cpu"}
RULES = {
    "GPU001": "a value read back from the GPU in a loop waits for the device each time; collect and read once after it",
    "GPU002": "DataLoader without num_workers loads in the training process; set num_workers and pin_memory=True",
    "GPU003": "DataLoader without pin_memory copies to the GPU through pageable memory; set pin_memory=True",
    "GPU004": "a tensor made on the CPU and then moved is copied; pass device=",
    "GPU005": "torch.cuda.empty_cache() in a loop gives memory back only to ask for it again; leave it out",
    "GPU006": "torch.cat or stack onto itself in a loop copies all of it each time; collect in a list, cat once",
    "GPU007": "evaluation without torch.no_grad() or inference_mode() keeps activations for no backward",
    "GPU008": "training without autocast leaves tensor cores unused; try torch.autocast with bfloat16",
    "GPU009": "torch.cuda.synchronize() in a loop stalls the queue of kernels; use events to measure",
    "GPU010": ".to('cuda') without non_blocking=True waits for the copy; from pinned memory it need not",
    "GPU011": "a sum of losses keeps every step's graph alive; add loss.item() or loss.detach()",
}
MAKERS = {"zeros", "ones", "rand", "randn", "full", "arange", "tensor", "empty", "eye", "linspace"}


@dataclass(frozen=True)
class Advice:
    """One rule at a place where it applies."""

    rule: str
    line: int

    @property
    def message(self) -> str:
        """What to change."""
        return RULES[self.rule]


def advise(tree: ast.AST) -> list[Advice]:
    """Return advice for a module that imports torch; none for any other."""
    if not any("torch" in name for name in _imports(tree)):
        return []
    visitor = _Visitor()
    visitor.visit(tree)
    found = visitor.found
    if visitor.trains_at is not None and not visitor.autocasts:
        found.append(Advice("GPU008", visitor.trains_at))
    return sorted(dict.fromkeys(found), key=lambda advice: (advice.line, advice.rule))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


class _Visitor(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Advice] = []
        self.loops = 0
        self.without_gradients = 0
        self.trains_at: int | None = None
        self.autocasts = False

    def _loop(self, node: ast.AST) -> None:
        self.loops += 1
        self.generic_visit(node)
        self.loops -= 1

    visit_For = visit_AsyncFor = visit_While = _loop  # noqa: N815  names that ast asks for

    def visit_With(self, node: ast.With) -> None:
        names = {_name(i.context_expr).rsplit(".", 1)[-1] for i in node.items}
        self.autocasts = self.autocasts or "autocast" in names
        quiet = bool(names & {"no_grad", "inference_mode"})
        self.without_gradients += quiet
        self.generic_visit(node)
        self.without_gradients -= quiet

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        names = {_name(d).rsplit(".", 1)[-1] for d in node.decorator_list}
        quiet = bool(names & {"no_grad", "inference_mode"})
        self.without_gradients += quiet
        body = [_name(n) for n in ast.walk(node) if isinstance(n, ast.Call)]
        evaluates = any(name.endswith(".eval") for name in body)
        protected = any(name.rsplit(".", 1)[-1] in {"no_grad", "inference_mode"} for name in body)
        if (
            evaluates
            and not protected
            and not self.without_gradients
            and not any(n.endswith(".backward") for n in body)
        ):
            self.found.append(Advice("GPU007", node.lineno))
        self.generic_visit(node)
        self.without_gradients -= quiet

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if self.loops and isinstance(node.value, ast.Name) and "loss" in node.value.id.lower():
            self.found.append(Advice("GPU011", node.lineno))
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if self.loops and isinstance(node.value, ast.Call) and _name(node.value) in {"torch.cat", "torch.stack"}:
            targets = {ast.dump(t).replace("Store()", "Load()") for t in node.targets}
            if any(ast.dump(n) in targets for a in node.value.args for n in ast.walk(a)):
                self.found.append(Advice("GPU006", node.lineno))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node)
        last = name.rsplit(".", 1)[-1]
        given = {k.arg for k in node.keywords}
        if isinstance(node.func, ast.Attribute):
            self._method(node, last, given)
        if last == "DataLoader":
            workers = next((k.value for k in node.keywords if k.arg == "num_workers"), None)
            if workers is None or (isinstance(workers, ast.Constant) and workers.value == 0):
                self.found.append(Advice("GPU002", node.lineno))
            elif "pin_memory" not in given:
                self.found.append(Advice("GPU003", node.lineno))
        if self.loops and name == "torch.cuda.empty_cache":
            self.found.append(Advice("GPU005", node.lineno))
        if self.loops and name == "torch.cuda.synchronize":
            self.found.append(Advice("GPU009", node.lineno))
        if last in {"autocast", "GradScaler"}:
            self.autocasts = True
        self.generic_visit(node)

    def _method(self, node: ast.Call, last: str, given: set[str | None]) -> None:
        if last == "backward":
            self.trains_at = self.trains_at or node.lineno
        if self.loops and last in SYNCING and not node.args:
            self.found.append(Advice("GPU001", node.lineno))
        moved = last == "cuda" or (last == "to" and any(_is_cuda(a) for a in node.args))
        if not moved or not isinstance(node.func, ast.Attribute):
            return
        made = node.func.value
        maker = _name(made) if isinstance(made, ast.Call) else ""
        if maker.startswith("torch.") and maker.removeprefix("torch.") in MAKERS:
            self.found.append(Advice("GPU004", node.lineno))
        elif self.loops and "non_blocking" not in given:
            self.found.append(Advice("GPU010", node.lineno))


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        return _name(node.func)
    if isinstance(node, ast.Attribute):
        inner = _name(node.value)
        return f"{inner}.{node.attr}" if inner else f".{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_cuda(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and str(node.value).startswith("cuda")
