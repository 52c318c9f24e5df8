/**
 * The large operand of a contraction as it lies in memory: codes (or floats) whose rows are contiguous along everything that is contracted,
 * with a zero point and a scale that do not change within a group. It can be read as a stream of whole words, and both factors can leave
 * the sum: Σ (q − z)·s·x = s·(Σ q·x − z·Σ x).
 */
import type { Access, DotKernel, Expr } from "../kernel.ts";
import { isFloat, rangeOf, sizeOf } from "../../ir/types.ts";
import { dependsOn } from "./expressions.ts";
import { BLOCK, layoutOf } from "./layout.ts";

/** An operand that can be streamed. All distances are in units: pieces that start a word and that one invocation takes whole. */
export interface Stream {
  readonly buffer: number;
  /** Elements of a unit, and its words. */
  readonly unit: number;
  readonly words: number;
  /** How elements are stored. */
  readonly element: "f32" | "f16" | "codes";
  /** Bits of a code, and what must be added to one to have it unsigned: 128 for signed bytes. */
  readonly bits: number;
  readonly raised: number;
  readonly offset: number;
  readonly batchStride: number;
  readonly rowStride: number;
  /** Elements contracted in all, and those of a group. */
  readonly length: number;
  readonly group: number;
  /** Over [batch, row, ...k], constant within a group. */
  readonly zero?: Expr;
  readonly scale?: Expr;
}

/** Elements that one invocation takes at once: a block of split fields, or 16 bytes. */
const UNITS = { words: 4, halves: 8, bytes: 16, fields: BLOCK } as const;

/** The operand of one side as a stream; undefined where it is none. */
export function streamOf(spec: DotKernel, side: "lhs" | "rhs"): Stream | undefined {
  const { k, scalar, groups } = spec, length = product(k);
  const factors = scalar === "f32" ? factored(spec[side], k) : { source: spec[side], inner: 1 };
  const { source } = factors;
  if (source.kind !== "load") return undefined;
  const { type, use } = spec.buffers[source.buffer] ?? {};
  if (!type || use !== "read" || type.dtype === "bool" || type.dtype === "i32") return undefined;
  const layout = layoutOf(type), unit = UNITS[layout.kind], float = isFloat(type.dtype);
  if (float !== (scalar === "f32" && source.scalar === "f32") || !packsDensely(layout.kind, layout.rowLength)) {
    return undefined;
  }
  // Buffers end at whole units, so that none is read in part.
  if (sizeOf(type.shape) % unit !== 0) return undefined;
  const group = groups ? product(k.slice(1)) : factors.zero || factors.scale ? product(k.slice(factors.inner)) : length;
  const { offset, strides: [batchStride = 0, rowStride = 0, ...along] } = source.access;
  const distances = [offset, length, group, ...(spec.batch > 1 ? [batchStride] : []), rowStride];
  if (!isRowMajor(along, k) || distances.some((distance) => distance % unit !== 0 || distance < 0)) return undefined;
  const [low, high] = float ? [0, 0] : rangeOf(type.dtype), raised = low < 0 ? 128 : 0;
  return {
    buffer: source.buffer,
    unit,
    words: layout.kind === "fields" ? layout.fields.reduce((sum, bits) => sum + bits, 0) : 4,
    element: type.dtype === "f16" ? "f16" : float ? "f32" : "codes",
    bits: raised > 0 ? 8 : Math.ceil(Math.log2(high + 1)),
    raised,
    offset: offset / unit,
    batchStride: spec.batch > 1 ? batchStride / unit : 0,
    rowStride: rowStride / unit,
    length,
    group,
    ...(factors.zero ? { zero: factors.zero } : {}),
    ...(factors.scale ? { scale: factors.scale } : {}),
  };
}

/** Whether elements follow one another without padding between the rows of the buffer's type. */
const packsDensely = (kind: "words" | "halves" | "bytes" | "fields", rowLength: number): boolean =>
  kind === "fields" ? rowLength % BLOCK === 0 : kind === "bytes" ? rowLength % 4 === 0 : true;

const product = (dims: readonly number[]): number => dims.reduce((n, dim) => n * dim, 1);

function isRowMajor(strides: Access["strides"], dims: readonly number[]): boolean {
  let stride = 1;
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    const dim = dims[axis] ?? 1;
    if (dim > 1 && strides[axis] !== stride) return false;
    stride *= dim;
  }
  return true;
}

interface Factored {
  readonly source: Expr;
  readonly zero?: Expr;
  readonly scale?: Expr;
  /** Axes of k that the factors may depend on. */
  readonly inner: number;
}

/** Takes scale and zero point off an expression over [batch, row, ...k]. */
function factored(expr: Expr, k: readonly number[]): Factored {
  const constant = (e: Expr) => !dependsOn(e, 1 + k.length);
  let source = expr, scale: Expr | undefined, zero: Expr | undefined;
  if (source.kind === "map" && source.op === "mul") {
    const [a, b] = source.args as readonly [Expr, Expr];
    if (constant(b)) [source, scale] = [a, b];
    else if (constant(a)) [source, scale] = [b, a];
  }
  if (source.kind === "map" && source.op === "sub") {
    const [a, b] = source.args as readonly [Expr, Expr];
    if (constant(b) && b.scalar === "f32") [source, zero] = [a, b];
  }
  if (source.kind === "map" && source.op === "cast" && source.scalar === "f32" && !source.half) {
    const [code] = source.args;
    if (code?.scalar === "i32") source = code;
  }
  const factors = [scale, zero].filter((factor) => factor !== undefined);
  let inner = k.length - 1;
  while (inner > 0 && !factors.some((factor) => dependsOn(factor, 1 + inner))) inner--;
  return { source, inner, ...(scale ? { scale } : {}), ...(zero ? { zero } : {}) };
}

/** The whole numbers that an integer expression can be, where they fit a byte. */
function byteRange({ buffers }: DotKernel, expr: Expr): readonly [number, number] | undefined {
  const fits = ([low, high]: readonly [number, number]) =>
    low >= -128 && high <= 255 && (low >= 0 || high <= 127) ? [low, high] as const : undefined;
  if (expr.kind === "map" && expr.op === "cast" && expr.scalar === "i32" && expr.range) return fits(expr.range);
  if (expr.kind !== "load" && expr.kind !== "gather") return undefined;
  const dtype = buffers[expr.buffer]?.type.dtype;
  return !dtype || isFloat(dtype) || dtype === "i32" || dtype === "bool" ? undefined : fits(rangeOf(dtype));
}

/** How integers that fit bytes are multiplied: all signed or all unsigned. */
export interface BytePlan {
  readonly signed: boolean;
  /** What is taken off the codes of the `many` side, so that they are signed like the others. */
  readonly lowered: 0 | 128;
}

/** Finds it; undefined where the operands of a contraction are no integers that fit. */
export function bytePlan(
  spec: DotKernel,
  sides: Readonly<Record<"few" | "many", "lhs" | "rhs">>,
): BytePlan | undefined {
  const few = spec.scalar === "i32" ? byteRange(spec, spec[sides.few]) : undefined;
  const many = byteRange(spec, spec[sides.many]);
  if (!few || !many) return undefined;
  if (few[1] <= 127 && many[1] <= 127) return { signed: true, lowered: 0 };
  if (few[0] >= 0 && many[0] >= 0) return { signed: false, lowered: 0 };
  return few[1] <= 127 ? { signed: true, lowered: 128 } : undefined;
}

/** Merges contracted axes over which every access of an expression over [...lead, ...k] runs on; one axis if all do. */
export function mergeAxes(expr: Expr, lead: number, k: readonly number[]): { expr: Expr; k: readonly number[] } {
  const accesses: Access[] = [];
  const visit = (e: Expr): void => {
    if (e.kind === "load" || e.kind === "gather" || e.kind === "index") accesses.push(e.access);
    if (e.kind === "gather") visit(e.index);
    if (e.kind === "map") e.args.forEach(visit);
  };
  visit(expr);
  const runsOn = (access: Access) =>
    k.every((dim, i) => {
      const next = k.slice(i + 1).reduce((n, extent) => n * extent, access.strides[lead + k.length - 1] ?? 0);
      return dim === 1 || access.strides[lead + i] === next;
    });
  if (k.length === 1 || !accesses.every(runsOn)) return { expr, k };
  const done = new Map<Expr, Expr>();
  const shorten = (access: Access): Access => ({
    ...access,
    strides: [...access.strides.slice(0, lead), access.strides[lead + k.length - 1] ?? 0],
  });
  const rewrite = (e: Expr): Expr => {
    const found = done.get(e);
    if (found) return found;
    const made: Expr = e.kind === "load" || e.kind === "index"
      ? { ...e, access: shorten(e.access) }
      : e.kind === "gather"
      ? { ...e, access: shorten(e.access), index: rewrite(e.index) }
      : e.kind === "map"
      ? { ...e, args: e.args.map(rewrite) }
      : e;
    done.set(e, made);
    return made;
  };
  return { expr: rewrite(expr), k: [k.reduce((n, dim) => n * dim, 1)] };
}
