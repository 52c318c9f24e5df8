/**
 * Evaluates expressions of a kernel specification inside the loops of the function under construction.
 *
 * Everything is computed on vectors of four lanes, whether a loop is vectorised or not: outside of it all lanes are equal, and the
 * remainder of a loop computes whole vectors and stores fewer lanes. So there is one generator, and a value never depends on where
 * the remainder begins. What does not depend on a loop is computed in front of it, which engines do not do for us.
 */
import type { Access, Expr, Scalar } from "../kernel.ts";
import {
  type ByteProducts,
  type Expr as Code,
  f32x4,
  type FunctionBuilder,
  i32,
  i32x4,
  type Local,
  type ModuleBuilder,
} from "./assembler.ts";
import { applyMap, operandsOf } from "./maps.ts";
import { gatherLoad, gatherRow, gatherStaysInside, loadVector, staysInside } from "./loads.ts";
import type { Layout } from "./layout.ts";
import type { WasmMath } from "./math.ts";
import { sumOfCodes } from "./words.ts";

/** A vector of four lanes. Truth values are lanes of all ones or all zeros. */
export type Vector = Code<"v128">;
/** An i32 value. */
export type Index = Code<"i32">;

/** A buffer as generated code sees it. */
export interface Bound {
  readonly name: string;
  readonly layout: Layout;
  /** Byte address of element 0. */
  readonly base: Index;
  /** Number of elements; of scratch, which is never read outside, undefined. */
  readonly elements?: number;
}

/** What the generators of one kernel share. */
export interface KernelCode extends ByteProducts {
  readonly b: FunctionBuilder;
  readonly module: ModuleBuilder;
  readonly math: WasmMath;
  readonly relaxed: boolean;
  /** Buffers of the specification, then those of the generator's own (scratch). */
  readonly buffers: Bound[];
}

/** A byte address: a local and a static offset. */
export interface Address {
  readonly base: Index;
  readonly offset: number;
}

interface Frame {
  /** Loop variable this frame opened, or -1. */
  readonly variable: number;
  readonly index: Index;
  /** What the variable is more than the index: known when the kernel is generated, and so a static offset of addresses. */
  readonly plus: number;
  readonly values: Map<Expr, Vector>;
  readonly indices: Map<string, Index>;
  readonly defined: Map<number, Vector>;
  /** Values that stand for expressions. */
  readonly aliases: Map<number, Expr>;
  /** Row addresses of gathers. */
  readonly rows: Map<Expr, Local<"i32">>;
  /** Whether it is that of one of four parts: indices and addresses stay in the frame below, which all parts share. */
  readonly isPart: boolean;
}

/** One of the four vectors of sixteen neighbours; codes of all sixteen are unpacked when the first one needs them. */
export interface Part {
  /** 0 … 3. */
  readonly number: number;
  /** Sixteen codes as bytes, and halves of them as 16 bits, by load. Shared by the four parts. */
  readonly unpacked: Map<string, Vector>;
  /** What parts so far store to bytes, and where the first one does: all four are written as one vector. Shared, too. */
  readonly stored: Map<string, { readonly to: Address; readonly vectors: readonly Vector[] }>;
}

/** A position inside loops: which variables have a value there, and what has been computed. */
export interface Place {
  readonly code: KernelCode;
  /** Extents of the loop variables. */
  readonly extents: readonly number[];
  /** The vectorised variable, or -1 while none is open. */
  readonly vector: number;
  /** Lanes that count. */
  readonly lanes: number;
  /** Where vectors are handled sixteen elements at a time: which of the four this is. */
  readonly part: Part | undefined;
  /** Gives a loop variable a value, index + plus, for the duration of `body`; with `lanes` the vector's lanes are that, one more, …. */
  within(variable: number, index: Index, lanes: number | undefined, body: () => void, plus?: number): void;
  /** Moves the vector to one of four neighbours, the first of which lies at the index, for the duration of `body`. */
  withinPart(part: Part, body: () => void): void;
  /** Runs `body` so that nothing it computes is reused outside: for code that may not be reached. */
  scoped(body: () => void): void;
  /** Computes here whatever parts of the expressions need no further loop variable. */
  prepare(roots: readonly Expr[]): void;
  /** The value of an expression, computed once per frame. */
  value(expr: Expr): Vector;
  /** Makes the value of an id known, for the duration of the current frame. */
  define(id: number, value: Vector): void;
  /** Makes an id stand for an expression, for the duration of the current frame. */
  alias(id: number, expr: Expr): void;
  /** Σ scale·strides·variables as an i32, from `base` on and without the access' offset; shared and hoisted. */
  affine(strides: readonly number[], scale?: number, base?: { readonly key: string; readonly index: Index }): Index;
  /** Whether all lanes of an expression are the same here. */
  uniform(expr: Expr): boolean;
  /** Remembers, for the current frame, an i32 that belongs to an expression. */
  once(expr: Expr, compute: () => Index): Local<"i32">;
  /** Byte address of an element of a buffer with whole-byte elements. */
  address(buffer: number, access: Access): Address;
  buffer(index: number): Bound;
}

/** Starts outside of all loops. */
export function createPlace(code: KernelCode, extents: readonly number[]): Place {
  const { b } = code;
  const newFrame = (variable: number, index: Index, isPart = false, plus = 0): Frame => ({
    isPart,
    plus,
    variable,
    index,
    values: new Map(),
    indices: new Map(),
    defined: new Map(),
    aliases: new Map(),
    rows: new Map(),
  });
  const frames: Frame[] = [newFrame(-1, i32.const(0))];
  let vector = -1, lanes = 4, part: Part | undefined;

  const top = (): Frame => frames[frames.length - 1] as Frame;
  /** Where indices are kept: parts have them in common. */
  const shared = (): Frame => top().isPart ? frames[frames.length - 2] as Frame : top();
  /** What is known of an access when the kernel is generated: what the part adds, and what variables are more than their indices. */
  const knownOffset = (strides: readonly number[], scale: number): number => {
    const ofPart = part && vector >= 0 ? 4 * part.number * (strides[vector] ?? 0) : 0;
    return scale * frames.reduce((sum, { variable, plus }) => sum + plus * (strides[variable] ?? 0), ofPart);
  };
  const find = <T>(get: (frame: Frame) => T | undefined): T | undefined => {
    for (let i = frames.length - 1; i >= 0; i--) {
      const found = get(frames[i] as Frame);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  const aliasOf = (id: number) => find((frame) => frame.aliases.get(id));
  const opened = (variable: number) => frames.some((frame) => frame.variable === variable);

  const push = (frame: Frame, body: () => void) => {
    frames.push(frame);
    try {
      body();
    } finally {
      frames.pop();
    }
  };

  /** Whether every variable and value that an expression needs is known here. */
  const available = (expr: Expr, memo: Map<Expr, boolean>): boolean => {
    const known = memo.get(expr);
    if (known !== undefined) return known;
    const result = ((): boolean => {
      switch (expr.kind) {
        case "constant":
          return true;
        case "load":
        case "index":
          return expr.access.strides.every((stride, v) => stride === 0 || opened(v));
        case "gather":
          return expr.access.strides.every((stride, v) => stride === 0 || opened(v)) && available(expr.index, memo);
        case "map":
          return expr.args.every((arg) => available(arg, memo));
        case "value": {
          if (find((frame) => frame.defined.get(expr.id))) return true;
          const alias = aliasOf(expr.id);
          return alias !== undefined && available(alias, memo);
        }
        default:
          return expr satisfies never;
      }
    })();
    memo.set(expr, result);
    return result;
  };

  const place: Place = {
    code,
    extents,
    get vector() {
      return vector;
    },
    get lanes() {
      return lanes;
    },
    get part() {
      return part;
    },
    within(variable, index, active, body, plus = 0) {
      const before = { vector, lanes, part };
      if (active !== undefined) [vector, lanes, part] = [variable, active, undefined];
      push(newFrame(variable, index, false, plus), body);
      ({ vector, lanes, part } = before);
    },
    withinPart(own, body) {
      const before = part;
      part = own;
      push(newFrame(-1, i32.const(0), true), body);
      part = before;
    },
    scoped: (body) => push(newFrame(-1, i32.const(0)), body),
    prepare(roots) {
      const memo = new Map<Expr, boolean>(), visited = new Set<Expr>();
      const visit = (expr: Expr): void => {
        if (visited.has(expr)) return;
        visited.add(expr);
        if (expr.kind === "constant") return;
        if (available(expr, memo)) {
          place.value(expr);
          return;
        }
        if (expr.kind === "map") expr.args.forEach(visit);
        else if (expr.kind === "gather") {
          visit(expr.index);
          if (gatherStaysInside(place, expr) && available(expr.index, memo) && place.uniform(expr.index)) {
            gatherRow(place, expr);
          }
        } else if (expr.kind === "load") prepareAccess(expr.buffer, expr.access);
        else if (expr.kind === "index") place.affine(expr.access.strides);
        else {
          const alias = aliasOf(expr.id);
          if (alias) visit(alias);
        }
      };
      roots.forEach(visit);
    },
    value(expr) {
      if (expr.kind === "constant") return constant(expr.value, expr.scalar);
      const known = find((frame) => frame.values.get(expr));
      if (known) return known;
      if (expr.kind === "value") {
        const defined = find((frame) => frame.defined.get(expr.id));
        if (defined) return defined;
        const alias = aliasOf(expr.id);
        if (!alias) throw new Error(`Internal error: value ${expr.id} is used before it is computed`);
        return place.value(alias);
      }
      const result = evaluate(expr);
      const kept: Vector = result.imm.kind === "local" && result.op.name === "local.get"
        ? result
        : b.let(nameOf(expr), result);
      top().values.set(expr, kept);
      return kept;
    },
    define: (id, value) => void top().defined.set(id, value),
    alias: (id, expr) => void top().aliases.set(id, expr),
    affine(strides, scale = 1, base) {
      const sum = affineOfFirst(strides, scale, base), more = knownOffset(strides, scale);
      return more === 0 ? sum : i32.add(sum, more);
    },
    uniform(expr) {
      if (expr.kind === "constant" || vector < 0) return true;
      const opening = frames.findIndex((frame) => frame.variable === vector);
      return frames.slice(0, opening).some((frame) =>
        frame.values.has(expr) || (expr.kind === "value" && frame.defined.has(expr.id))
      );
    },
    once(expr, compute) {
      const known = find((frame) => frame.rows.get(expr));
      if (known) return known;
      const local = b.let("row", compute());
      top().rows.set(expr, local);
      return local;
    },
    address(buffer, access) {
      const { base, layout, name } = place.buffer(buffer);
      const size = layout.size, offset = access.offset * size;
      // A static offset is added without wrapping, so the rest must not be negative.
      const fold = offset >= 0 && access.strides.every((stride) => stride >= 0);
      if (fold) {
        const first = affineOfFirst(access.strides, size, { key: `b${buffer}`, index: base });
        return { base: first, offset: offset + knownOffset(access.strides, size) };
      }
      const start = find((frame) => frame.indices.get(`o${buffer}:${offset}`)) ??
        b.let(`${name}_at`, i32.add(base, offset));
      shared().indices.set(`o${buffer}:${offset}`, start);
      return { base: place.affine(access.strides, size, { key: `b${buffer}+${offset}`, index: start }), offset: 0 };
    },
    buffer(index) {
      const found = code.buffers[index];
      if (!found) throw new Error(`Internal error: the kernel has no buffer ${index}`);
      return found;
    },
  };

  const prepareAccess = (buffer: number, access: Access) => {
    const bound = place.buffer(buffer);
    if (bound.layout.storage !== "fields" && staysInside(place, bound, access)) place.address(buffer, access);
  };

  /** `affine` at the first of four parts. */
  const affineOfFirst = (
    strides: readonly number[],
    scale: number,
    base: { readonly key: string; readonly index: Index } | undefined,
  ): Index => {
    let sum: Index = base?.index ?? i32.const(0), key = base?.key ?? "";
    key += `*${scale}`;
    for (const frame of frames) {
      const stride = frame.variable < 0 ? 0 : (strides[frame.variable] ?? 0) * scale;
      if (stride === 0) continue;
      key += `|${frame.variable}:${stride}`;
      const current = key;
      const known = find((f) => f.indices.get(current));
      if (known) sum = known;
      else {
        const added = i32.add(sum, scaled(frame, stride));
        sum = isSimple(added) ? added : b.let(base ? "at" : "i", added);
        shared().indices.set(current, sum);
      }
    }
    return sum;
  };

  /** index · stride, shared within the frame of the index. */
  const scaled = (frame: Frame, stride: number): Index => {
    if (isConstant(frame.index) || stride === 1) return i32.mul(frame.index, stride);
    const key = `s${frame.variable}*${stride}`;
    const known = find((f) => f.indices.get(key));
    if (known) return known;
    const shift = Math.log2(stride);
    const product = stride > 0 && Number.isInteger(shift) ? i32.shl(frame.index, shift) : i32.mul(frame.index, stride);
    const local = b.let("step", product);
    shared().indices.set(key, local);
    return local;
  };

  const evaluate = (expr: Exclude<Expr, { kind: "constant" | "value" }>): Vector => {
    switch (expr.kind) {
      case "load":
        return loadVector(place, expr.buffer, expr.access);
      case "gather":
        return gatherLoad(place, expr);
      case "index": {
        const first = i32x4.splat(i32.add(place.affine(expr.access.strides), expr.access.offset));
        const stride = vector < 0 ? 0 : expr.access.strides[vector] ?? 0;
        return stride === 0 ? first : i32x4.add(first, i32x4.const(0, stride, 2 * stride, 3 * stride));
      }
      case "map":
        return sumOfCodes(place, expr) ??
          applyMap(code, expr, operandsOf(expr).map((arg) => place.value(arg)));
      default:
        return expr satisfies never;
    }
  };

  return place;
}

/** A constant in all lanes. */
export function constant(value: number, scalar: Scalar): Vector {
  if (scalar === "f32") return f32x4.const(value);
  return i32x4.const(scalar === "bool" ? (value ? -1 : 0) : value | 0);
}

const isConstant = (index: Index): boolean => index.imm.kind === "integer";
const isSimple = (index: Index): boolean => isConstant(index) || index.op.name === "local.get";

function nameOf(expr: Expr): string {
  return expr.kind === "map" ? expr.op : expr.kind;
}
