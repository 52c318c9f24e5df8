/**
 * Builds nodes. Structurally equal nodes of one builder are one object (hash-consing), so common subexpressions merge by
 * themselves and a pass that changes nothing returns what it was given. Nodes of other builders are taken over on use.
 */
import { attrsText } from "./attr_text.ts";
import { type Dim, multiplyDims } from "./dim.ts";
import type { Attr, Attrs, Node } from "./node.ts";
import { type OpName, recordOf } from "./ops.ts";
import type { Direction } from "./ops/maps.ts";
import type { BindingTime, SiteRole } from "./ops/state.ts";
import { type DType, sameShape, type TensorType, tensorType, typeText } from "./types.ts";

/** Axes of a `dot`; free axes are the others. */
export interface DotOptions {
  readonly lhsBatch?: readonly number[];
  readonly rhsBatch?: readonly number[];
  readonly lhsContract: readonly number[];
  readonly rhsContract: readonly number[];
}

/** Operands and form of an attention. */
export interface AttentionOptions {
  readonly scale: number;
  readonly causal?: boolean;
  /** Keys that a causal query sees at most, its own included; all up to its own where it is undefined. */
  readonly window?: number | undefined;
  readonly bias?: Node;
  readonly positions?: Node;
}

/** A value, or a number that stands for a constant of the other operand's type. */
export type Operand = Node | number;

/** Makes nodes: `make` for any op, and one method per op with broadcasting and defaults. */
export interface Builder {
  make(op: OpName, inputs: readonly Node[], attrs?: Attrs): Node;
  /** Takes a node of another builder over, with everything it needs. */
  adopt(node: Node): Node;
  param(name: string, type: TensorType, time: BindingTime): Node;
  input(name: string, type: TensorType): Node;
  constant(value: number | readonly number[], type: TensorType): Node;
  iota(dtype: DType, shape: readonly Dim[], axis: number): Node;
  reshape(x: Node, shape: readonly Dim[]): Node;
  transpose(x: Node, permutation: readonly number[]): Node;
  broadcast(x: Node, shape: readonly Dim[]): Node;
  slice(x: Node, starts: readonly number[], sizes: readonly Dim[], steps?: readonly number[]): Node;
  concat(parts: readonly Node[], axis: number): Node;
  pad(x: Node, before: readonly number[], after: readonly number[], value?: number): Node;
  gather(table: Node, indices: Node): Node;
  add(x: Operand, y: Operand): Node;
  sub(x: Operand, y: Operand): Node;
  mul(x: Operand, y: Operand): Node;
  div(x: Operand, y: Operand): Node;
  minimum(x: Operand, y: Operand): Node;
  maximum(x: Operand, y: Operand): Node;
  compare(x: Operand, y: Operand, direction: Direction): Node;
  select(condition: Node, x: Operand, y: Operand): Node;
  exp(x: Node): Node;
  log(x: Node): Node;
  sqrt(x: Node): Node;
  erf(x: Node): Node;
  sigmoid(x: Node): Node;
  abs(x: Node): Node;
  round(x: Node): Node;
  floor(x: Node): Node;
  cast(x: Node, dtype: DType): Node;
  straightThrough(value: Node, through: Node): Node;
  sum(x: Node, axes: readonly number[]): Node;
  max(x: Node, axes: readonly number[]): Node;
  min(x: Node, axes: readonly number[]): Node;
  topK(x: Node, k: number): Node;
  dot(x: Node, y: Node, axes: DotOptions): Node;
  hadamard(x: Node, axis: number, signs?: Node, transposed?: boolean): Node;
  attention(q: Node, k: Node, v: Node, options: AttentionOptions): Node;
  hold(x: Node, time: BindingTime, name: string): Node;
  site(x: Node, name: string, role: SiteRole, rest?: readonly Node[]): Node;
  update(cache: Node, rows: Node, positions: Node): Node;
}

/** A fresh builder, which knows no node yet. */
export function createBuilder(): Builder {
  const known = new Map<string, Node>();
  const ids = new Map<Node, number>();
  const adopted = new WeakMap<Node, Node>();

  const adopt = (node: Node): Node => {
    if (ids.has(node)) return node;
    const found = adopted.get(node);
    if (found) return found;
    // Operands first, without recursion: chains of train programs are deeper than the call stack.
    const stack = [node];
    while (stack.length > 0) {
      const top = stack[stack.length - 1] as Node;
      const missing = top.inputs.filter((input) => !ids.has(input) && !adopted.has(input));
      if (missing.length > 0) {
        stack.push(...missing);
        continue;
      }
      stack.pop();
      if (!adopted.has(top)) {
        adopted.set(top, intern(top.op, top.inputs.map((input) => adopted.get(input) ?? input), top.attrs));
      }
    }
    return adopted.get(node) as Node;
  };

  const intern = (op: OpName, inputs: readonly Node[], attrs: Attrs): Node => {
    const names = Object.keys(attrs).filter((name) => attrs[name] !== undefined).sort();
    const key = `${op}(${inputs.map((node) => ids.get(node)).join()}){${attrsText(attrs)}}`;
    const found = known.get(key);
    if (found) return found;
    checkForm(op, inputs, attrs);
    const type = recordOf(op).infer(inputs.map((node) => node.type), attrs);
    const sorted = Object.fromEntries(names.map((name) => [name, freezeAttr(attrs[name] as Attr)]));
    const node: Node = Object.freeze({ op, inputs: Object.freeze([...inputs]), attrs: Object.freeze(sorted), type });
    ids.set(node, ids.size);
    known.set(key, node);
    return node;
  };

  const make = (op: OpName, inputs: readonly Node[], attrs: Attrs = {}): Node => intern(op, inputs.map(adopt), attrs);

  /** Operands of one shape and type: numbers become constants, smaller shapes are broadcast (matched from the right). */
  const align = (...operands: readonly Operand[]): Node[] => {
    const first = operands.find((x) => typeof x !== "number");
    if (typeof first !== "object") throw new TypeError("Expected at least one operand that is not a number");
    const nodes = operands.map((x) => typeof x === "number" ? constant(x, tensorType(first.type.dtype, [])) : x);
    const shape = commonShape(nodes.map((node) => node.type));
    return nodes.map((node) => broadcast(node, shape));
  };

  const constant = (value: number | readonly number[], type: TensorType): Node =>
    make("constant", [], { type: typeText(type), values: typeof value === "number" ? [value] : value });

  const broadcast = (x: Node, shape: readonly Dim[]): Node => {
    if (sameShape(x.type.shape, shape)) return x;
    if (x.op === "constant" && (x.attrs.values as readonly number[]).length === 1) {
      return make("constant", [], { ...x.attrs, type: typeText(tensorType(x.type.dtype, shape)) });
    }
    return make("broadcast", [x], { shape });
  };

  const reshape = (x: Node, shape: readonly Dim[]): Node =>
    sameShape(x.type.shape, shape) ? x : make("reshape", [x], { shape });
  const unary = (op: OpName) => (x: Node) => make(op, [x]);
  const binary = (op: OpName) => (x: Operand, y: Operand) => make(op, align(x, y));
  const reduction = (op: OpName) => (x: Node, axes: readonly number[]) =>
    make(op, [x], { axes: [...axes].sort((a, b) => a - b) });

  return {
    make,
    adopt,
    param: (name, type, time) => make("param", [], { name, type: typeText(type), time }),
    input: (name, type) => make("input", [], { name, type: typeText(type) }),
    constant,
    iota: (dtype, shape, axis) => make("iota", [], { type: typeText(tensorType(dtype, shape)), axis }),
    reshape,
    transpose: (x, permutation) =>
      permutation.every((axis, i) => axis === i) ? x : make("transpose", [x], { permutation }),
    broadcast,
    slice: (x, starts, sizes, steps) => {
      const forward = steps === undefined || steps.every((step) => step === 1);
      if (forward && sameShape(x.type.shape, sizes)) return x;
      return make("slice", [x], forward ? { starts, sizes } : { starts, sizes, steps });
    },
    concat: (parts, axis) => parts.length === 1 && parts[0] ? parts[0] : make("concat", parts, { axis }),
    pad: (x, before, after, value = 0) =>
      [...before, ...after].every((n) => n === 0)
        ? x
        : make("pad", [x], value === 0 ? { before, after } : { before, after, value }),
    gather: (table, indices) => make("gather", [table, indices]),
    add: binary("add"),
    sub: binary("sub"),
    mul: binary("mul"),
    div: binary("div"),
    minimum: binary("minimum"),
    maximum: binary("maximum"),
    compare: (x, y, direction) => make("compare", align(x, y), { direction }),
    select: (condition, x, y) => {
      const [a, b] = align(
        x,
        y,
        ...(typeof x === "number" && typeof y === "number" ? [constant(0, tensorType("f32", []))] : []),
      );
      const shape = commonShape([condition.type, (a as Node).type]);
      return make("select", [condition, a as Node, b as Node].map((node) => broadcast(node, shape)));
    },
    exp: unary("exp"),
    log: unary("log"),
    sqrt: unary("sqrt"),
    erf: unary("erf"),
    sigmoid: unary("sigmoid"),
    abs: unary("abs"),
    round: unary("round"),
    floor: unary("floor"),
    cast: (x, dtype) => x.type.dtype === dtype ? x : make("cast", [x], { dtype }),
    straightThrough: (value, through) => make("straightThrough", [value, through]),
    sum: reduction("sum"),
    max: reduction("max"),
    min: reduction("min"),
    topK: (x, k) => make("topK", [x], { k }),
    dot: (x, y, { lhsBatch = [], rhsBatch = [], lhsContract, rhsContract }) =>
      make("dot", [x, y], {
        ...(lhsBatch.length > 0 ? { lhsBatch, rhsBatch } : {}),
        lhsContract,
        rhsContract,
      }),
    hadamard: (x, axis, signs, transposed = false) =>
      make("hadamard", signs ? [x, signs] : [x], transposed ? { axis, transposed } : { axis }),
    attention: (q, k, v, { scale, causal = false, window, bias, positions }) =>
      make("attention", [q, k, v, ...(bias ? [bias] : []), ...(positions ? [positions] : [])], {
        of: "output",
        scale,
        ...(causal ? { causal } : {}),
        ...(window === undefined ? {} : { window }),
        ...(bias ? { bias: true } : {}),
        ...(positions ? { positions: true } : {}),
      }),
    hold: (x, time, name) => make("hold", [x], { time, name }),
    site: (x, name, role, rest = []) => make("site", [x, ...rest], { name, role }),
    update: (cache, rows, positions) => make("update", [cache, rows, positions]),
  };
}

/** The shape that all shapes broadcast to, matched from the right. */
function commonShape(types: readonly TensorType[]): readonly Dim[] {
  const rank = Math.max(...types.map(({ shape }) => shape.length));
  return Array.from({ length: rank }, (_, i) => {
    const dims = types.map(({ shape }) => shape[i - rank + shape.length] ?? 1).filter((dim) => dim !== 1);
    if (dims.some((dim) => dim !== dims[0])) {
      throw new TypeError(
        `Cannot broadcast: expected shapes that agree but found ${types.map(typeText).join(" and ")}`,
      );
    }
    return dims[0] ?? 1;
  });
}

const KINDS: Readonly<Record<string, (value: Attr) => boolean>> = {
  number: (value) => typeof value === "number",
  text: (value) => typeof value === "string",
  flag: (value) => typeof value === "boolean",
  numbers: (value) => Array.isArray(value) && value.every((item) => typeof item === "number"),
  dims: (value) => Array.isArray(value) && value.every((item) => multiplyDims([1, item]) !== undefined),
};

/** Checks number of operands and attributes against the op's record. */
export function checkForm(op: OpName, inputs: readonly Node[], attrs: Attrs): void {
  const { arity, attrs: schema } = recordOf(op);
  const [least, most] = typeof arity === "number" ? [arity, arity] : arity;
  if (inputs.length < least || inputs.length > most) {
    throw new TypeError(
      `Cannot build ${op}: expected ${
        least === most ? least : `${least} to ${most}`
      } operands but found ${inputs.length}`,
    );
  }
  for (const [key, kind] of Object.entries(schema)) {
    const name = key.replace("?", ""), value = attrs[name];
    if (value === undefined && key.endsWith("?")) continue;
    if (value === undefined || !KINDS[kind]?.(value)) {
      throw new TypeError(
        `Cannot build ${op}: expected attribute "${name}" (${kind}) but found ${JSON.stringify(value)}`,
      );
    }
  }
  for (const name of Object.keys(attrs)) {
    if (schema[name] === undefined && schema[`${name}?`] === undefined) {
      throw new TypeError(
        `Cannot build ${op}: no attribute "${name}"; there are ${Object.keys(schema).join(", ") || "none"}`,
      );
    }
  }
}

const freezeAttr = (value: Attr): Attr => typeof value === "object" ? Object.freeze([...value]) : value;
