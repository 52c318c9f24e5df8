/** Loop nests: which loops can be one, in which order they run best, and how to run one of them on vectors. */
import type { Access, Expr, Store } from "../kernel.ts";
import { type Expr as Code, i32, select } from "./assembler.ts";
import type { Layout } from "./layout.ts";
import type { Index, Part, Place } from "./place.ts";

/** Loops and the stores inside them. */
export interface Nest {
  readonly extents: readonly number[];
  readonly stores: readonly Store[];
}

/** Changes every access of an expression; what was shared stays shared, by the memo. */
export function rewriteExpr(expr: Expr, change: (access: Access) => Access, memo: Map<Expr, Expr>): Expr {
  const known = memo.get(expr);
  if (known) return known;
  const result = ((): Expr => {
    switch (expr.kind) {
      case "constant":
      case "value":
        return expr;
      case "load":
      case "index":
        return { ...expr, access: change(expr.access) };
      case "gather":
        return { ...expr, index: rewriteExpr(expr.index, change, memo), access: change(expr.access) };
      case "map":
        return { ...expr, args: expr.args.map((arg) => rewriteExpr(arg, change, memo)) };
      default:
        return expr satisfies never;
    }
  })();
  memo.set(expr, result);
  return result;
}

/** Changes every access of stores. */
export function rewriteStores(
  stores: readonly Store[],
  change: (access: Access) => Access,
  memo = new Map<Expr, Expr>(),
): Store[] {
  return stores.map((store) => ({
    ...store,
    access: change(store.access),
    value: rewriteExpr(store.value, change, memo),
    ...(store.scatter && { scatter: { ...store.scatter, index: rewriteExpr(store.scatter.index, change, memo) } }),
  }));
}

/** An access and what it goes to; `index` expressions have no buffer. */
export interface Use {
  readonly access: Access;
  readonly buffer: number | undefined;
  readonly store: boolean;
  /** Whether data choose what is read beside it. */
  readonly gather: boolean;
}

/** Every access in expressions and stores, each once. */
export function usesOf(roots: readonly Expr[], stores: readonly Store[]): Use[] {
  const uses: Use[] = [], visited = new Set<Expr>();
  const visit = (expr: Expr): void => {
    if (visited.has(expr)) return;
    visited.add(expr);
    if (expr.kind === "map") expr.args.forEach(visit);
    else if (expr.kind === "index") uses.push({ access: expr.access, buffer: undefined, store: false, gather: false });
    else if (expr.kind === "load" || expr.kind === "gather") {
      uses.push({ access: expr.access, buffer: expr.buffer, store: false, gather: expr.kind === "gather" });
      if (expr.kind === "gather") visit(expr.index);
    }
  };
  roots.forEach(visit);
  for (const { access, buffer, value, scatter } of stores) {
    uses.push({ access, buffer, store: true, gather: false });
    visit(value);
    if (scatter) visit(scatter.index);
  }
  return uses;
}

/** Strides of the elements that some variables run over, the last one fastest; 0 for all others. */
export function denseStrides(extents: readonly number[], variables: readonly number[]): number[] {
  const strides = extents.map(() => 0);
  let stride = 1;
  for (const v of [...variables].reverse()) {
    strides[v] = stride;
    stride *= extents[v] ?? 1;
  }
  return strides;
}

/** Number of expressions, each counted once. */
export function sizeOfExprs(roots: readonly Expr[]): number {
  const visited = new Set<Expr>();
  const visit = (expr: Expr): void => {
    if (visited.has(expr)) return;
    visited.add(expr);
    if (expr.kind === "map") expr.args.forEach(visit);
    else if (expr.kind === "gather") visit(expr.index);
  };
  roots.forEach(visit);
  return visited.size;
}

/** How new loops are made from old ones: the strides of an access over them. */
export interface Reshape {
  readonly extents: readonly number[];
  readonly change: (access: Access) => Access;
}

/**
 * Rewrites loops (a consecutive range of the variables): those of extent 1 go, loops that walk along a packed row and beyond are
 * split at the row's end, and neighbours that every access walks as one become one.
 */
export function simplifyLoops(
  extents: readonly number[],
  uses: readonly Use[],
  layouts: readonly (Layout | undefined)[],
  range: readonly [from: number, to: number] = [0, extents.length],
): Reshape {
  interface Loop {
    readonly extent: number;
    /** What one step adds to each use. */
    readonly strides: readonly number[];
    /** The same for an access: the variable it comes from and the factor of its stride. */
    readonly variable: number;
    readonly factor: number;
  }
  const columns = uses.map(({ buffer }) => {
    const layout = buffer === undefined ? undefined : layouts[buffer];
    return layout?.storage === "fields" ? layout.columns : undefined;
  });
  const loops: Loop[] = [];
  for (let v = range[0]; v < range[1]; v++) {
    const extent = extents[v] ?? 1;
    if (extent === 1) continue;
    const strides = uses.map(({ access }) => access.strides[v] ?? 0);
    let inner = extent;
    strides.forEach((stride, u) => {
      const length = columns[u];
      if (!length || stride <= 0 || length % stride !== 0) return;
      const steps = length / stride;
      if (steps > 1 && steps < inner && inner % steps === 0) inner = steps;
    });
    if (inner < extent) {
      loops.push({ extent: extent / inner, strides: strides.map((s) => s * inner), variable: v, factor: inner });
    }
    loops.push({ extent: inner, strides, variable: v, factor: 1 });
  }
  const merged: Loop[] = [];
  for (const loop of loops) {
    const outer = merged.at(-1);
    const joins = outer && outer.strides.every((stride, u) => {
      const step = loop.strides[u] ?? 0, length = columns[u];
      const crosses = length !== undefined && step % length !== 0 && stride % length === 0;
      return stride === step * loop.extent && !crosses;
    });
    if (outer && joins) merged[merged.length - 1] = { ...loop, extent: outer.extent * loop.extent };
    else merged.push(loop);
  }
  return {
    extents: [...extents.slice(0, range[0]), ...merged.map(({ extent }) => extent), ...extents.slice(range[1])],
    change: ({ offset, strides }) => ({
      offset,
      strides: [
        ...strides.slice(0, range[0]),
        ...merged.map(({ variable, factor }) => (strides[variable] ?? 0) * factor),
        ...strides.slice(range[1]),
      ],
    }),
  };
}

/** What one element costs, roughly in vector loads, when the loop `variable` runs on vectors. */
export function vectorCost(
  uses: readonly Use[],
  layouts: readonly (Layout | undefined)[],
  extents: readonly number[],
  variable: number,
): number {
  const extent = extents[variable] ?? 1;
  const cost = uses.reduce((sum, { access, buffer, store }) => {
    const stride = access.strides[variable] ?? 0,
      packed = buffer !== undefined && layouts[buffer]?.storage === "fields";
    if (buffer === undefined || stride === 0) return sum + (store ? 4 : 0.25);
    if (stride === 1) return sum + (packed ? 3 : 1);
    return sum + (packed ? 24 : 5);
  }, 1);
  return cost * Math.ceil(extent / 4) * 4 / extent;
}

/** Moves a variable behind all others. */
export function moveLast(extents: readonly number[], variable: number): Reshape {
  const order = [...extents.keys()].filter((v) => v !== variable).concat(variable);
  return {
    extents: order.map((v) => extents[v] ?? 1),
    change: ({ offset, strides }) => ({ offset, strides: order.map((v) => strides[v] ?? 0) }),
  };
}

/** The smaller of two i32. */
export const smaller = (a: Index, b: Index): Code<"i32"> => select(i32.lt_s(a, b), a, b);

/** Opens places one inside of the other, each by `open`, and runs `body` within all of them. */
function nestPlaces(
  places: readonly Place[],
  open: (place: Place, i: number, inside: () => void) => void,
  body: () => void,
): void {
  const from = (i: number): void => {
    const place = places[i];
    if (place) open(place, i, () => from(i + 1));
    else body();
  };
  from(0);
}

/** Opens a variable in several places at once, at one index or at one for each. */
export function withinAll(
  places: readonly Place[],
  variable: number,
  index: Index | readonly Index[],
  lanes: number | undefined,
  body: () => void,
): void {
  const own = (i: number) => Array.isArray(index) ? (index as readonly Index[])[i] ?? i32.const(0) : index as Index;
  nestPlaces(places, (place, i, inside) => place.within(variable, own(i), lanes, inside), body);
}

/** Opens a variable in several places at neighbouring indices, of which the first is given. */
export const withinNeighbours = (places: readonly Place[], variable: number, first: Index, body: () => void): void =>
  nestPlaces(places, (place, i, inside) => place.within(variable, first, undefined, inside, i), body);

/** Largest number of expressions that are written out four times to handle sixteen elements at once. */
const WRITTEN_OUT = 64;

/** Whether expressions are small enough to be written out four times. */
export const isWrittenOut = (roots: readonly Expr[]): boolean => sizeOfExprs(roots) <= WRITTEN_OUT;

/** Whether narrow codes are read along `variable` by expressions small enough to be written out four times. */
export function unpacksAlong(
  roots: readonly Expr[],
  layouts: readonly (Layout | undefined)[],
  variable: number,
): boolean {
  const narrow = usesOf(roots, []).some(({ buffer, access }) => {
    const storage = buffer === undefined ? undefined : layouts[buffer]?.storage;
    return (storage === "fields" || storage === "byte") && access.strides[variable] === 1;
  });
  return narrow && isWrittenOut(roots);
}

/** Elements up to which sixteens follow each other without a loop: where packed codes lie is then known, not computed. */
const STRAIGHT = 64;

/** How to run a vectorised loop. */
export interface VectorLoop {
  /** Part of the extent; `from` is a multiple of 4 (of 16 with `sixteen`), and so is `to` unless it is the extent. */
  readonly range?: { readonly from: Index; readonly to: Index } | undefined;
  /** Handle sixteen elements in one turn, so that packed codes are unpacked together. */
  readonly sixteen?: boolean;
}

/** Runs `body` on vectors of a variable; the remainder of the extent, where the range includes it, with fewer lanes. */
export function vectorLoop(
  places: Place | readonly Place[],
  variable: number,
  extent: number,
  body: (index: Index) => void,
  { range, sixteen = false }: VectorLoop = {},
): void {
  const all = Array.isArray(places) ? places as readonly Place[] : [places as Place];
  const b = all[0]?.code.b, whole = extent - extent % 4, blocks = sixteen ? extent - extent % 16 : 0;
  if (!b) return;
  const limit = (end: number): Index => range ? smaller(range.to, i32.const(end)) : i32.const(end);
  const from = range?.from ?? i32.const(0);
  const beyond = (end: number, rest: () => void) => range ? b.if(i32.gt_s(range.to, end), rest) : rest();
  if (blocks > 0) {
    const sixteens = (i: Index) => {
      const shared = all.map((): Omit<Part, "number"> => ({ unpacked: new Map(), stored: new Map() }));
      withinAll(all, variable, i, 4, () => {
        for (let number = 0; number < 4; number++) {
          const open = (place: Place, p: number, inside: () => void) =>
            place.withinPart({ number, ...shared[p] as Omit<Part, "number"> }, inside);
          nestPlaces(all, open, () => body(i32.add(i, 4 * number)));
        }
      });
    };
    if (range || blocks > STRAIGHT) b.for("i", from, limit(blocks), 16, sixteens);
    else for (let i = 0; i < blocks; i += 16) sixteens(i32.const(i));
  }
  const vectors = (start: Index) =>
    b.for("i", start, limit(whole), 4, (i) => withinAll(all, variable, i, 4, () => body(i)));
  if (whole > blocks) {
    if (blocks === 0) vectors(from);
    else beyond(blocks, () => void vectors(i32.const(blocks)));
  }
  if (whole < extent) {
    beyond(whole, () => withinAll(all, variable, i32.const(whole), extent - whole, () => body(i32.const(whole))));
  }
}

/** Runs `body` inside nested loops over `variables`, whose extents the place knows; `prepare` is called at every level. */
export function nestedLoops(
  places: Place | readonly Place[],
  variables: readonly number[],
  prepare: () => void,
  body: () => void,
): void {
  const all = Array.isArray(places) ? places as readonly Place[] : [places as Place];
  const [variable, ...inner] = variables, [first] = all;
  if (variable === undefined || !first) return body();
  first.code.b.for(
    "j",
    0,
    first.extents[variable] ?? 1,
    1,
    (index) =>
      withinAll(all, variable, index, undefined, () => {
        prepare();
        nestedLoops(all, inner, prepare, body);
      }),
  );
}

/** Opens several variables at the position that a flat index has in their row-major order. */
export function unflatten(place: Place, variables: readonly number[], flat: Index, body: () => void): void {
  const { b } = place.code;
  const open = (rest: readonly number[], index: Index): void => {
    const variable = rest.at(-1);
    if (variable === undefined) return body();
    if (rest.length === 1) return place.within(variable, index, undefined, body);
    const extent = place.extents[variable] ?? 1;
    const quotient = b.let("outer", i32.div_u(index, extent));
    const own = b.let("index", i32.sub(index, i32.mul(quotient, extent)));
    place.within(variable, own, undefined, () => open(rest.slice(0, -1), quotient));
  };
  open(variables, flat);
}
