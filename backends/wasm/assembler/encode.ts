/** Writes expression trees as WebAssembly bytes. */

import {
  AssemblyError,
  type Func,
  type Immediate,
  type Label,
  type LaneShape,
  type Stmt,
  type ValueType,
} from "./expr.ts";

/** The byte that stands for a value type. */
export const TYPE_BYTE = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b } satisfies Record<ValueType, number>;
const [EMPTY, ELSE, END] = [0x40, 0x05, 0x0b];
/** In the alignment field: a memory index follows. */
const HAS_MEMORY_INDEX = 0x40;

/** A growing buffer of bytes. */
export class ByteWriter {
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(1024);
  #length = 0;
  readonly #scratch = new DataView(new ArrayBuffer(8));

  get length(): number {
    return this.#length;
  }
  /** A copy of what was written. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#length);
  }
  /** Forgets what was written and keeps the space. */
  clear(): void {
    this.#length = 0;
  }
  byte(value: number): void {
    if (this.#length === this.#bytes.length) this.#grow(1);
    this.#bytes[this.#length++] = value;
  }
  bytes(values: Uint8Array | readonly number[]): void {
    for (let i = 0; i < values.length; i++) this.byte(values[i] ?? 0);
  }
  /** Appends what another writer holds. */
  append(other: ByteWriter): void {
    if (this.#length + other.length > this.#bytes.length) this.#grow(other.length);
    this.#bytes.set(other.#bytes.subarray(0, other.length), this.#length);
    this.#length += other.length;
  }
  unsigned(value: number): void {
    while (value >= 0x80) {
      this.byte((value % 0x80) | 0x80);
      value = Math.floor(value / 0x80);
    }
    this.byte(value);
  }
  signed(value: number): void {
    for (;;) {
      const low = value & 0x7f;
      value >>= 7;
      if ((value === 0 && low < 0x40) || (value === -1 && low >= 0x40)) return this.byte(low);
      this.byte(low | 0x80);
    }
  }
  signed64(value: bigint): void {
    for (;;) {
      const low = Number(value & 0x7fn);
      value >>= 7n;
      if ((value === 0n && low < 0x40) || (value === -1n && low >= 0x40)) return this.byte(low);
      this.byte(low | 0x80);
    }
  }
  float(value: number, bits: 32 | 64): void {
    if (bits === 32) this.#scratch.setFloat32(0, value, true);
    else this.#scratch.setFloat64(0, value, true);
    for (let i = 0; i < bits / 8; i++) this.byte(this.#scratch.getUint8(i));
  }
  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.unsigned(bytes.length);
    this.bytes(bytes);
  }
  #grow(by: number): void {
    const larger = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length + by));
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}

/** Writes locals and body of a function, without the size in front. */
export function encodeFunction(w: ByteWriter, func: Func): void {
  const declared = func.locals.slice(Object.keys(func.params).length);
  const runs: { type: ValueType; count: number }[] = [];
  for (const { type } of declared) {
    const run = runs.at(-1);
    if (run?.type === type) run.count++;
    else runs.push({ type, count: 1 });
  }
  w.unsigned(runs.length);
  for (const { type, count } of runs) {
    w.unsigned(count);
    w.byte(TYPE_BYTE[type]);
  }
  encodeBody(w, func, func.body, []);
  w.byte(END);
}

function encodeBody(w: ByteWriter, func: Func, body: readonly Stmt[], labels: Label[]): void {
  for (const statement of body) encodeExpr(w, func, statement, labels);
}

function encodeExpr(
  w: ByteWriter,
  func: Func,
  expr: Func["body"][number] | Stmt["args"][number],
  labels: Label[],
): void {
  const { op, args, imm } = expr;
  if (imm.kind === "comment") return;
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (arg) encodeExpr(w, func, arg, labels);
  }
  w.bytes(op.bytes);
  encodeImmediate(w, func, imm, labels);
}

function encodeImmediate(w: ByteWriter, func: Func, imm: Immediate, labels: Label[]): void {
  switch (imm.kind) {
    case "none":
    case "comment":
      return;
    case "integer":
      return w.signed(imm.value);
    case "long":
      return w.signed64(imm.value);
    case "float":
      return w.float(imm.value, imm.bits);
    case "vector":
      return w.bytes(vectorBytes(imm.shape, imm.lanes));
    case "lane":
      return w.byte(imm.lane);
    case "shuffle":
      return w.bytes(imm.lanes);
    case "memory": {
      const index = imm.memory?.index ?? 0;
      w.byte(Math.log2(imm.align) | (index > 0 ? HAS_MEMORY_INDEX : 0));
      if (index > 0) w.unsigned(index);
      w.unsigned(imm.offset);
      if (imm.lane !== undefined) w.byte(imm.lane);
      return;
    }
    case "bulk":
      for (const memory of imm.memories) w.unsigned(memory?.index ?? 0);
      return;
    case "local":
      if (imm.local.owner !== func.owner) {
        throw new AssemblyError(`Cannot use "${imm.local.name}" in "${func.name}": expected one of its own locals`);
      }
      return w.unsigned(imm.local.index);
    case "call":
      return w.unsigned(imm.func.index);
    case "label": {
      const at = labels.lastIndexOf(imm.label);
      if (at < 0) {
        throw new AssemblyError(
          `Cannot branch to "${imm.label.name}" in "${func.name}": expected a label of an enclosing block`,
        );
      }
      return w.unsigned(labels.length - 1 - at);
    }
    case "body":
      w.byte(EMPTY);
      labels.push(imm.label);
      encodeBody(w, func, imm.body, labels);
      if (imm.otherwise.length > 0) {
        w.byte(ELSE);
        encodeBody(w, func, imm.otherwise, labels);
      }
      labels.pop();
      return w.byte(END);
    default:
      return imm satisfies never;
  }
}

/** The 16 bytes of a vector constant. */
function vectorBytes(shape: LaneShape, lanes: readonly number[]): Uint8Array {
  switch (shape) {
    case "i8x16":
      return Uint8Array.from(lanes);
    case "i16x8":
      return littleEndian(lanes, 2, (view, at, x) => view.setInt16(at, x, true));
    case "i32x4":
      return littleEndian(lanes, 4, (view, at, x) => view.setInt32(at, x, true));
    case "f32x4":
      return littleEndian(lanes, 4, (view, at, x) => view.setFloat32(at, x, true));
    default:
      return shape satisfies never;
  }
}

function littleEndian(lanes: readonly number[], width: number, set: (view: DataView, at: number, x: number) => void) {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  lanes.forEach((lane, i) => set(view, i * width, lane));
  return bytes;
}
