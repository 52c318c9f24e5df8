/** Generates rankings: the k best of a row are kept sorted, and most elements fail the comparison with the last of them. */
import type { TopKKernel } from "../kernel.ts";
import { f32, f32x4, i32, memory } from "./assembler.ts";
import type { Emitter } from "./emitter.ts";
import { createPlace } from "./place.ts";

/** Writes the kernel; returns its number of chunks: rows. */
export function emitTopK({ n, k, outer, source, buffer }: TopKKernel, { code, from, to, reserve }: Emitter): number {
  const { b } = code,
    place = createPlace(code, [outer, n]),
    values = reserve(4 * k + 4),
    result = place.buffer(buffer).base;
  b.for("row", from, to, 1, (row) =>
    place.within(0, row, undefined, () => {
      place.prepare([source]);
      const indices = b.let("indices", i32.add(result, i32.mul(row, 4 * k))), count = b.let("count", i32.const(0));
      b.for("i", 0, n, 1, (i) =>
        place.within(1, i, undefined, () => {
          const value = place.value(source);
          const x = b.let("x", f32x4.extract_lane(source.scalar === "f32" ? value : f32x4.convert_i32x4_s(value), 0));
          const last = i32.add(values, i32.mul(i32.const(4), i32.sub(count, 1)));
          const joins = b.let("joins", i32.lt_s(count, k));
          b.if(i32.eqz(joins), () => b.set(joins, f32.gt(x, f32.load(last))));
          b.if(joins, () => {
            // Equal values keep the order of their indices: the new one goes behind them.
            const place = b.let("place", i32.const(0));
            b.set(place, i32.sub(count, i32.ge_s(count, k)));
            b.block((found) =>
              b.loop((again) => {
                b.brIf(found, i32.eqz(place));
                b.brIf(found, i32.eqz(f32.gt(x, f32.load(i32.add(values, i32.shl(i32.sub(place, 1), 2))))));
                b.set(place, i32.sub(place, 1));
                b.br(again);
              })
            );
            const at = b.let("at", i32.shl(place, 2)), kept = i32.sub(count, i32.ge_s(count, k));
            const bytes = b.let("bytes", i32.sub(i32.shl(kept, 2), at));
            for (const list of [values, indices]) {
              const position = b.let("position", i32.add(list, at));
              b.emit(memory.copy(i32.add(position, 4), position, bytes));
            }
            b.emit(f32.store(i32.add(values, at), x), i32.store(i32.add(indices, at), i));
            b.set(count, i32.add(kept, 1));
          });
        }));
    }));
  return outer;
}
