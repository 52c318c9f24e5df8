/**
 * Products with few rows: the right operand is evaluated in registers and used at once. Vectors run along the contracted axis
 * (weights as they are usually stored) or along the columns, whichever suits the operand's memory.
 */
import { f32x4, i32, i32x4, v128 } from "./assembler.ts";
import { type Block, COLUMN, type Contraction, ROW } from "./dot.ts";
import { blockLength, flatAccess, runsAlongK, sweepK } from "./dot_operand.ts";
import type { Emitter } from "./kernel.ts";
import { firstLanes, sumLanes } from "./lanes.ts";
import { smaller, vectorLoop, withinAll } from "./nest.ts";
import type { Index, Vector } from "./place.ts";

/** Columns at once where vectors run along the contracted axis. */
const COLUMNS = 4;

/** Prepares scratch memory; returns what adds a block to the tile. */
export function emitInline(contraction: Contraction, emitter: Emitter, rows: number): (block: Block) => void {
  const { rhs, lhs, scalar } = contraction, { code: { b, math }, reserve, layouts } = emitter;
  const length = blockLength(contraction), left = reserve(4 * rows * length + 16), flat = flatAccess(contraction).strides;
  const alongK = runsAlongK(rhs, COLUMN, contraction, layouts);
  const add = (x: Vector, y: Vector, sum: Vector): Vector =>
    scalar === "f32" ? math.madd(x, y, sum) : i32x4.add(sum, i32x4.mul(x, y));
  const plus = scalar === "f32" ? f32x4.add : i32x4.add;
  return (block) => {
    const { k, columns, tile, width } = block, skipped = i32.mul(k.from, 4 * contraction.inner);
    const origin = b.let("origin", i32.sub(left, skipped));
    block.places(1, (places) => {
      const [place] = places;
      if (!place) return;
      place.prepare([lhs]);
      b.for("row", 0, rows, 1, (row) =>
        place.within(ROW, row, undefined, () => {
          const to = b.let("to", i32.add(origin, i32.mul(row, 4 * length)));
          sweepK(block, places, [lhs], true, () => {
            const at = place.affine(flat, 4, { key: "left", index: to });
            b.emit(v128.store(at, place.value(lhs), { align: 4 }));
          });
        }));
    });
    const zeros = (count: number) => Array.from({ length: count }, () => b.let("sum", i32x4.const(0)));
    const addTo = (row: number, column: Index, value: Vector) => {
      const at = b.let("target", i32.add(tile, i32.mul(i32.sub(column, columns.from), 4)));
      const offset = 4 * width * row;
      b.emit(v128.store(at, plus(v128.load(at, offset), value), offset));
    };
    if (!alongK) {
      return block.places(1, (places) => {
        const [place] = places;
        if (!place) return;
        place.prepare([rhs]);
        vectorLoop(place, COLUMN, contraction.extents[COLUMN] ?? 1, (column) => {
          const sums = zeros(rows);
          sweepK(block, places, [rhs], false, () => {
            const at = place.affine(flat, 4, { key: "left", index: origin }), x = place.value(rhs);
            sums.forEach((sum, row) => b.set(sum, add(v128.load32_splat(at, 4 * length * row), x, sum)));
          });
          sums.forEach((sum, row) => addTo(row, column, sum));
        }, columns);
      });
    }
    block.places(COLUMNS, (places) => {
      const [place] = places, last = (contraction.extents[COLUMN] ?? 1) - 1;
      if (!place) return;
      places.forEach((own) => own.prepare([rhs]));
      b.for("column", columns.from, columns.to, COLUMNS, (column) => {
        const indices = places.map((_, i) => b.let("index", smaller(b.let("index", i32.add(column, i)), i32.const(last))));
        const sums = zeros(rows * COLUMNS);
        withinAll(places, COLUMN, indices, undefined, () =>
          sweepK(block, places, [rhs], true, () => {
            const at = place.affine(flat, 4, { key: "left", index: origin });
            const values = places.map((own) => b.let("right", firstLanes(own.value(rhs), own.lanes)));
            for (let row = 0; row < rows; row++) {
              const x = b.let("left", firstLanes(v128.load(at, { offset: 4 * length * row, align: 4 }), place.lanes));
              values.forEach((value, i) => {
                const sum = sums[row * COLUMNS + i];
                if (sum) b.set(sum, add(x, value, sum));
              });
            }
          }));
        for (let row = 0; row < rows; row++) {
          addTo(row, column, b.let("sums", sumLanes(b, sums.slice(row * COLUMNS, (row + 1) * COLUMNS), plus)));
        }
      });
    });
  };
}
