/**
 * Hadamard transforms of a row that the invocations of a workgroup hold: T = (H_K ⊗ H_{2^m}) / √n.
 *
 * The row passes through workgroup memory piece by piece: first as whole blocks of 2^m, transformed by butterflies, then as columns of
 * the K by 2^m matrix, mixed by H_K. So rows of any length fit the memory that every device has.
 */
import type { RowTransform } from "../kernel.ts";
import { hadamardFactor, hadamardMatrix } from "../../ir/hadamard.ts";
import { readOne } from "./access.ts";
import { neighbour, togetherOf } from "./fold.ts";
import { type Row, sweep } from "./sweep.ts";
import { floatText, indent, sumText } from "./text.ts";

/** Floats of workgroup memory for the exchange, at least; a transform of 4096 needs three quarters of the portable limit otherwise. */
const EXCHANGE = 2048;

/** Workgroup memory of a transform of n, bytes. */
export const exchangeBytes = (n: number): number => 4 * Math.min(n, EXCHANGE);

/** Splits a transform so that a block of 2^m fits the exchange: the rest of the powers of two moves into the factor. */
function split(n: number): { K: number; block: number; matrix: Int8Array } {
  const { K, m } = hadamardFactor(n) ?? { K: 1, m: 0 };
  const extra = Math.max(0, m - Math.log2(EXCHANGE));
  let matrix = hadamardMatrix(K), order = K;
  for (let step = 0; step < extra; step++) {
    const half = matrix, size = order;
    order *= 2;
    matrix = Int8Array.from({ length: order * order }, (_, at) => {
      const i = Math.floor(at / order), j = at % order, sign = i >= size && j >= size ? -1 : 1;
      return sign * (half[(i % size) * size + j % size] ?? 0);
    });
  }
  return { K: order, block: 2 ** (m - extra), matrix };
}

/** Lines that compute the array `to` of an invocation's elements from the array `from`. */
export function writeTransform(row: Row, { transposed, signs }: RowTransform, from: string, to: string): string[] {
  const { writer, length, slots } = row, { K, block, matrix } = split(length);
  const exchange = writer.shared("exchange", "f32", Math.min(length, EXCHANGE));
  const sign = signs === undefined
    ? ""
    : ` * ${readOne(writer, writer.view(signs), { flat: "i", row: "0u", column: "i" })}`;
  const scale = floatText(1 / Math.sqrt(length));
  const lines = [
    `// Hadamard transform of ${length} = ${K} * ${block}${transposed ? ", transposed" : ""}`,
    `var ${to}: array<f32, ${slots}>;`,
  ];
  const first = transposed ? "" : sign, last = ` * ${scale}${transposed ? sign : ""}`;
  // Every invocation has to take part in an exchange of registers, with elements whose numbers differ as those of invocations do.
  const together = length % row.threads === 0 ? togetherOf(writer, block) : 1;
  if (together > 1) lines.push(...exchanges(row, { together, from, to, first }));
  const own = together > 1 ? { from: to, first: "" } : { from, first };
  if (together === block && together > 1) {
    if (K === 1) lines.push(...sweep(row, [`${to}[slot] = ${to}[slot]${last};`]));
  } else lines.push(...butterflies(row, { ...own, block, together, exchange, to, last: K === 1 ? last : "" }));
  if (K > 1) {
    // One kernel may use both a matrix and its transpose.
    const [name, entries] = transposed
      ? [`signs_of_order_${K}_transposed`, transpose(matrix, K)]
      : [`signs_of_order_${K}`, matrix];
    lines.push(...mixing(row, { K, block, name, matrix: entries, exchange, to, last }));
  }
  return lines;
}

/** Runs a body once per piece of the row, with `piece` as its number. */
const pieces = (count: number, body: readonly string[]): string[] =>
  count === 1
    ? ["{", "  let piece = 0u;", ...indent(body), "}"]
    : [`for (var piece = 0u; piece < ${count}u; piece++) {`, ...indent(body), "}"];

interface Exchanges {
  /** Neighbouring invocations that exchange registers. */
  readonly together: number;
  readonly from: string;
  readonly to: string;
  readonly first: string;
}

/** Lines for the steps in which elements meet that neighbouring invocations hold. */
function exchanges(row: Row, { together, from, to, first }: Exchanges): string[] {
  const lines = [`var turned_here = ${from}[slot]${first};`];
  for (let half = 1; half < together; half *= 2) {
    const other = neighbour(row.writer, "turned_here", half);
    lines.push(`turned_here = ${other} + select(turned_here, -turned_here, (lane & ${half}u) != 0u);`);
  }
  return sweep(row, [...lines, `${to}[slot] = turned_here;`]);
}

interface Butterflies {
  readonly block: number;
  /** Steps that are done: those over fewer elements. */
  readonly together: number;
  readonly exchange: string;
  readonly from: string;
  readonly to: string;
  /** Factors on the way in and out. */
  readonly first: string;
  readonly last: string;
}

function butterflies(row: Row, { block, together, exchange, from, to, first, last }: Butterflies): string[] {
  const { length, threads } = row, size = Math.max(1, Math.floor(Math.min(length, EXCHANGE) / block)) * block;
  const count = Math.ceil(length / size), at = count === 1 ? "i" : `i - piece * ${size}u`;
  const inPiece = (body: string): string[] => count === 1 ? [body] : [`if (i / ${size}u == piece) {`, `  ${body}`, "}"];
  return pieces(count, [
    ...sweep(row, inPiece(`${exchange}[${at}] = ${from}[slot]${first};`)),
    "workgroupBarrier();",
    ...(block === together ? [] : [
      `for (var half = ${together}u; half < ${block}u; half *= 2u) {`,
      `  for (var pair = lane; pair < ${size / 2}u; pair += ${threads}u) {`,
      "    let low = 2u * pair - pair % half;",
      `    let a = ${exchange}[low];`,
      `    let b = ${exchange}[low + half];`,
      `    ${exchange}[low] = a + b;`,
      `    ${exchange}[low + half] = a - b;`,
      "  }",
      "  workgroupBarrier();",
      "}",
    ]),
    ...sweep(row, inPiece(`${to}[slot] = ${exchange}[${at}]${last};`)),
    "workgroupBarrier();",
  ]);
}

interface Mixing {
  readonly K: number;
  readonly block: number;
  /** The matrix, and the name of its table. */
  readonly name: string;
  readonly matrix: Int8Array;
  readonly exchange: string;
  readonly to: string;
  readonly last: string;
}

/** y[p, j] = Σ_q H[p, q] x[q, j] for a few columns j at a time. */
function mixing(row: Row, { K, block, name, matrix, exchange, to, last }: Mixing): string[] {
  const columns = Math.max(1, Math.min(block, Math.floor(Math.min(row.length, EXCHANGE) / K))),
    count = Math.ceil(block / columns);
  const words = Math.ceil(K / 32), table = row.writer.table(name, () => signBits(matrix, K, words));
  const line = { name: "line", stride: words };
  const at = (line: string) => `${exchange}[${line} * ${columns}u + column]`;
  const inPiece = (body: readonly string[]): string[] => {
    const inner = [`let line = i / ${block}u;`, ...body];
    const column = `let column = i % ${block}u${count === 1 ? "" : ` - piece * ${columns}u`};`;
    return count === 1
      ? [column, ...inner]
      : [`if (i % ${block}u / ${columns}u == piece) {`, ...indent([column, ...inner]), "}"];
  };
  return pieces(count, [
    ...sweep(row, inPiece([`${at("line")} = ${to}[slot];`])),
    "workgroupBarrier();",
    ...sweep(
      row,
      inPiece([
        "var mixed = 0.0;",
        `for (var other = 0u; other < ${K}u; other++) {`,
        `  let word = ${sumText(words === 1 ? [line] : [line, { name: "other / 32u", stride: 1 }], 0)};`,
        `  let negative = (${table}[word / 4u][word % 4u] >> (other % 32u)) & 1u;`,
        `  mixed += select(${at("other")}, -${at("other")}, negative == 1u);`,
        "}",
        `${to}[slot] = mixed${last};`,
      ]),
    ),
    "workgroupBarrier();",
  ]);
}

function transpose(matrix: Int8Array, K: number): Int8Array {
  return matrix.map((_, at) => matrix[(at % K) * K + Math.floor(at / K)] ?? 0);
}

/** One bit per sign, rows padded to whole words; set bits are negative. */
function signBits(matrix: Int8Array, K: number, words: number): Uint32Array<ArrayBuffer> {
  const table = new Uint32Array(Math.ceil(K * words / 4) * 4);
  matrix.forEach((sign, at) => {
    const word = Math.floor(at / K) * words + (at % K >> 5);
    if (sign < 0) table[word] = (table[word] ?? 0) | 1 << at % K % 32;
  });
  return table;
}
