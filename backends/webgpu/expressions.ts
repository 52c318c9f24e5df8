/** From expressions of a kernel specification to WGSL statements; shared subexpressions and reads get a name, others stand inline. */
import type { Expr, Scalar } from "../kernel.ts";
import type { Direction } from "../../ir/ops/maps.ts";
import type { MapOp } from "../../ir/ops.ts";
import { type Chosen, type Place, readText } from "./access.ts";
import { constantText, floatText, typeText, wrap } from "./text.ts";
import type { Writer } from "./writer.ts";

/** WGSL text of a value; `vector` if it holds four neighbours along the place's vector axis. */
export interface Operand {
  readonly text: string;
  readonly scalar: Scalar;
  readonly vector: boolean;
}

/** A stretch of statements in which every expression is computed once. */
export interface Block {
  /** The statements so far. */
  readonly lines: string[];
  /** Text of an expression; appends the statements that it needs. */
  emit(expr: Expr): Operand;
  /** The same as a value of four, for a place with a vector axis. */
  emitVector(expr: Expr): Operand;
  /** Gives a text a name that later statements can use. */
  name(wish: string, operand: Operand): Operand;
}

const LONGEST_INLINE = 72;

/**
 * Starts a block.
 *
 * @param roots all expressions that the block will emit: those with several uses are given names
 * @param known text of `value` expressions, by id
 */
export function startBlock(
  writer: Writer,
  place: Place,
  roots: readonly Expr[],
  known: ReadonlyMap<number, Operand> = new Map(),
): Block {
  const lines: string[] = [], done = new Map<Expr, Operand>(), uses = countUses(roots);
  const name = (wish: string, operand: Operand): Operand => {
    if (/^[a-z]\w*$/i.test(operand.text)) return operand;
    const given = writer.names.unique(wish);
    lines.push(`let ${given} = ${operand.text};`);
    return { ...operand, text: given };
  };
  const emit = (expr: Expr): Operand => {
    const found = done.get(expr);
    if (found) return found;
    const operand = compute(expr);
    done.set(expr, operand);
    return operand;
  };
  const compute = (expr: Expr): Operand => {
    switch (expr.kind) {
      case "constant":
        return { text: constantText(expr.value, expr.scalar), scalar: expr.scalar, vector: false };
      case "index":
        return index(expr);
      case "value": {
        const found = known.get(expr.id);
        if (!found) {
          throw new Error(`Internal error in kernel ${writer.spec.name}: value ${expr.id} is used before it is known`);
        }
        return found.vector || /^\w+$/.test(found.text) ? found : name("kept", found);
      }
      case "load": {
        const vector = place.vector !== undefined && (expr.access.strides[place.vector] ?? 0) !== 0;
        const text = readText(writer, expr.buffer, expr.scalar, { access: expr.access, place, vector });
        return name(wishFor(writer, expr.buffer), { text, scalar: expr.scalar, vector });
      }
      case "gather":
        return gather(expr);
      case "map": {
        const args = expr.args.map(emit);
        const operand = mapOperand(writer, expr, args);
        const inline = (uses.get(expr) ?? 0) <= 1 && operand.text.length <= LONGEST_INLINE;
        return inline || args.some((arg) => arg.text === operand.text) ? operand : name("term", operand);
      }
      default:
        return expr satisfies never;
    }
  };
  const index = ({ access }: Extract<Expr, { kind: "index" }>): Operand => {
    const terms = place.vars.map((variable, i) => ({
      name: `i32(${variable})`,
      stride: (place.extents[i] ?? 1) > 1 ? access.strides[i] ?? 0 : 0,
    })).filter(({ stride }) => stride !== 0);
    const base = signedSum(terms, access.offset),
      step = place.vector === undefined ? 0 : access.strides[place.vector] ?? 0;
    if (step === 0) return { text: base, scalar: "i32", vector: false };
    return { text: `(${base}) + vec4<i32>(0, ${step}, ${2 * step}, ${3 * step})`, scalar: "i32", vector: true };
  };
  const gather = (expr: Extract<Expr, { kind: "gather" }>): Operand => {
    const row = emit(expr.index), wish = wishFor(writer, expr.buffer);
    const chosen = (text: string): Chosen => ({
      name: `u32(clamp(${text}, 0i, ${expr.extent - 1}i))`,
      stride: expr.stride,
      extent: expr.extent,
    });
    const moves = place.vector !== undefined && (expr.access.strides[place.vector] ?? 0) !== 0;
    if (!row.vector) {
      const text = readText(writer, expr.buffer, expr.scalar, {
        access: expr.access,
        place,
        vector: moves,
        chosen: chosen(row.text),
      });
      return name(wish, { text, scalar: expr.scalar, vector: moves });
    }
    const rows = /^\w+$/.test(row.text) ? row.text : name("row", row).text;
    const parts = ["x", "y", "z", "w"].map((part, shift) => {
      const vars = place.vars.map((variable, i) =>
        i === place.vector && shift > 0 ? `(${variable} + ${shift}u)` : variable
      );
      const { vector: _, ...single } = { ...place, vars };
      return readText(writer, expr.buffer, expr.scalar, {
        access: expr.access,
        place: single,
        vector: false,
        chosen: chosen(`${rows}.${part}`),
      });
    });
    return name(wish, {
      text: `${typeText(expr.scalar, true)}(${parts.join(", ")})`,
      scalar: expr.scalar,
      vector: true,
    });
  };
  return { lines, name, emit, emitVector: (expr) => splat(emit(expr)) };
}

/** A value of four from one of one. */
export const splat = (operand: Operand): Operand =>
  operand.vector ? operand : { ...operand, text: `${typeText(operand.scalar, true)}(${operand.text})`, vector: true };

const wishFor = (writer: Writer, buffer: number): string =>
  `${writer.view(buffer).buffer.name.split(/[./]/).at(-1) ?? "x"}_at`;

function signedSum(terms: readonly { readonly name: string; readonly stride: number }[], offset: number): string {
  const parts = terms.map(({ name, stride }) => stride === 1 ? name : `${name} * ${constantText(stride, "i32")}`);
  if (offset !== 0 || parts.length === 0) parts.push(constantText(offset, "i32"));
  return parts.join(" + ");
}

function countUses(roots: readonly Expr[]): ReadonlyMap<Expr, number> {
  const uses = new Map<Expr, number>();
  const visit = (expr: Expr): void => {
    const seen = uses.get(expr) ?? 0;
    uses.set(expr, seen + 1);
    if (seen > 0) return;
    if (expr.kind === "map") expr.args.forEach(visit);
    else if (expr.kind === "gather") visit(expr.index);
  };
  roots.forEach(visit);
  return uses;
}

/** Whether an expression varies along an axis. */
export function dependsOn(expr: Expr, axis: number): boolean {
  switch (expr.kind) {
    case "constant":
    case "value":
      return false;
    case "load":
    case "index":
      return (expr.access.strides[axis] ?? 0) !== 0;
    case "gather":
      return (expr.access.strides[axis] ?? 0) !== 0 || dependsOn(expr.index, axis);
    case "map":
      return expr.args.some((arg) => dependsOn(arg, axis));
    default:
      return expr satisfies never;
  }
}

type MapExpr = Extract<Expr, { kind: "map" }>;

/** How an operation is written; `args` are all of one or all of four where `even` is asked for. */
interface MapText {
  readonly text: (args: readonly string[], expr: MapExpr, vector: boolean) => string;
  /** Whether single values must be made vectors when others are. */
  readonly even?: true;
}

const infix = (symbol: string): MapText => ({ text: ([a = "", b = ""]) => `${wrap(a)} ${symbol} ${wrap(b)}` });
const call = (name: string): MapText => ({ text: (args) => `${name}(${args.join(", ")})`, even: true });
const COMPARISONS: Readonly<Record<Direction, string>> = { eq: "==", lt: "<", le: "<=", gt: ">", ge: ">=" };

/** The elementwise operations in WGSL. `cast`, `erf` and `sigmoid` need more than a pattern. */
const MAP_TEXT = {
  add: infix("+"),
  sub: infix("-"),
  mul: infix("*"),
  div: infix("/"),
  exp: call("exp"),
  log: call("log"),
  sqrt: call("sqrt"),
  erf: call("error_function"),
  sigmoid: {
    text: ([x = ""], _, vector) => `1.0 / (1.0 + exp(min(-${wrap(x)}, ${vector ? "vec4<f32>(88.0)" : "88.0"})))`,
  },
  abs: call("abs"),
  round: call("round"),
  floor: call("floor"),
  minimum: call("min"),
  maximum: call("max"),
  compare: {
    text: ([a = "", b = ""], { direction = "eq" }) => `(${wrap(a)} ${COMPARISONS[direction]} ${wrap(b)})`,
    even: true,
  },
  select: { text: ([condition = "", a = "", b = ""]) => `select(${b}, ${a}, ${condition})`, even: true },
  cast: { text: ([x = ""], expr, vector) => castText(x, expr, vector) },
  straightThrough: { text: ([value = ""]) => value },
} satisfies Record<MapOp, MapText>;

function mapOperand(writer: Writer, expr: MapExpr, args: readonly Operand[]): Operand {
  const { text, even }: MapText = MAP_TEXT[expr.op], vector = args.some((arg) => arg.vector);
  if (expr.op === "straightThrough") return { ...args[0] as Operand, scalar: expr.scalar };
  if (expr.op === "erf") errorFunction(writer, vector);
  if (expr.half) return { text: `${nearestHalf(writer, vector)}(${args[0]?.text})`, scalar: "f32", vector };
  const texts = args.map((arg) => even && vector ? splat(arg).text : arg.text);
  const written = text(texts, expr, vector);
  return {
    text: expr.op === "erf" && vector ? written.replace("error_function", "error_function4") : written,
    scalar: expr.scalar,
    vector,
  };
}

function castText(x: string, { args, scalar, range }: MapExpr, vector: boolean): string {
  const from = args[0]?.scalar ?? "f32", type = typeText(scalar, vector);
  const within = (value: string, kind: Scalar, [low, high]: readonly [number, number]) => {
    const bound = (end: number) =>
      vector ? `${typeText(kind, true)}(${constantText(end, kind)})` : constantText(end, kind);
    return `clamp(${value}, ${bound(low)}, ${bound(high)})`;
  };
  const narrow = range && range[1] < 2 ** 24 ? range : undefined;
  if (from === scalar) return narrow && scalar === "i32" ? within(x, "i32", narrow) : x;
  return `${type}(${narrow && from === "f32" ? within(x, "f32", narrow) : x})`;
}

/**
 * The nearest half as a float, ties to even, in integers: compilers may contract float arithmetic, and what `unpack2x16float` makes of
 * subnormal halves is up to the device. Rounding to an integer is exact, and multiples of 2^-24 are normal floats.
 */
function nearestHalf(writer: Writer, vector: boolean): string {
  const one = writer.helper("nearest_half", (name) => [
    `fn ${name}(x: f32) -> f32 {`,
    "  let magnitude = bitcast<u32>(x) & 0x7fffffffu;",
    "  var half = (magnitude + 0xfffu + ((magnitude >> 13u) & 1u)) & 0xffffe000u;",
    "  if (magnitude < 0x38800000u) { half = bitcast<u32>(round(abs(x) * 16777216.0) * 5.9604644775390625e-8); }",
    "  if (magnitude > 0x477fefffu) { half = max(magnitude, 0x7f800000u); }",
    "  return bitcast<f32>(half | (bitcast<u32>(x) & 0x80000000u));",
    "}",
  ]);
  return vector ? ofFour(writer, one) : one;
}

/** The function that applies one of a float to four. */
const ofFour = (writer: Writer, one: string): string =>
  writer.helper(`${one}4`, (name) => [
    `fn ${name}(x: vec4<f32>) -> vec4<f32> {`,
    `  return vec4<f32>(${["x", "y", "z", "w"].map((part) => `${one}(x.${part})`).join(", ")});`,
    "}",
  ]);

/** erf for f32: odd polynomial up to 1, one minus e^(-x²) times a polynomial in 1/(1+x/2) beyond; both fitted to 2e-8. */
const SMALL = [
  1.1283791658815,
  -0.3761262690358,
  0.1128359746449,
  -0.026854328796,
  0.0051893119425,
  -0.0008018854991,
  0.0000788249711,
];
const LARGE = [
  0.0005838722766,
  0.2739049958153,
  0.3293379246051,
  0.1054166556433,
  0.397472697664,
  -0.0521889838279,
  -0.0552571999619,
];

function errorFunction(writer: Writer, vector: boolean): void {
  const horner = (coefficients: readonly number[], x: string) =>
    coefficients.toReversed().map(floatText).reduce((sum, c) => `(${sum} * ${x} + ${c})`);
  const one = writer.helper("error_function", (name) => [
    `fn ${name}(x: f32) -> f32 {`,
    "  let size = abs(x);",
    "  let square = x * x;",
    `  let near = x * ${horner(SMALL, "square")};`,
    "  let t = 1.0 / (1.0 + 0.5 * size);",
    `  let tail = exp(-min(square, 80.0)) * ${horner(LARGE, "t")};`,
    "  return select(sign(x) * (1.0 - tail), near, size < 1.0);",
    "}",
  ]);
  if (vector) ofFour(writer, one);
}
