"""What adapters add to a tensor of the base: low-rank, Hadamard, Kronecker products, or it all.

A tensor of the base is looked at as a matrix: its first axis, and the rest. An update knows from
headers alone which shape it fits; its factors are read when the first row is wanted.

Source: Hu et al. 2021, arXiv:2106.09685 (LoRA); Yeh et al. 2023, arXiv:2309.14859 (LoHa, LoKr);
https://github.com/KohakuBlueleaf/LyCORIS, lycoris/functional, for how factors are laid out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from zoo.adapters.exact import Product
from zoo.checkpoint import TensorInfo

if TYPE_CHECKING:
    import torch

    Read = Callable[[TensorInfo], torch.Tensor]
    """A tensor of the adapter, as float64."""
    Rows = Callable[[int, int], torch.Tensor]
    """Rows [first, last) of the update, shape (last - first, n), float64, in memory of its own."""

Shape = tuple[int, ...]


class Update(ABC):
    """Something added to one tensor of the base."""

    scale: float

    @property
    @abstractmethod
    def parts(self) -> tuple[TensorInfo, ...]:
        """The adapter's tensors it is made of."""

    @abstractmethod
    def misfit(self, shape: Shape) -> str | None:
        """Why it cannot be added to a tensor of this shape, or None."""

    @abstractmethod
    def rows(self, shape: Shape, read: Read) -> Rows:
        """What gives its rows, for a tensor of this shape; scaled."""

    @property
    def rank(self) -> int | None:
        """Of its factors; None where it has none."""
        return None


@dataclass(frozen=True)
class LowRank(Update):
    """scale * up down, shapes (m, r) and (r, n); with `middle`, a convolution between the two."""

    up: TensorInfo
    """(m, r), or (m, r, 1, 1): the base's rows."""
    down: TensorInfo
    """(r, n), or (r, i, k, k)."""
    scale: float
    middle: TensorInfo | None = None
    """(r, r, k, k): then `down` is (r, i, 1, 1)."""
    transposed: bool = False
    """The base keeps the transpose: rows are inputs, as in embeddings and in GPT-2."""

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        return (self.up, self.down, *([self.middle] if self.middle else []))

    @property
    def rank(self) -> int:
        return self.down.shape[0] if self.down.shape else 0

    @property
    def flat(self) -> tuple[int, int]:
        """(m, n) of up down."""
        kernel = prod(self.middle.shape[2:]) if self.middle else 1
        return self.up.shape[0], prod(self.down.shape[1:]) * kernel

    def misfit(self, shape: Shape) -> str | None:
        found = _factors(self.up, self.down) or _middle(self.middle, self.down)
        if found:
            return found
        m, n = self.flat
        own = (shape[0], prod(shape[1:])) if shape else (1, 1)
        if ((n, m) if self.transposed else (m, n)) != own or (self.transposed and len(shape) != 2):
            return f"its factors make {[n, m] if self.transposed else [m, n]}"
        if self.rank > max(1024, 4 * min(own)):
            return f"its rank is {self.rank}"
        return None

    def rows(self, shape: Shape, read: Read) -> Rows:
        up, down = matrix(read(self.up)), matrix(read(self.down))
        if self.middle is not None:
            down = _through(read(self.middle), down)
        up = up * self.scale
        product = Product.of(down.T, up.T) if self.transposed else Product.of(up, down)
        return product.rows


@dataclass(frozen=True)
class Hadamard(Update):
    """scale * (a1 b1) o (a2 b2), entry by entry (LoHa); with cores, of Tucker form."""

    first: tuple[TensorInfo, TensorInfo]
    """`hada_w1_a` (m, r), `hada_w1_b` (r, n)."""
    second: tuple[TensorInfo, TensorInfo]
    scale: float
    cores: tuple[TensorInfo, TensorInfo] | None = None
    """`hada_t1`, `hada_t2` (r, r, k, k): then `a` is (r, m) and `b` (r, i)."""

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        return (*self.first, *self.second, *(self.cores or ()))

    @property
    def rank(self) -> int:
        return self.first[1].shape[0] if self.first[1].shape else 0

    def misfit(self, shape: Shape) -> str | None:
        for a, b in (self.first, self.second):
            if len(a.shape) != 2 or len(b.shape) != 2:
                return f"`{a.name}` is {list(a.shape)}, and should be a matrix"
        sizes = []
        for i, (a, b) in enumerate((self.first, self.second)):
            if self.cores:
                core = self.cores[i]
                if len(core.shape) < 3 or core.shape[:2] != (a.shape[0], b.shape[0]):
                    return f"`{core.name}` is {list(core.shape)}"
                sizes.append((a.shape[1], b.shape[1] * prod(core.shape[2:])))
            elif a.shape[1] != b.shape[0]:
                return f"`{a.name}` is {list(a.shape)} and `{b.name}` {list(b.shape)}"
            else:
                sizes.append((a.shape[0], b.shape[1]))
        own = (shape[0], prod(shape[1:])) if shape else (1, 1)
        wrong = next((s for s in sizes if s != own), None)
        return f"its factors make {list(wrong)}" if wrong else None

    def rows(self, shape: Shape, read: Read) -> Rows:
        products = []
        for i, (a, b) in enumerate((self.first, self.second)):
            left, right = read(a), read(b)
            if self.cores:
                left, right = left.T, _through(read(self.cores[i]), right)
            products.append(Product.of(left * self.scale if i == 0 else left, right))
        one, two = products

        def rows(first: int, last: int) -> torch.Tensor:
            return one.rows(first, last).mul_(two.rows(first, last))

        return rows


@dataclass(frozen=True)
class Kronecker(Update):
    """scale * kron(w1, w2) (LoKr); each of the two whole, or a product of thin matrices."""

    first: tuple[TensorInfo, ...]
    """`lokr_w1`; or `lokr_w1_a` (a, r), `lokr_w1_b` (r, b)."""
    second: tuple[TensorInfo, ...]
    """`lokr_w2` (c, d, ...); or `lokr_w2_a` (c, r), `lokr_w2_b` (r, d ...); or those with
    `lokr_t2` (r, r, k, k), then `lokr_w2_a` is (r, c) and `lokr_w2_b` (r, d)."""
    scale: float

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        return (*self.first, *self.second)

    @property
    def rank(self) -> int | None:
        thin = next((p for p in (self.second, self.first) if len(p) > 1), None)
        return thin[1].shape[0] if thin and thin[1].shape else None

    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int], int] | str:
        """(a, b), (c, d) and the kernel's elements; or what is wrong."""
        for found in self.parts:
            if len(found.shape) < 2:
                return f"`{found.name}` is {list(found.shape)}, and should be a matrix"
        if len(self.first) == 2:
            a, b = self.first
            if a.shape[1] != b.shape[0]:
                return f"`{a.name}` is {list(a.shape)} and `{b.name}` {list(b.shape)}"
            one = (a.shape[0], b.shape[1])
        else:
            one = (self.first[0].shape[0], prod(self.first[0].shape[1:]))
        if len(self.second) == 1:
            (whole,) = self.second
            return one, (whole.shape[0], whole.shape[1]), prod(whole.shape[2:])
        a, b = self.second[:2]
        if len(self.second) == 3:
            core = self.second[2]
            if core.shape[:2] != (a.shape[0], b.shape[0]):
                return f"`{core.name}` is {list(core.shape)}"
            return one, (a.shape[1], b.shape[1]), prod(core.shape[2:])
        if a.shape[1] != b.shape[0]:
            return f"`{a.name}` is {list(a.shape)} and `{b.name}` {list(b.shape)}"
        return one, (a.shape[0], b.shape[1]), prod(b.shape[2:])

    def misfit(self, shape: Shape) -> str | None:
        found = self._sizes()
        if isinstance(found, str):
            return found
        (a, b), (c, d), kernel = found
        rest = prod(shape[1:])
        if shape[:1] != (a * c,) or rest % (b * d) or not self._kernel_fits(shape, d, b, kernel):
            return f"its factors make {[a * c, b * d]} with kernels of {kernel}"
        return None

    def _kernel_fits(self, shape: Shape, d: int, b: int, kernel: int) -> bool:
        inner = prod(shape[2:])
        if kernel == inner:
            return shape[1] == b * d
        # `lokr_w2_b` may hold a kernel flattened into its columns.
        return kernel == 1 and len(self.second) == 2 and prod(shape[1:]) == b * d

    def rows(self, shape: Shape, read: Read) -> Rows:
        one = self._whole(self.first, read) * self.scale
        two = self._whole(self.second, read)
        kernel = prod(shape[2:])
        one, two = matrix(one), two.reshape(two.shape[0], -1, kernel)
        below, n = two.shape[0], prod(shape[1:])

        def rows(first: int, last: int) -> torch.Tensor:
            import torch

            at = torch.arange(first, last)
            left, right = one[at // below], two[at % below]
            # (rows, b, 1, 1) * (rows, 1, d, k): each entry is one product of two numbers.
            return (left[:, :, None, None] * right[:, None]).reshape(last - first, n)

        return rows

    @staticmethod
    def _whole(parts: tuple[TensorInfo, ...], read: Read) -> torch.Tensor:
        if len(parts) == 1:
            return read(parts[0])
        a, b = read(parts[0]), read(parts[1])
        if len(parts) == 3:
            core = read(parts[2])
            return (
                Product.of(a.T, _through(core, b)).whole().reshape(-1, b.shape[1], *core.shape[2:])
            )
        return Product.of(a, matrix(b)).whole().reshape(a.shape[0], *b.shape[1:])


@dataclass(frozen=True)
class Whole(Update):
    """scale * a difference in full: `diff`, `diff_b`, the bias of `lora_B`."""

    difference: TensorInfo
    scale: float

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        return (self.difference,)

    def misfit(self, shape: Shape) -> str | None:
        own = self.difference.shape
        return None if prod(own) == prod(shape) and own[:1] == shape[:1] else f"it is {list(own)}"

    def rows(self, shape: Shape, read: Read) -> Rows:
        values = matrix(read(self.difference).reshape(shape)) * self.scale
        return lambda first, last: values[first:last].clone()


def matrix(values: torch.Tensor) -> torch.Tensor:
    """First axis, and the rest; a vector is a column."""
    return values.reshape(values.shape[0] if values.dim() else 1, -1)


def _through(core: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """sum_q core[p, q, ...] down[q, i] as (p, i * kernel): a 1x1 convolution after a larger one."""
    r, q = core.shape[:2]
    inner = core.reshape(r, q, -1)
    mixed = inner.permute(0, 2, 1).reshape(-1, q)  # (r * kernel, q)
    made = Product.of(mixed, matrix(down)).whole()  # (r * kernel, i)
    return made.reshape(r, inner.shape[2], -1).permute(0, 2, 1).reshape(r, -1).contiguous()


def _factors(up: TensorInfo, down: TensorInfo) -> str | None:
    """Why two tensors are no factors of one product."""
    for one in (up, down):
        if len(one.shape) < 2:
            return f"`{one.name}` is {list(one.shape)}, and should be a matrix"
    if prod(up.shape[1:]) != down.shape[0] or up.shape[1] == 0:
        return f"`{up.name}` is {list(up.shape)} and `{down.name}` {list(down.shape)}"
    return None


def _middle(middle: TensorInfo | None, down: TensorInfo) -> str | None:
    if middle is None:
        return None
    r = down.shape[0]
    if len(middle.shape) < 3 or middle.shape[:2] != (r, r) or prod(down.shape[2:]) != 1:
        return f"`{middle.name}` is {list(middle.shape)} and `{down.name}` {list(down.shape)}"
    return None
