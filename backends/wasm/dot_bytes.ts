/**
 * Products of many rows with packed codes, on bytes: of integers, or of f32 as two digits of integers (`activations.ts`). Columns go
 * eight at a time: their codes are unpacked once per group into a panel that fits the first-level cache (of every column four bytes,
 * then the next four), and all rows pass by it, six at a time. What a group adds is computed from the registers and added to a strip
 * of sums, from which the stores are computed in the end. Where there is one group, they are computed from the registers at once.
 */
import type { Access, DotKernel, Expr } from "../kernel.ts";
import { joinDigits, leftBytes } from "./activations.ts";
import { f32x4, i32, i32x4, memory, v128 } from "./assembler.ts";
import { eachRowBlock, pack, panelKindOf, product } from "./byte_panels.ts";
import { startOf } from "./code_sweep.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { type Arrangement, BATCH, type ChunkSize, COLUMN, outerAxes, ROW } from "./contraction.ts";
import { scaledSums } from "./dot_coded.ts";
import { PANEL_COLUMNS, rowsAtOnce } from "./dot_panels.ts";
import { SHORT_BYTES, shortChunk } from "./dot_short.ts";
import type { Emitter } from "./emitter.ts";
import { layoutOf } from "./layout.ts";
import { nestedLoops, smaller, vectorLoop, withinAll } from "./nest.ts";
import { createPlace, type Index, type Place, type Vector } from "./place.ts";
import { emitStores } from "./stores.ts";

/** Prepares scratch memory; returns a function that writes the chunk of an index. */
export function byteChunk(
  { spec, contraction, term, stores, operand }: Arrangement & {
    readonly spec: DotKernel;
    readonly operand: CodedOperand;
  },
  emitter: Emitter,
  { rows, columns }: ChunkSize,
): (index: Index) => void {
  const { code, reserve } = emitter, { b } = code, { extents } = contraction, [, m = 1, n = 1] = extents;
  const rowBlocks = Math.ceil(m / rows), columnBlocks = Math.ceil(n / columns);
  const outer = outerAxes(contraction);
  const kind = panelKindOf(operand, code), left = leftBytes(contraction, emitter, kind.words);
  const { digits, vectors } = left, fours = left.groupBytes / (4 * vectors);
  const isOneGroup = outer.length === 0 && !spec.groups;
  const isShort = isOneGroup && digits === 1 && 4 * fours <= SHORT_BYTES && n % PANEL_COLUMNS === 0;
  const short = isShort
    ? shortChunk(
      { contraction, term, stores, spec, operand, kind, left, columns },
      emitter,
    )
    : undefined;
  const panel = short ? i32.const(0) : reserve(PANEL_COLUMNS * 4 * fours * kind.parts);
  const strip = isOneGroup ? i32.const(0) : reserve(4 * PANEL_COLUMNS * rows);
  const roots = [term, operand.scale, operand.zero, ...(isOneGroup ? stores.map(({ value }) => value) : [])]
    .filter((root) => root !== undefined);
  return (index) => {
    const rest = b.let("rest", i32.div_u(index, columnBlocks));
    const range = (position: Index, count: number, extent: number) => {
      const from = b.let("from", i32.mul(position, count));
      return { from, to: b.let("to", smaller(i32.add(from, count), i32.const(extent))) };
    };
    const columnRange = range(i32.rem_u(index, columnBlocks), columns, n);
    const rowRange = range(i32.rem_u(rest, rowBlocks), rows, m), batch = b.let("batch", i32.div_u(rest, rowBlocks));
    if (short) return short(batch, rowRange, columnRange);
    const height = b.let("height", i32.sub(rowRange.to, rowRange.from));
    /** All rows of one or two vectors of columns, of which `places` are open at their column. */
    const multiply = (places: readonly Place[], column: Index) => {
      const [place] = places, width = 4 * places.length, stripBytes = 4 * width;
      if (!place) return;
      if (!isOneGroup) b.emit(memory.fill(strip, 0, i32.mul(height, stripBytes)));
      const lanes = Array.from({ length: width }, () => createPlace(code, extents));
      const indices = lanes.map((_, i) =>
        b.let("index", smaller(b.let("index", i32.add(column, i)), i32.const(n - 1)))
      );
      const prepare = () => {
        places.forEach((own) => own.prepare(roots));
        lanes.forEach((lane) => startOf(lane, operand));
      };
      withinAll(lanes, BATCH, batch, undefined, () =>
        withinAll(lanes, COLUMN, indices, undefined, () => {
          prepare();
          nestedLoops([...lanes, ...places], outer, prepare, () => {
            pack(code, lanes, operand, kind, panel, fours);
            const x = b.let("x_at", left.at(place)), steps = digits > 1 ? left.step(place) : undefined;
            const rowBlock = (row: Index, count: number) => {
              const rowsHere = Array.from({ length: count }, (_, r) => r === 0 ? row : b.let("row", i32.add(row, r)));
              const pointers = rowsHere.map((own) => b.let("x", i32.add(x, i32.mul(own, left.rowStride))));
              const sums = product(code, pointers, panel, { vectors: places.length, kind, digits, fours });
              rowsHere.forEach((own, r) => {
                const target = b.let("target", i32.add(strip, i32.mul(i32.sub(own, rowRange.from), stripBytes)));
                const step = steps &&
                  b.let("step_at", i32.add(steps, i32.mul(own, 4 * (left.strides[ROW] ?? 0))));
                places.forEach((open, v) =>
                  open.within(ROW, own, undefined, () => {
                    const of = sums[r]?.[v] ?? [], [sum] = of, at = 16 * v;
                    if (!sum) return;
                    const value = spec.groups
                      ? groupTerm(open, spec.groups.inner, term, sum)
                      : step
                      ? scaledSums(open, operand, joinDigits(code.math.madd, of), step, left)
                      : sum;
                    if (isOneGroup) {
                      open.define(spec.accumulator, b.let("sums", value));
                      emitStores(open, stores);
                      return;
                    }
                    const add = spec.groups || digits > 1 ? f32x4.add : i32x4.add;
                    b.emit(v128.store(target, add(v128.load(target, at), value), at));
                  })
                );
              });
            };
            const atOnce = Math.min(rowsAtOnce(m), kind.rows / (places.length * digits));
            eachRowBlock(b, rowRange, atOnce, rowBlock);
          });
        }));
      if (isOneGroup) return;
      const origin = b.let("origin", i32.sub(strip, i32.mul(rowRange.from, stripBytes)));
      code.buffers.push({ name: "strip", layout: layoutOf({ dtype: "f32", shape: [rows, width] }), base: origin });
      b.for(
        "row",
        rowRange.from,
        rowRange.to,
        1,
        (row) =>
          places.forEach((open, v) =>
            open.within(ROW, row, undefined, () => {
              const access: Access = { offset: 4 * v, strides: extents.map((_, i) => i === ROW ? width : 0) };
              const { base, offset } = open.address(code.buffers.length - 1, access);
              open.define(spec.accumulator, b.let("sums", v128.load(base, offset)));
              emitStores(open, stores);
            })
          ),
      );
      code.buffers.length--;
    };
    const pair = [createPlace(code, extents), createPlace(code, extents)], single = createPlace(code, extents);
    const next = b.let("next", columnRange.from), whole = n - n % PANEL_COLUMNS;
    withinAll([...pair, single], BATCH, batch, undefined, () => {
      b.for("column", next, b.let("end", smaller(columnRange.to, i32.const(whole))), PANEL_COLUMNS, (column) => {
        withinAll(pair, COLUMN, [column, b.let("second", i32.add(column, 4))], 4, () => multiply(pair, column));
        b.set(next, i32.add(column, PANEL_COLUMNS));
      });
      if (whole < n) {
        b.if(
          i32.lt_s(next, columnRange.to),
          () =>
            vectorLoop(single, COLUMN, n, (column) => multiply([single], column), {
              range: { from: next, to: columnRange.to },
            }),
        );
      }
    });
  };
}

/** What a group adds, of its sums of integers. */
function groupTerm(place: Place, id: number, term: Expr | undefined, sums: Vector): Vector {
  if (!term) throw new Error("Internal error: a sum over groups lacks its term");
  place.define(id, place.code.b.let("sums", sums));
  return place.value(term);
}
