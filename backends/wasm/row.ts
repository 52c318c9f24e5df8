/**
 * Generates row kernels: sweeps over the elements of a row, with reductions, Hadamard transforms and scalars between them.
 *
 * Vectors run along the row, or across four rows at a time where that suits the memory better (sums over columns); then lanes
 * never meet. Which it is depends on shapes and strides alone.
 */
import type { Access, Expr, RowKernel, RowPhase, RowTransform, Store } from "../kernel.ts";
import type { ReduceOp } from "../../ir/ops.ts";
import { f32x4, i32, i32x4, type Local, v128 } from "./assembler.ts";
import { emitTransform, needsRoom } from "./hadamard.ts";
import type { Emitter } from "./emitter.ts";
import { type Combine, combineLanes, laneMask } from "./lanes.ts";
import { layoutOf } from "./layout.ts";
import {
  denseStrides,
  isWrittenOut,
  moveLast,
  nestedLoops,
  rewriteExpr,
  rewriteStores,
  simplifyLoops,
  smaller,
  unflatten,
  unpacksAlong,
  usesOf,
  vectorCost,
  vectorLoop,
} from "./nest.ts";
import { createPlace, type Index, type Place, type Vector } from "./place.ts";
import { canStage, parallelVariables, stage, type Staging } from "./staging.ts";
import { emitStores } from "./stores.ts";

/** Writes the kernel; returns its number of chunks. */
export function emitRow(spec: RowKernel, emitter: Emitter): number {
  const { code, layouts, from, to, reserve, small } = emitter, { b } = code;
  const { extents, outer, phases, across } = arrange(spec, layouts);
  const length = extents.slice(outer).reduce((x, y) => x * y, 1), rowVariables = [...extents.keys()].slice(outer);
  // One more variable runs over the row as a whole: for transforms.
  const place = createPlace(code, [...extents, length]);
  const sweep: Sweep = {
    place,
    emitter,
    rowVariables,
    flat: extents.length,
    length,
    across,
    kept: new Map(),
    room: undefined,
  };
  if (phases.some(({ transforms }) => transforms.length > 0) && needsRoom(length)) {
    sweep.room = keep(sweep, reserve);
  }
  for (const { elements, transforms } of phases) {
    for (const { id, keep: kept } of elements) if (kept) sweep.kept.set(id, keep(sweep, reserve));
    for (const { id } of transforms) sweep.kept.set(id, keep(sweep, reserve));
  }
  const vector = across ? outer - 1 : extents.length - 1;
  const stagings = phases.map(({ stores }): RowStaging => {
    if (across) return { stores, finish: () => {}, whole: false };
    const whole = packsWhole(place, stores, vector, rowVariables);
    return { ...stage(place, stores, whole ? rowVariables : [vector], reserve), whole };
  });
  const row = () => phases.forEach((phase, i) => emitPhase(sweep, phase, stagings[i] as RowStaging));
  const roots = phases.flatMap((phase, i) => rootsOf(phase, stagings[i]?.stores ?? []));
  const prepare = () => place.prepare(roots);

  const outerVariables = [...extents.keys()].slice(0, outer), single = phases.flatMap(({ rowStores }) => rowStores);
  const scattered = [...stagings.flatMap(({ stores }) => stores), ...single];
  const points = extents.reduce((x, y) => x * y, 1);
  const shared = points < small ? 0 : parallelVariables(scattered, layouts, place.extents, outerVariables);
  const parallel = outerVariables.slice(0, shared), inner = outerVariables.slice(shared, across ? -1 : undefined);
  prepare();
  if (across && shared === outer) {
    // The vectorised variable is shared, too: in groups of four.
    const extent = extents[vector] ?? 1,
      groups = Math.ceil(extent / 4),
      units = unitsOf(parallel.slice(0, -1), extents);
    b.for("chunk", from, to, 1, (chunk) => {
      const unit = b.let("unit", i32.div_u(chunk, groups));
      const start = b.let("start", i32.mul(i32.sub(chunk, i32.mul(unit, groups)), 4));
      unflatten(place, parallel.slice(0, -1), unit, () => {
        prepare();
        const range = { from: start, to: b.let("end", i32.add(start, 4)) };
        vectorLoop(place, vector, extent, row, { range });
      });
    });
    return units * groups;
  }
  b.for("chunk", from, to, 1, (chunk) =>
    unflatten(place, parallel, chunk, () => {
      prepare();
      nestedLoops(place, inner, prepare, () => {
        if (across) vectorLoop(place, vector, extents[vector] ?? 1, row);
        else row();
      });
    }));
  if (!across && shared === outer) {
    for (const [buffer, elements] of walksOf(spec, phases, extents, outer)) {
      emitter.walks(buffer, { chunks: 1, elements });
    }
  }
  return unitsOf(parallel, extents);
}

/** Buffers that are read row after row, and how many elements lie between rows. */
function walksOf(
  { buffers }: RowKernel,
  phases: readonly RowPhase[],
  extents: readonly number[],
  outer: number,
): ReadonlyMap<number, number> {
  const walks = new Map<number, number>(), uses = usesOf(phases.flatMap((phase) => rootsOf(phase, phase.stores)), []);
  const order = denseStrides(extents, [...extents.keys()].slice(0, outer));
  for (const [buffer, { use }] of buffers.entries()) {
    const own = uses.filter((each) => each.buffer === buffer), step = own[0]?.access.strides[outer - 1] ?? 0;
    const inOrder = own.every(({ gather, access: { offset, strides } }) => {
      const inRow = strides.slice(outer),
        reach = inRow.reduce((sum, s, v) => sum + s * ((extents[outer + v] ?? 1) - 1), 0);
      const rowAfterRow = order.slice(0, outer).every((rows, v) => strides[v] === rows * step);
      return !gather && rowAfterRow && inRow.every((stride) => stride >= 0) && offset >= 0 && offset + reach < step;
    });
    if (use === "read" && own.length > 0 && inOrder) walks.set(buffer, step);
  }
  return walks;
}

/** Stores of a phase, packed at the end of the innermost loop or of the whole row. */
interface RowStaging extends Staging {
  readonly whole: boolean;
}

/** Whether some stores fill whole units only along the whole row. */
function packsWhole(place: Place, stores: readonly Store[], vector: number, row: readonly number[]): boolean {
  const packed = stores.flatMap((store) => {
    const { layout } = place.buffer(store.buffer);
    return layout.storage === "fields" ? [{ store, layout }] : [];
  });
  const along = (walk: readonly number[]) =>
    packed.every(({ store, layout }) => canStage(store, layout, place.extents, walk));
  return packed.length > 0 && !along([vector]) && along(row);
}

const unitsOf = (variables: readonly number[], extents: readonly number[]): number =>
  variables.reduce((product, v) => product * (extents[v] ?? 1), 1);

/** A row kernel with simple loops, and the choice of what vectors run along. */
interface Arranged {
  readonly extents: readonly number[];
  /** Number of outer variables. */
  readonly outer: number;
  readonly phases: readonly RowPhase[];
  /** Vectors hold four rows, along the last outer variable. */
  readonly across: boolean;
}

function arrange(spec: RowKernel, layouts: Emitter["layouts"]): Arranged {
  let phases = spec.phases, extents: readonly number[] = [...spec.outer, ...spec.row], outer = spec.outer.length;
  const uses = () =>
    usesOf(
      phases.flatMap((phase) => rootsOf(phase, [])),
      phases.flatMap(({ stores, rowStores }) => [...stores, ...rowStores]),
    );
  const change = (reshape: { extents: readonly number[]; change: (access: Access) => Access }) => {
    phases = rewritePhases(phases, reshape.change);
    extents = reshape.extents;
  };
  change(simplifyLoops(extents, uses(), layouts, [outer, extents.length]));
  const row = extents.length - outer;
  change(simplifyLoops(extents, uses(), layouts, [0, outer]));
  outer = extents.length - row;
  if (row === 0) {
    extents = [...extents, 1];
    phases = rewritePhases(phases, ({ offset, strides }) => ({ offset, strides: [...strides, 0] }));
  }
  const all = uses(), last = extents.length - 1, length = extents.slice(outer).reduce((x, y) => x * y, 1);
  const reductions = phases.reduce((sum, phase) => sum + phase.reductions.length, 0);
  const along = vectorCost(all, layouts, extents, last) + 8 * reductions / length;
  const costs = [...extents.keys()].slice(0, outer).map((v) => vectorCost(all, layouts, extents, v));
  const best = costs.reduce((a, cost, v) => cost <= (costs[a] ?? Infinity) ? v : a, 0);
  const packs = phases.some(({ stores }) => stores.some(({ buffer }) => layouts[buffer]?.storage === "fields"));
  const across = !packs && costs.length > 0 && (costs[best] ?? Infinity) < along;
  if (across) {
    const order = moveLast(extents.slice(0, outer), best);
    change({
      extents: [...order.extents, ...extents.slice(outer)],
      change: ({ offset, strides }) => ({
        offset,
        strides: [...order.change({ offset, strides: strides.slice(0, outer) }).strides, ...strides.slice(outer)],
      }),
    });
  }
  return { extents, outer, phases, across };
}

function rewritePhases(phases: readonly RowPhase[], change: (access: Access) => Access): RowPhase[] {
  const memo = new Map<Expr, Expr>(), rewrite = (expr: Expr) => rewriteExpr(expr, change, memo);
  return phases.map((phase) => ({
    ...phase,
    elements: phase.elements.map((element) => ({ ...element, value: rewrite(element.value) })),
    reductions: phase.reductions.map((reduction) => ({ ...reduction, value: rewrite(reduction.value) })),
    scalars: phase.scalars.map((scalar) => ({ ...scalar, value: rewrite(scalar.value) })),
    stores: rewriteStores(phase.stores, change, memo),
    rowStores: rewriteStores(phase.rowStores, change, memo),
  }));
}

function rootsOf({ elements, reductions, scalars, rowStores }: RowPhase, stores: readonly Store[]): Expr[] {
  return [
    ...[...elements, ...reductions, ...scalars].map(({ value }) => value),
    ...[...stores, ...rowStores].flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]),
  ];
}

/** A row's elements in scratch memory. */
interface Kept {
  readonly address: Index;
  /** Index of the scratch buffer among the place's buffers. */
  readonly buffer: number;
}

interface Sweep {
  readonly place: Place;
  readonly emitter: Emitter;
  readonly rowVariables: readonly number[];
  readonly flat: number;
  readonly length: number;
  readonly across: boolean;
  readonly kept: Map<number, Kept>;
  /** Scratch for transforms that cannot be done in place. */
  room: Kept | undefined;
}

function keep({ place, length, across }: Sweep, reserve: Emitter["reserve"]): Kept {
  const size = across ? 16 : 4,
    address = reserve(size * length + 16),
    plain = layoutOf({ dtype: "f32", shape: [length] });
  const layout = across ? { ...plain, storage: "vector", size } as const : plain;
  return { address, buffer: place.code.buffers.push({ name: "kept", layout, base: address }) - 1 };
}

/** Where element (row variables) of a kept row lies. */
const elementAccess = ({ place: { extents }, rowVariables }: Sweep): Access => ({
  offset: 0,
  strides: denseStrides(extents, rowVariables),
});

const flatAccess = ({ place, flat }: Sweep): Access => ({
  offset: 0,
  strides: place.extents.map((_, v) => v === flat ? 1 : 0),
});

interface Range {
  readonly from: Index;
  readonly to: Index;
}

/** Elements of a row that are summed before the sum is added to the total; a multiple of sixteen. */
const SUMMED = 512;

function emitPhase(sweep: Sweep, phase: RowPhase, staging: RowStaging): void {
  const { place, emitter, rowVariables, kept, across } = sweep, { b } = place.code, position = elementAccess(sweep);
  const start = () => phase.reductions.map(({ op, scalar }) => b.let(op, REDUCTIONS[op][scalar].start));
  const totals = start();
  // NaN found so far, where the reduction itself would lose it; reductions of one value have it in common.
  const lost = new Map<Expr, Local<"v128">>();
  for (const { op, scalar, value } of phase.reductions) {
    if (REDUCTIONS[op][scalar].losesNan && !lost.has(value)) lost.set(value, b.let("nan", i32x4.const(0)));
  }
  const nanOf = ({ op, scalar, value }: RowPhase["reductions"][number]) =>
    REDUCTIONS[op][scalar].losesNan ? lost.get(value) : undefined;
  let sums = totals;
  const roots = [
    ...[...phase.elements, ...phase.reductions].map(({ value }) => value),
    ...staging.stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]),
  ];
  const prepare = () => {
    place.prepare(roots);
    for (const { id, keep } of phase.elements) {
      const home = keep ? kept.get(id) : undefined;
      if (home) place.address(home.buffer, position);
    }
    for (const { buffer, access } of staging.stores) {
      if (place.buffer(buffer).layout.size > 0) place.address(buffer, access);
    }
  };
  const element = () => {
    for (const { id, value, keep } of phase.elements) {
      const x = place.value(value), home = keep ? kept.get(id) : undefined;
      place.define(id, x);
      if (home) {
        // Lanes behind the row's end are overwritten by what follows, or lie in the slack.
        const { base, offset } = place.address(home.buffer, position);
        b.emit(v128.store(base, x, { offset, align: 4 }));
      }
    }
    phase.reductions.forEach(({ op, scalar, value }, i) => {
      const sum = sums[i] as Local<"v128">, { start, combine } = REDUCTIONS[op][scalar], x = place.value(value);
      const active = across || place.lanes === 4 ? x : b.let("active", v128.bitselect(x, start, laneMask(place.lanes)));
      b.set(sum, combine(sum, active));
    });
    for (const [value, nan] of lost) {
      const x = b.let("x", place.value(value)), found = f32x4.ne(x, x);
      b.set(nan, v128.or(nan, across || place.lanes === 4 ? found : v128.and(found, laneMask(place.lanes))));
    }
    emitStores(place, staging.stores);
  };
  const last = rowVariables.at(-1) ?? 0,
    extent = place.extents[last] ?? 1,
    sixteen = unpacksAlong(roots, emitter.layouts, last) || storesBytes(place, staging.stores, last);
  const along = (range?: Range) => {
    if (!across) return vectorLoop(place, last, extent, element, { range, sixteen });
    b.for(
      "i",
      range?.from ?? i32.const(0),
      range?.to ?? i32.const(extent),
      1,
      (index) =>
        place.within(last, index, undefined, () => {
          prepare();
          element();
        }),
    );
  };
  /** Long rows: partial sums of blocks, so that rounding errors grow with a block's length and the number of blocks. */
  const inBlocks = () => {
    if (phase.reductions.length === 0 || extent <= SUMMED) return along();
    b.for("block", 0, extent, SUMMED, (from) => {
      sums = start();
      along({ from, to: b.let("block_end", smaller(i32.add(from, SUMMED), i32.const(extent))) });
      phase.reductions.forEach(({ op, scalar }, i) => {
        const total = totals[i], sum = sums[i];
        if (total && sum) b.set(total, REDUCTIONS[op][scalar].combine(total, sum));
      });
    });
  };
  if (phase.elements.length + phase.reductions.length + staging.stores.length > 0) {
    prepare();
    nestedLoops(place, rowVariables.slice(0, -1), prepare, () => {
      inBlocks();
      if (!staging.whole) staging.finish();
    });
    if (staging.whole) staging.finish();
  }
  for (const { id, value } of phase.elements) {
    const home = kept.get(id), scalar = value.scalar;
    // Kept truth values are the lanes' masks, as they are.
    place.alias(id, home ? { kind: "load", buffer: home.buffer, access: position, scalar } : value);
  }
  phase.reductions.forEach((reduction, i) => {
    const { id, op, scalar } = reduction, nan = nanOf(reduction);
    const sum = totals[i] as Local<"v128">, { combine } = REDUCTIONS[op][scalar];
    const whole = across ? sum : combineLanes(b, combine, sum);
    if (!nan) return place.define(id, whole);
    place.define(id, b.let(op, v128.or(whole, across ? nan : combineLanes(b, v128.or, nan))));
  });
  for (const { id, value } of phase.scalars) place.define(id, place.value(value));
  for (const transform of phase.transforms) emitRowTransform(sweep, transform);
  emitStores(place, phase.rowStores);
}

/** Whether neighbours along a variable go to neighbouring bytes, by expressions small enough to be written out four times. */
const storesBytes = (place: Place, stores: readonly Store[], variable: number): boolean =>
  stores.some(({ buffer, access, scatter }) =>
    !scatter && place.buffer(buffer).layout.storage === "byte" && access.strides[variable] === 1
  ) && isWrittenOut(stores.map(({ value }) => value));

/**
 * How reductions start and go on. The largest and least f32 are found by single instructions that forget NaN, which is kept track of
 * beside them: those that keep it are seven instructions on x86, each waiting for the one before.
 */
const REDUCTIONS: Readonly<Record<ReduceOp, Readonly<Record<"f32" | "i32", Reduction>>>> = {
  sum: {
    f32: { start: f32x4.const(0), combine: f32x4.add },
    i32: { start: i32x4.const(0), combine: i32x4.add },
  },
  max: {
    f32: { start: f32x4.const(-Infinity), combine: f32x4.pmax, losesNan: true },
    i32: { start: i32x4.const(-(2 ** 31)), combine: i32x4.max_s },
  },
  min: {
    f32: { start: f32x4.const(Infinity), combine: f32x4.pmin, losesNan: true },
    i32: { start: i32x4.const(2 ** 31 - 1), combine: i32x4.min_s },
  },
};

interface Reduction {
  readonly start: Vector;
  readonly combine: Combine;
  /** Whether `combine` loses NaN. */
  readonly losesNan?: boolean;
}

function emitRowTransform(sweep: Sweep, { id, source, transposed, signs }: RowTransform): void {
  const { place, emitter, flat, length, across, kept, room } = sweep, { b } = place.code;
  const from = kept.get(source), result = kept.get(id);
  if (!from || !result) throw new Error(`Internal error: value ${source} is transformed but not kept`);
  const access = flatAccess(sweep), row = room ?? result, scale = f32x4.const(1 / Math.sqrt(length));
  const read = (buffer: number): Vector => place.value({ kind: "load", buffer, access, scalar: "f32" });
  const pass = (to: Kept, value: () => Vector) => {
    const store = () => {
      const { base, offset } = place.address(to.buffer, access);
      b.emit(v128.store(base, value(), { offset, align: 4 }));
    };
    if (across) b.for("i", 0, length, 1, (i) => place.within(flat, i, undefined, store));
    else vectorLoop(place, flat, length, store);
  };
  pass(row, () => {
    const scaled = f32x4.mul(read(from.buffer), scale);
    return signs === undefined || transposed ? scaled : f32x4.mul(scaled, read(signs));
  });
  emitTransform(emitter, { n: length, size: across ? 16 : 4, transposed, row: row.address, result: result.address });
  if (signs !== undefined && transposed) pass(result, () => f32x4.mul(read(result.buffer), read(signs)));
  const position = elementAccess(sweep);
  place.alias(id, { kind: "load", buffer: result.buffer, access: position, scalar: "f32" });
}
