"""What diagnostics ask of long vectors, each vector read once: lengths, dot products, largest entries.

Plain torch takes a pass over the memory for every one of these; on a GPU that was half of what looking at a model
cost. On other devices: `diagnostics.rows`, the reference.
"""

import torch
from torch import Tensor

from sinkbench.diagnostics.rows import Products, Rows, column_extremes, measure_products, measure_rows
from sinkbench.engine.grouped import has_kernels
from sinkbench.engine.kernels import ceil_div, padded_width
from sinkbench.engine.keys import product

MAX_MAPPED_WIDTH = 128
"""Widest vectors that `mapped_norms` takes to its kernel, which holds a whole map."""

_ROW_BLOCK = 1024
"""Entries of a row that a program reads at a time."""
_TILE_ENTRIES = 2048
"""Entries that a program holds at a time."""
_MAPPED_ROWS = 64


def row_statistics(values: Tensor, reference: Tensor | None = None) -> Rows:
    """Measure vectors.

    Args:
        values: (B, Q, d) or (B, H, Q, d), any strides but a last one of 1, any floating type.
        reference: (B, d) or (B, H, d), of the same type.
    """
    return kernel_rows(values, reference) if _can_launch(values) else measure_rows(values, reference)


def row_products(values: Tensor, reference: Tensor | None = None) -> Products:
    """Lengths and products alone, for less; the arguments are those of `row_statistics`."""
    return kernel_products(values, reference) if _can_launch(values) else measure_products(values, reference)


def _can_launch(values: Tensor) -> bool:
    """Kernels have no backward pass."""
    return has_kernels(values) and not (torch.is_grad_enabled() and values.requires_grad)


def kernel_rows(values: Tensor, reference: Tensor | None = None) -> Rows:
    """`row_statistics` by the Triton kernel."""
    return Rows(*_launch(values, reference, extremes=True))


def kernel_products(values: Tensor, reference: Tensor | None = None) -> Products:
    """`row_products` by the Triton kernel."""
    return Products(*_launch(values, reference, extremes=False))


def _launch(values: Tensor, reference: Tensor | None, extremes: bool) -> list[Tensor]:
    """Norms, products and, if asked for, largest magnitudes and their dimensions."""
    from sinkbench.engine import triton_rows

    spread = values.unsqueeze(1) if values.dim() == 3 else values
    b, h, q, d = spread.shape
    block = min(padded_width(d), _ROW_BLOCK)
    rows = max(1, _TILE_ENTRIES // block)
    norms, dots = values.new_empty(2, b, h, q, dtype=torch.float32)
    out = [norms, dots]
    if extremes:
        out += [torch.empty_like(norms), torch.empty_like(norms, dtype=torch.int64)]
    other = spread if reference is None else reference.view(b, h, d)  # not read without a reference
    triton_rows.row_kernel[(ceil_div(q, rows), b * h)](
        spread,
        other,
        norms,
        dots,
        *out[-2:],  # not written without extremes
        h,
        q,
        d,
        *spread.stride()[:3],
        *other.stride()[:2],
        DOT=reference is not None,
        EXTREMES=extremes,
        ROWS=rows,
        BLOCK=block,
        num_warps=4,
    )
    return [result.view(values.shape[:-1]) for result in out]


def extremes(hidden: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`column_extremes` by the fastest way that the device allows."""
    return kernel_columns(hidden, valid) if has_kernels(hidden) else column_extremes(hidden, valid)


def kernel_columns(hidden: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`column_extremes` by the Triton kernel."""
    from sinkbench.engine import triton_rows

    b, k, d = hidden.shape
    values = hidden.new_empty(b, d, dtype=torch.float32)
    tokens = torch.empty(b, d, dtype=torch.int64, device=hidden.device)
    columns, rows = 64, _TILE_ENTRIES // 64
    triton_rows.column_kernel[(ceil_div(d, columns), b)](
        hidden,
        valid.to(torch.uint8),
        values,
        tokens,
        k,
        d,
        *hidden.stride()[:2],
        ROWS=rows,
        COLUMNS=columns,
        num_warps=4,
    )
    return values, tokens


def mapped_norms(values: Tensor, maps: Tensor) -> Tensor:
    """Lengths of vectors under a linear map of each head.

    Args:
        values: (B, H_kv, Q, d), last stride 1.
        maps: (H, d, d) float32, of query heads: those of a KV head lie side by side.

    Returns:
        (B, H, Q) float32, ‖M_h v‖₂ with the v of the head's KV head.
    """
    if has_kernels(values) and values.shape[-1] <= MAX_MAPPED_WIDTH:
        return kernel_mapped_norms(values, maps)
    b, kv_heads, q, d = values.shape
    # For each KV head, the maps of its query heads side by side: (H_kv, d, share · d).
    stacked = maps.view(kv_heads, -1, d).transpose(1, 2).to(values.dtype)
    norms: Tensor = product(values, stacked.expand(b, -1, -1, -1)).view(b, kv_heads, q, -1, d).norm(dim=-1)
    return norms.transpose(2, 3).flatten(1, 2)


def kernel_mapped_norms(values: Tensor, maps: Tensor) -> Tensor:
    """`mapped_norms` by the Triton kernel."""
    from sinkbench.engine import triton_rows

    b, kv_heads, q, d = values.shape
    h = len(maps)
    maps = maps.to(values.dtype).contiguous()
    norms = values.new_empty(b, h, q, dtype=torch.float32)
    triton_rows.mapped_kernel[(ceil_div(q, _MAPPED_ROWS), h, b)](
        values,
        maps,
        norms,
        q,
        *values.stride()[:3],
        SHARE=h // kv_heads,
        ROWS=_MAPPED_ROWS,
        D=padded_width(d),
        HEAD_DIM=d,
        PRECISION="ieee" if values.dtype == torch.float32 else "tf32",
        num_warps=4,
    )
    return norms
