/**
 * What an expression is: a typed tree of WebAssembly instructions.
 *
 * A tree is evaluated where it is emitted, once for every place it is emitted at; nothing is shared silently. A value that is
 * used twice belongs in a local (`b.let`). Statements are expressions of type `void`.
 */

/** Types a local, a parameter or an operand can have. */
export type ValueType = "i32" | "i64" | "f32" | "f64" | "v128";
/** Types an expression can have; `void` marks a statement. */
export type ResultType = ValueType | "void";
/** Instruction sets beyond fixed-width SIMD that an instruction may need. */
export type Feature = "relaxed-simd" | "threads";
/** How the lanes of a `v128.const` are written. */
export type LaneShape = "i8x16" | "i16x8" | "i32x4" | "f32x4";

/** One instruction of the instruction set: everything the encoder, the printer and the type check know about it. */
export interface Instruction {
  /** Name in the WebAssembly text format. */
  readonly name: string;
  /** Opcode, with its prefix and the sub-opcode in LEB128. */
  readonly bytes: readonly number[];
  readonly operands: readonly ValueType[];
  readonly result: ResultType;
  /** Bytes of memory accessed, 0 when the instruction has no memory operand; also the natural alignment. */
  readonly width: number;
  readonly feature: Feature | undefined;
}

/** A linear memory of a module, as returned by `ModuleBuilder.memory`. */
export interface Memory {
  readonly name: string;
  readonly index: number;
}

/** A jump target: the end of a `block` or the start of a `loop`. */
export interface Label {
  readonly name: string;
}

/** A parameter or local variable of a function. */
export interface Variable<T extends ValueType = ValueType> {
  readonly type: T;
  readonly name: string;
  /** Position among the parameters and locals of its function. */
  readonly index: number;
  /** The function it belongs to; using it in another one is an error. */
  readonly owner: object;
}

/** A variable as an expression: its value at the place where the expression is emitted. */
export interface Local<T extends ValueType = ValueType> extends Expr<T>, Variable<T> {
  readonly type: T;
}

/** Parameter names and types, in calling order. */
export type Params = Readonly<Record<string, ValueType>>;

/** A finished function of a module. */
export interface Func<P extends Params = Params, R extends ResultType = ResultType> {
  readonly name: string;
  readonly index: number;
  readonly params: P;
  readonly result: R;
  readonly locals: readonly Variable[];
  readonly body: readonly Stmt[];
  /** Identity of the function that its locals carry. */
  readonly owner: object;
}

/** What an instruction carries besides its operands. */
export type Immediate =
  | { readonly kind: "none" }
  | { readonly kind: "integer"; readonly value: number }
  | { readonly kind: "long"; readonly value: bigint }
  | { readonly kind: "float"; readonly value: number; readonly bits: 32 | 64 }
  | { readonly kind: "vector"; readonly shape: LaneShape; readonly lanes: readonly number[] }
  | { readonly kind: "lane"; readonly lane: number }
  | { readonly kind: "shuffle"; readonly lanes: readonly number[] }
  | {
    readonly kind: "memory";
    readonly offset: number;
    readonly align: number;
    readonly memory: Memory | undefined;
    readonly lane: number | undefined;
  }
  | { readonly kind: "bulk"; readonly memories: readonly (Memory | undefined)[] }
  | { readonly kind: "local"; readonly local: Variable }
  | { readonly kind: "call"; readonly func: Func }
  | { readonly kind: "label"; readonly label: Label }
  | {
    readonly kind: "body";
    readonly label: Label;
    readonly body: readonly Stmt[];
    readonly otherwise: readonly Stmt[];
  }
  | { readonly kind: "comment"; readonly text: string };

/** A tree of instructions whose value has type `T`. */
export interface Expr<T extends ResultType = ResultType> {
  readonly type: T;
  readonly op: Instruction;
  readonly args: readonly Expr<ValueType>[];
  readonly imm: Immediate;
}

/** An expression without a value. */
export type Stmt = Expr<"void">;

/** JavaScript literals that stand for constants of a type. */
interface Literals {
  i32: number;
  i64: bigint;
  f32: number;
  f64: number;
  v128: never;
}
/** An operand of type `T`: an expression, or a JavaScript number (bigint for i64) that becomes a constant. */
export type Operand<T extends ValueType> = Expr<T> | Literals[T];

/** Raised when a program under construction is wrong; the message names the function or instruction. */
export class AssemblyError extends Error {
  override readonly name = "AssemblyError";
}

const NO_IMMEDIATE: Immediate = { kind: "none" };

/** Makes an instruction record. `opcode` is written as the specification does: `0x6a`, `0xfd_e4` or, in full, `0xfd_113`. */
export function instruction(
  name: string,
  opcode: number,
  operands: readonly ValueType[],
  result: ResultType,
  options: { width?: number; feature?: Feature } = {},
): Instruction {
  return {
    name,
    bytes: opcodeBytes(opcode),
    operands,
    result,
    width: options.width ?? 0,
    feature: options.feature ?? (name.includes("relaxed") ? "relaxed-simd" : undefined),
  };
}

function opcodeBytes(opcode: number): readonly number[] {
  if (opcode <= 0xff) return [opcode];
  const [prefix, sub] = opcode <= 0xffff ? [opcode >> 8, opcode & 0xff] : [opcode >> 12, opcode & 0xfff];
  return sub < 0x80 ? [prefix, sub] : [prefix, (sub & 0x7f) | 0x80, sub >> 7];
}

/**
 * Makes the node of an instruction after checking its operands.
 *
 * @throws {AssemblyError} when an operand's type is not the one the instruction takes. TypeScript catches this for operands
 * of known type; generators that hold `Expr<ValueType>` meet it here.
 */
export function node<R extends ResultType>(
  op: Instruction,
  result: R,
  operands: readonly Operand<ValueType>[],
  imm: Immediate = NO_IMMEDIATE,
): Expr<R> {
  const expected = op.operands;
  if (operands.length !== expected.length) {
    throw new AssemblyError(
      `Cannot build "${op.name}": expected ${expected.length} operands but found ${operands.length}`,
    );
  }
  const args: Expr<ValueType>[] = [];
  for (let i = 0; i < expected.length; i++) {
    args.push(toExpr(operands[i], expected[i] ?? "i32", op.name, i));
  }
  return { type: result, op, args, imm };
}

const CONST = {
  i32: instruction("i32.const", 0x41, [], "i32"),
  i64: instruction("i64.const", 0x42, [], "i64"),
  f32: instruction("f32.const", 0x43, [], "f32"),
  f64: instruction("f64.const", 0x44, [], "f64"),
};

/** The i32 constant `value`, signed or unsigned: -2^31 … 2^32 - 1. */
export function i32Const(value: number): Expr<"i32"> {
  if (!Number.isInteger(value) || value < -0x80000000 || value > 0xffffffff) {
    throw new AssemblyError(`Cannot build "i32.const": expected an integer from -2^31 to 2^32 - 1 but found ${value}`);
  }
  return { type: "i32", op: CONST.i32, args: [], imm: { kind: "integer", value: value | 0 } };
}

/** The i64 constant `value`, taken modulo 2^64. */
export function i64Const(value: bigint): Expr<"i64"> {
  return { type: "i64", op: CONST.i64, args: [], imm: { kind: "long", value: BigInt.asIntN(64, value) } };
}

/** The f32 constant nearest to `value`. */
export function f32Const(value: number): Expr<"f32"> {
  return { type: "f32", op: CONST.f32, args: [], imm: { kind: "float", value: Math.fround(value), bits: 32 } };
}

/** The f64 constant `value`. */
export function f64Const(value: number): Expr<"f64"> {
  return { type: "f64", op: CONST.f64, args: [], imm: { kind: "float", value, bits: 64 } };
}

/** Turns a literal into a constant of type `type` and checks the type of an expression; `user` and `position` word the error. */
export function toExpr<T extends ValueType>(
  operand: Operand<ValueType> | undefined,
  type: T,
  user: string,
  position: number,
): Expr<T> {
  if (typeof operand === "object") {
    if (operand.type === type) return operand as Expr<T>;
    throw new AssemblyError(
      `Cannot build "${user}": expected operand ${position} of type ${type} but found "${operand.op.name}" of type ${operand.type}`,
    );
  }
  if (typeof operand === "bigint") {
    if (type === "i64") return i64Const(operand) as Expr<ValueType> as Expr<T>;
  } else if (typeof operand === "number") {
    if (type === "i32") return i32Const(operand) as Expr<ValueType> as Expr<T>;
    if (type === "f32") return f32Const(operand) as Expr<ValueType> as Expr<T>;
    if (type === "f64") return f64Const(operand) as Expr<ValueType> as Expr<T>;
  }
  throw new AssemblyError(
    `Cannot build "${user}": expected operand ${position} of type ${type} but found the literal ${String(operand)}`,
  );
}

/** The value of an `i32.const` node, or undefined for any other expression. */
export function constantOf(expr: Expr): number | undefined {
  return expr.op === CONST.i32 && expr.imm.kind === "integer" ? expr.imm.value : undefined;
}
