/**
 * Stores to packed rows. Bytes hold codes of several elements, so a vectorised loop writes its codes to scratch, one per byte,
 * and whole units are packed after it, or after several loops where one alone ends inside of units. Stores for which that is
 * impossible overwrite single codes, and then the kernel must run on one thread.
 */
import type { Access, Store } from "../kernel.ts";
import { i32, i32x4, memory } from "./assembler.ts";
import { packRun, runLength, runOf, runStep } from "./codes_packing.ts";
import type { Layout } from "./layout.ts";
import { splitAccess } from "./loads.ts";
import { denseStrides } from "./nest.ts";
import type { Index, Place } from "./place.ts";

/** Whether the loops `walk`, the last one innermost, go along whole units of the store's row. */
export function canStage(store: Store, layout: Layout, extents: readonly number[], walk: readonly number[]): boolean {
  const split = splitAccess(store.access, layout.columns, extents), steps = denseStrides(extents, walk);
  if (!split) return false;
  const { column, row } = split, alongRow = (v: number) => column.strides[v] === steps[v] && row.strides[v] === 0;
  if (!walk.every(alongRow)) return false;
  if (store.scatter && store.scatter.stride % layout.columns !== 0) return false;
  const unit = runStep(layout), { offset, strides } = column;
  const aligned = offset % unit === 0 && strides.every((stride, v) => walk.includes(v) || stride % unit === 0);
  return aligned && runOf(layout, offset, lengthOf(extents, walk)) !== undefined;
}

const lengthOf = (extents: readonly number[], walk: readonly number[]): number =>
  walk.reduce((product, v) => product * (extents[v] ?? 1), 1);

/** Stores with those to packed rows replaced. */
export interface Staging {
  /** What to store inside the vectorised loop. */
  readonly stores: readonly Store[];
  /** To be called after the loops: packs. */
  readonly finish: () => void;
}

/** A maker of scratch memory: the address of that many bytes. */
export type Reserve = (bytes: number) => Index;

/**
 * Replaces stores that can be staged along some loops. To be called outside of all loops; `finish` inside of all but these.
 */
export function stage(place: Place, stores: readonly Store[], walk: readonly number[], reserve: Reserve): Staging {
  const { b, buffers } = place.code, finishers: (() => void)[] = [];
  const extent = lengthOf(place.extents, walk);
  const staged = stores.map((store): Store => {
    const { layout, base } = place.buffer(store.buffer);
    if (layout.storage !== "fields" || !canStage(store, layout, place.extents, walk)) return store;
    const split = splitAccess(store.access, layout.columns, place.extents);
    const run = split && runOf(layout, split.column.offset, extent);
    if (!split || !run) return store;
    const length = runLength(layout, run), step = runStep(layout), bytes = step * layout.bits / 8;
    const from = reserve(length), own = buffers.length;
    if (length > extent) b.emit(memory.fill(i32.add(from, extent), 0, length - extent));
    buffers.push({ name: "codes", base: from, layout: { ...layout, storage: "byte", size: 1, dtype: "u8" } });
    finishers.push(() => {
      const row = place.affine(split.row.strides, layout.rowBytes, { key: `b${store.buffer}`, index: base });
      const column = place.affine(split.column.strides.map((s, v) => walk.includes(v) ? 0 : s / step), bytes);
      const fixed = split.row.offset * layout.rowBytes + split.column.offset / step * bytes;
      const to = i32.add(i32.add(row, column), fixed);
      const { scatter } = store;
      if (!scatter) return packRun(place, layout, run, from, to);
      const index = b.let("row", i32x4.extract_lane(place.value(scatter.index), 0));
      b.if(i32.lt_u(index, scatter.extent), () => {
        const moved = i32.add(to, i32.mul(index, scatter.stride / layout.columns * layout.rowBytes));
        packRun(place, layout, run, from, moved);
      });
    });
    const access: Access = { offset: 0, strides: denseStrides(place.extents, walk) };
    return { buffer: own, access, value: store.value };
  });
  return { stores: staged, finish: () => finishers.forEach((finish) => finish()) };
}

/**
 * How many of the leading variables may be shared among threads: those that lead every store of single codes to another packed
 * row, so that no two threads meet in a byte.
 */
export function parallelVariables(
  stores: readonly Store[],
  layouts: readonly (Layout | undefined)[],
  extents: readonly number[],
  variables: readonly number[],
): number {
  const splits = stores.flatMap(({ buffer, access, scatter }) => {
    const layout = layouts[buffer];
    if (layout?.storage !== "fields") return [];
    return [
      scatter && scatter.stride % layout.columns !== 0 ? undefined : splitAccess(access, layout.columns, extents),
    ];
  });
  const blocked = variables.findIndex((v) =>
    splits.some((split) => !split || (split.column.strides[v] ?? 0) !== 0 || (split.row.strides[v] ?? 0) === 0)
  );
  return blocked < 0 ? variables.length : blocked;
}
