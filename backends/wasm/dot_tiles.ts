/** Chunks whose sums lie in a tile of scratch memory, to which blocks of the contracted axis are added one after the other. */
import type { Access, DotKernel, Expr, Store } from "../kernel.ts";
import { f32x4, i32, memory, v128 } from "./assembler.ts";
import { type Arrangement, BATCH, type ChunkSize, COLUMN, FIRST, multiple, ROW } from "./contraction.ts";
import { emitInline } from "./dot_inline.ts";
import { emitPanels, leftBytes, PANEL_COLUMNS, rowsAtOnce } from "./dot_panels.ts";
import type { Emitter } from "./emitter.ts";
import { layoutOf } from "./layout.ts";
import { smaller, vectorLoop } from "./nest.ts";
import { createPlace, type Index, type KernelCode } from "./place.ts";
import { emitStores } from "./stores.ts";

/**
 * Most bytes of a left operand that a thread keeps for the next columns. It need not fit a cache: reading it again takes less than
 * evaluating it again (256 by 2048 by 2048, rows divided by their norm: 68 ms without, 64 ms with; 8192 columns: 139 and 129 ms).
 */
const KEPT = 2 ** 23;

/** Prepares scratch memory; returns a function that writes the chunk of an index. */
export function tiledChunk(
  { spec, contraction, term, stores }: Arrangement & { readonly spec: DotKernel },
  emitter: Emitter,
  { few, rows, columns }: ChunkSize,
): (index: Index) => void {
  const { code, reserve } = emitter, { b } = code, { extents, axes, block } = contraction, [, m = 1, n = 1] = extents;
  const rowBlocks = Math.ceil(m / rows), columnBlocks = Math.ceil(n / columns);
  const width = multiple(columns, PANEL_COLUMNS), height = multiple(rows, rowsAtOnce(m)), bytes = 4 * width * height;
  const sums = reserve(bytes), tile = spec.groups ? reserve(bytes) : sums;
  const left = few || spec.groups || columnBlocks === 1 ? 0 : leftBytes(contraction, code, rows);
  const keep = left > 0 && left <= KEPT, once = !few && !spec.groups && (extents[axes[0] ?? FIRST] ?? 1) <= block;
  const target = once && n % PANEL_COLUMNS === 0 ? targetOf(spec, stores, code) : undefined;
  const strategy = few
    ? emitInline(contraction, emitter, rows)
    : emitPanels(contraction, emitter, { rows, columns, keep, once });
  /** Which rows' left operand this thread has evaluated. */
  const owner = keep ? emitter.prepared(4, ({ code }, at) => code.b.emit(i32.store(at, -1))) : undefined;
  const place = createPlace(code, extents);

  return (index) => {
    const column = b.let("column_block", i32.rem_u(index, columnBlocks)),
      rest = b.let("rest", i32.div_u(index, columnBlocks));
    const row = rowBlocks === 1 ? i32.const(0) : b.let("row_block", i32.rem_u(rest, rowBlocks));
    const batchIndex = rowBlocks === 1 ? rest : b.let("batch", i32.div_u(rest, rowBlocks));
    const range = (position: Index, count: number, extent: number) => {
      const start = b.let("start", i32.mul(position, count));
      return { from: start, to: b.let("end", smaller(i32.add(start, count), i32.const(extent))), most: count };
    };
    const fresh = owner && b.let("fresh", i32.ne(i32.load(owner), rest));
    const ranges = { rows: range(row, rows, m), columns: range(column, columns, n) };
    if (!once) b.emit(memory.fill(sums, 0, bytes));
    const start = (to: Index) =>
      b.let("origin", i32.sub(to, i32.mul(i32.add(i32.mul(ranges.rows.from, width), ranges.columns.from), 4)));
    const origins = { sums: start(sums), tile: tile === sums ? start(sums) : start(tile) };
    const scratch = (base: Index) =>
      code.buffers.push({ name: "tile", layout: layoutOf({ dtype: "f32", shape: [height, width] }), base }) - 1;
    const access: Access = { offset: 0, strides: extents.map((_, v) => v === ROW ? width : v === COLUMN ? 1 : 0) };
    const [sumBuffer, tileBuffer] = [scratch(origins.sums), scratch(origins.tile)];
    const blocks = (group: Index | undefined) => {
      const [first = FIRST] = axes, length = extents[first] ?? 1;
      b.for("k_from", 0, length, block, (kFrom) =>
        strategy({
          emitter,
          contraction,
          places: (count, body) => {
            const opened = Array.from({ length: count }, () => createPlace(code, extents));
            const open = (i: number): void => {
              const own = opened[i];
              if (!own) return body(opened);
              own.within(BATCH, batchIndex, undefined, () =>
                group
                  ? own.within(FIRST, group, undefined, () => open(i + 1))
                  : open(i + 1));
            };
            open(0);
          },
          ...ranges,
          k: { from: kFrom, to: b.let("k_to", smaller(i32.add(kFrom, block), i32.const(length))) },
          tile,
          width,
          output: target && ((row, column) => {
            const { base, offset } = place.address(target.buffer, target.origin);
            const at = i32.add(i32.mul(row, 4 * target.rowStride), i32.mul(i32.add(ranges.columns.from, column), 4));
            return i32.add(i32.add(base, offset), at);
          }),
          fresh,
        }));
      if (owner) b.emit(i32.store(owner, rest));
    };
    /** Visits the chunk's elements, vectors along the columns. */
    const visit = (roots: readonly Expr[], prepareMore: () => void, body: () => void) => {
      const prepare = () => {
        place.prepare(roots);
        prepareMore();
      };
      prepare();
      b.for("row", ranges.rows.from, ranges.rows.to, 1, (index) =>
        place.within(ROW, index, undefined, () => {
          prepare();
          vectorLoop(place, COLUMN, n, body, { range: ranges.columns });
        }));
    };
    place.within(BATCH, batchIndex, undefined, () => {
      const { groups } = spec;
      if (groups && term) {
        b.for("group", 0, extents[FIRST] ?? 1, 1, (group) => {
          b.emit(memory.fill(tile, 0, bytes));
          blocks(group);
          place.within(FIRST, group, undefined, () => {
            place.alias(groups.inner, { kind: "load", buffer: tileBuffer, access, scalar: spec.scalar });
            visit([term], () => void place.address(sumBuffer, access), () => {
              const value = place.value(term), { base, offset } = place.address(sumBuffer, access);
              b.emit(v128.store(base, f32x4.add(v128.load(base, { offset, align: 4 }), value), { offset, align: 4 }));
            });
          });
        });
      } else blocks(undefined);
      if (target) return;
      const scalar = spec.groups ? "f32" : spec.scalar;
      place.alias(spec.accumulator, { kind: "load", buffer: sumBuffer, access, scalar });
      const roots = stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);
      const addresses = () => {
        for (const { buffer, access } of stores) {
          if (place.buffer(buffer).layout.size > 0) place.address(buffer, access);
        }
      };
      visit(roots, addresses, () => emitStores(place, stores));
    });
    code.buffers.length -= 2;
  };
}

/** A result that is nothing but the sums, in f32 and row by row. */
interface Target {
  readonly buffer: number;
  /** Element 0 of a batch. */
  readonly origin: Access;
  readonly rowStride: number;
}

/** The result that sums can be written to as they are, without a tile between. */
function targetOf(spec: DotKernel, stores: readonly Store[], { buffers }: KernelCode): Target | undefined {
  const [store, ...others] = stores;
  if (!store || others.length > 0 || store.scatter || spec.scalar !== "f32") return undefined;
  const { buffer, access: { offset, strides }, value } = store, layout = buffers[buffer]?.layout;
  const plain = value.kind === "value" && value.id === spec.accumulator && layout?.dtype === "f32";
  if (!plain || layout.storage !== "word" || strides[COLUMN] !== 1) return undefined;
  return {
    buffer,
    origin: { offset, strides: strides.map((stride, v) => v === BATCH ? stride : 0) },
    rowStride: strides[ROW] ?? 0,
  };
}
