/** Turns opcode tables into typed constructor functions, so that an instruction is one line of one table. */

import {
  AssemblyError,
  type Expr,
  type Instruction,
  instruction,
  type Memory,
  node,
  type Operand,
  type ResultType,
  type Stmt,
  type ValueType,
} from "./expr.ts";

/** Operand types and result type of an instruction. */
export interface Signature<P extends readonly ValueType[], R extends ResultType> {
  readonly operands: P;
  readonly result: R;
}

/** Makes a signature with its types kept literally. */
export function signature<const P extends readonly ValueType[], const R extends ResultType>(
  operands: P,
  result: R,
): Signature<P, R> {
  return { operands, result };
}

/** One operand per type of `P`. */
export type Operands<P extends readonly ValueType[]> = { [K in keyof P]: Operand<P[K]> };
/** A constructor function that knows its instruction. */
export type Constructor<F> = F & { readonly instruction: Instruction };

type Row = readonly [opcode: number, signature: Signature<readonly ValueType[], ResultType>];
type Built<T> = T extends readonly [number, Signature<infer P, infer R>]
  ? Constructor<(...operands: Operands<P>) => Expr<R>>
  : never;

/** Builds `{ add: (a, b) => … }` from `{ add: [opcode, signature] }`; instructions are named `<prefix>.<key>`. */
export function family<const T extends Readonly<Record<string, Row>>>(
  prefix: string,
  table: T,
): { readonly [K in keyof T]: Built<T[K]> } {
  const entries = Object.entries(table).map(([key, [opcode, { operands, result }]]) => {
    const op = instruction(`${prefix}.${key}`, opcode, operands, result);
    const build = (...args: Operand<ValueType>[]) => node(op, result, args);
    return [key, Object.assign(build, { instruction: op })];
  });
  return Object.fromEntries(entries);
}

/**
 * Where in memory, relative to the address operand: a static byte offset, or an offset with the alignment the program promises
 * (bytes, default: the natural one, which is only a hint to the engine) and the memory (default: the module's first).
 */
export type At = number | { readonly offset?: number; readonly align?: number; readonly memory?: Memory };

function memoryImmediate(op: Instruction, at: At, lane?: number) {
  const { offset = 0, align = op.width, memory } = typeof at === "number" ? { offset: at } : at;
  if (!Number.isInteger(offset) || offset < 0 || offset > 0xffffffff) {
    throw new AssemblyError(`Cannot build "${op.name}": expected an offset from 0 to 2^32 - 1 but found ${offset}`);
  }
  if (align < 1 || align > op.width || (align & (align - 1)) !== 0) {
    throw new AssemblyError(
      `Cannot build "${op.name}": expected an alignment that is a power of two up to ${op.width} but found ${align}`,
    );
  }
  return { kind: "memory", offset, align, memory, lane } as const;
}

/** An instruction `(address) -> value` that reads memory. */
export function load<R extends ValueType>(name: string, opcode: number, result: R, width: number) {
  const op = instruction(name, opcode, ["i32"], result, { width });
  const build = (address: Operand<"i32">, at: At = 0): Expr<R> => node(op, result, [address], memoryImmediate(op, at));
  return Object.assign(build, { instruction: op });
}

/** An instruction `(address, value)` that writes memory. */
export function store<T extends ValueType>(name: string, opcode: number, type: T, width: number) {
  const op = instruction(name, opcode, ["i32", type], "void", { width });
  const build = (address: Operand<"i32">, value: Operand<T>, at: At = 0): Stmt =>
    node(op, "void", [address, value], memoryImmediate(op, at));
  return Object.assign(build, { instruction: op });
}

/** An atomic instruction `(address, …operands) -> result`; alignment must be natural, so only an offset can be given. */
export function atomic<const P extends readonly ValueType[], R extends ResultType>(
  name: string,
  opcode: number,
  operands: P,
  result: R,
  width: number,
) {
  const op = instruction(name, opcode, ["i32", ...operands], result, { width, feature: "threads" });
  const build = (address: Operand<"i32">, ...rest: Operands<P>): Expr<R> =>
    node(op, result, [address, ...rest], memoryImmediate(op, 0));
  return Object.assign(build, { instruction: op });
}

/** An instruction that reads one lane of memory into a vector: `(address, vector, lane) -> vector`. */
export function loadLane(name: string, opcode: number, width: number) {
  const op = instruction(name, opcode, ["i32", "v128"], "v128", { width });
  const build = (address: Operand<"i32">, vector: Expr<"v128">, lane: number, at: At = 0): Expr<"v128"> =>
    node(op, "v128", [address, vector], memoryImmediate(op, at, checkedLane(op, lane, 16 / width)));
  return Object.assign(build, { instruction: op });
}

/** An instruction that writes one lane of a vector to memory: `(address, vector, lane)`. */
export function storeLane(name: string, opcode: number, width: number) {
  const op = instruction(name, opcode, ["i32", "v128"], "void", { width });
  const build = (address: Operand<"i32">, vector: Expr<"v128">, lane: number, at: At = 0): Stmt =>
    node(op, "void", [address, vector], memoryImmediate(op, at, checkedLane(op, lane, 16 / width)));
  return Object.assign(build, { instruction: op });
}

/** `(vector, lane) -> scalar`. */
export function extractLane<R extends ValueType>(name: string, opcode: number, result: R, lanes: number) {
  const op = instruction(name, opcode, ["v128"], result);
  const build = (vector: Expr<"v128">, lane: number): Expr<R> =>
    node(op, result, [vector], { kind: "lane", lane: checkedLane(op, lane, lanes) });
  return Object.assign(build, { instruction: op });
}

/** `(vector, lane, scalar) -> vector`. */
export function replaceLane<T extends ValueType>(name: string, opcode: number, type: T, lanes: number) {
  const op = instruction(name, opcode, ["v128", type], "v128");
  const build = (vector: Expr<"v128">, lane: number, value: Operand<T>): Expr<"v128"> =>
    node(op, "v128", [vector, value], { kind: "lane", lane: checkedLane(op, lane, lanes) });
  return Object.assign(build, { instruction: op });
}

/** Returns `lane` when it is below `count`. */
export function checkedLane(op: Instruction, lane: number, count: number): number {
  if (Number.isInteger(lane) && lane >= 0 && lane < count) return lane;
  throw new AssemblyError(`Cannot build "${op.name}": expected a lane from 0 to ${count - 1} but found ${lane}`);
}
