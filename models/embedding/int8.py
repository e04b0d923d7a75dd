"""Row-wise int8 forms of trained tables for serving: the same forward, 8 bits a number, no TorchRec.

A row of `D` numbers is one row of bytes, the layout that torch's own CPU kernels read::

    code 0 | code 1 | ... | code D-1 | scale, float32 | bias, float32        number d = scale * code d + bias

`bias` is the row's least number and `scale` its range / 255, so a number is at most scale / 2 + 1e-8 off. Scale and
bias as float16 would save 4 bytes a row, but no kernel of torch reads them: lookups were 40 times slower, and the error
three times as large. Legend: `v` ids of one bag, `n` ids of one table, `R` rows of the batch, `D` dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding.bags import PlainBags
from models.embedding.checks import Bag, check_ids, check_values
from models.embedding.plain import PlainTables
from models.embedding.spec import BagSpec, TableSpec, check_bags, check_specs

HEADER_BYTES = 8
"""Scale and bias of a row."""
_BLOCK = 1 << 16
"""Rows whose error is measured at a time."""


class Int8Tables(nn.Module):
    """The int8 form of `PlainTables`: same forward, and the codes in place of the weights in its state dict.

    Args:
        specs: Tables of equal dimensions.

    Example:
        >>> tables = Int8Tables([TableSpec("item", rows=3, dimensions=4)])
        >>> {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tables.state_dict().items()}
        {'collection.embeddings.item.codes': (torch.uint8, (3, 12))}
    """

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        super().__init__()
        self.specs = check_specs(specs)
        self.collection = nn.Module()
        self.collection.embeddings = nn.ModuleDict({spec.name: _Codes(spec) for spec in self.specs})

    def forward(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Look up the vectors of each table; arguments, result and errors as those of `PlainTables.forward`."""
        check_ids(ids, self.specs)
        return {spec.name: self._look_up(spec.name, ids[spec.name]) for spec in self.specs}

    def _look_up(self, table: str, ids_n: Tensor) -> Tensor:
        codes = self.collection.get_buffer(f"embeddings.{table}.codes")
        present_n = ids_n >= 0
        return sum_rows(codes, ids_n[present_n], F.pad(present_n.cumsum(0), (1, 0)))


class Int8Bags(nn.Module):
    """The int8 form of `PlainBags`: same forward, and the codes in place of the weights in its state dict.

    Args:
        tables: Tables, of any dimensions.
        bags: Which ids are looked up where; every table has at least one.
    """

    def __init__(self, tables: Sequence[TableSpec], bags: Sequence[BagSpec]) -> None:
        super().__init__()
        self.specs, self.bags = check_bags(tables, bags)
        self.collection = nn.Module()
        self.collection.embedding_bags = nn.ModuleDict({table.name: _Codes(table) for table in self.specs})

    def forward(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Look up and pool the vectors of each bag; arguments, result and errors as those of `PlainBags.forward`."""
        check_values(values, self.specs, self.bags)
        return {bag.name: self._pool(bag, *values[bag.name]) for bag in self.bags}

    def _pool(self, bag: BagSpec, ids_v: Tensor, offsets: Tensor) -> Tensor:
        sums_RD = sum_rows(self.collection.get_buffer(f"embedding_bags.{bag.table}.codes"), ids_v, offsets)
        return sums_RD / offsets.diff().clamp_min(1).unsqueeze(1) if bag.pooling == "mean" else sums_RD


class _Codes(nn.Module):
    codes: Tensor

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(spec.rows, spec.dimensions + HEADER_BYTES, dtype=torch.uint8))


def encode_rows(weight_ND: Tensor) -> Tensor:
    """Return float rows `[N, D]` as uint8 rows `[N, D + 8]`.

    Raises:
        ValueError: A number is not finite.
    """
    if not bool(torch.isfinite(weight_ND).all()):
        raise ValueError("expected finite numbers to write as int8, got infinite ones or NaN; train again or repair")
    return torch.ops.quantized.embedding_bag_byte_prepack(weight_ND.detach().float().contiguous())


def decode_rows(codes: Tensor) -> Tensor:
    """Return uint8 rows `[N, D + 8]` as float32 `[N, D]`, step by step: what `sum_rows` must agree with."""
    scale_N, bias_N = codes[:, -HEADER_BYTES:].contiguous().view(torch.float32).unbind(1)
    return codes[:, :-HEADER_BYTES].float() * scale_N.unsqueeze(1) + bias_N.unsqueeze(1)


def sum_rows(codes: Tensor, ids_v: Tensor, offsets: Tensor) -> Tensor:
    """Decode rows `ids[offsets[r]:offsets[r + 1]]` and add them up, for each r: float32 `[R, D]`."""
    return torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        codes, ids_v, offsets, mode=0, include_last_offset=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedTable:
    """What became of one table."""

    path: str
    """Of its weights, in the state dict before."""
    rows: int
    dimensions: int
    bytes_before: int
    bytes_after: int
    largest_error: float
    """The largest absolute difference between a number and its int8 form."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What became of the tables of a model."""

    tables: tuple[QuantizedTable, ...]

    @property
    def bytes_before(self) -> int:
        """Bytes of all tables as they were."""
        return sum(table.bytes_before for table in self.tables)

    @property
    def bytes_after(self) -> int:
        """Bytes of all tables as they are."""
        return sum(table.bytes_after for table in self.tables)

    def lines(self) -> list[str]:
        """Return the report for printing: one line per table, and the sum."""
        return [
            *(
                f"{table.path}: {table.rows:,} x {table.dimensions}, {table.bytes_before:,} -> "
                f"{table.bytes_after:,} bytes, largest error {table.largest_error:.2g}"
                for table in self.tables
            ),
            f"int8 tables: {self.bytes_before:,} -> {self.bytes_after:,} bytes, "
            f"{self.bytes_before / self.bytes_after:.2f} times smaller",
        ]


def quantize(module: nn.Module) -> QuantizationReport:
    """Replace all `PlainTables` and `PlainBags` within `module` by their int8 forms.

    To load what was saved, quantise a module built the same way and give it the state dict.

    Args:
        module: Holds them at any depth, perhaps one in several places; they must be on the CPU.

    Raises:
        ValueError: There is none, `module` is one itself, or a weight is not finite.

    Example:
        >>> model = nn.Sequential(PlainTables([TableSpec("item", rows=1000, dimensions=64)]))
        >>> quantize(model).lines()[-1]
        'int8 tables: 256,000 -> 72,000 bytes, 3.56 times smaller'
    """
    found = _plain_parts(module)
    if not found or "" in found:
        raise ValueError(
            "int8 tables: expected a module that holds PlainTables or PlainBags, got "
            f"{type(module).__name__}{', which is itself such a part' if found else ' without any'}; "
            "quantise the model around them, before any other form of its tables is put in"
        )
    twins: dict[nn.Module, nn.Module] = {}
    tables: list[QuantizedTable] = []
    for path, part in found.items():
        if part not in twins:
            twins[part] = _twin(part)
            tables += _fill(path, part, twins[part])
    for path, part in found.items():
        module.set_submodule(path, twins[part])
    return QuantizationReport(tables=tuple(tables))


def _plain_parts(module: nn.Module) -> dict[str, nn.Module]:
    """Return every place that holds tables, with what it holds."""
    every = module.named_modules(remove_duplicate=False)
    return {path: part for path, part in every if isinstance(part, PlainTables | PlainBags)}


def _twin(part: nn.Module) -> nn.Module:
    assert isinstance(part, PlainTables | PlainBags)
    twin = Int8Tables(part.specs) if isinstance(part, PlainTables) else Int8Bags(part.specs, part.bags)
    return twin.train(part.training)


def _fill(path: str, part: nn.Module, twin: nn.Module) -> Iterator[QuantizedTable]:
    """Write the weights of `part` into the codes of `twin`; both name their tables alike."""
    for name, weight_ND in part.named_parameters():
        codes = twin.get_buffer(name.removesuffix("weight") + "codes")
        try:
            codes.copy_(encode_rows(weight_ND))
        except ValueError as error:
            raise ValueError(f"{path}.{name}: {error}") from error
        yield QuantizedTable(
            path=f"{path}.{name}",
            rows=weight_ND.shape[0],
            dimensions=weight_ND.shape[1],
            bytes_before=weight_ND.nbytes,
            bytes_after=codes.nbytes,
            largest_error=_largest_error(weight_ND.detach(), codes),
        )


def _largest_error(weight_ND: Tensor, codes: Tensor) -> float:
    blocks = zip(torch.split(weight_ND, _BLOCK), torch.split(codes, _BLOCK), strict=True)
    return max(float((decode_rows(block) - weight).abs().max()) for weight, block in blocks)
