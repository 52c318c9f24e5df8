/**
 * Folding one value per invocation over the lanes of a row: in registers as far as invocations are sure to run together, then through
 * workgroup memory, in a fixed order. Where a subgroup holds a whole row the order is that of the tree in workgroup memory, and so are
 * the bits.
 */
import { constantText, floatText, indent, wrap } from "./text.ts";
import type { Writer } from "./writer.ts";

/** What is folded, and over how many neighbouring invocations (a power of two) of how many. */
export interface Fold {
  readonly op: "sum" | "max" | "min";
  readonly scalar: "f32" | "i32";
  readonly lanes: number;
  readonly threads: number;
}

/** Text of the value that changes nothing. */
export function neutralText({ op, scalar }: Pick<Fold, "op" | "scalar">): string {
  if (op === "sum") return constantText(0, scalar);
  // WGSL has no literal of the least integer; codes and positions are far from it.
  const end = scalar === "f32" ? Infinity : 2 ** 31 - 1, sign = op === "max" ? -1 : 1;
  return scalar === "f32" ? floatText(sign * end) : constantText(sign * end, scalar);
}

/** Text of two values folded. */
export const foldText = (op: Fold["op"], a: string, b: string): string =>
  op === "sum" ? `${a} + ${wrap(b)}` : `${op}(${a}, ${b})`;

/** Neighbouring invocations of `lanes` that exchange registers; 1 where the device has not proved that any do. */
export const togetherOf = ({ traits: { subgroup } }: Writer, lanes: number): number =>
  Math.min(subgroup?.size ?? 1, lanes);

/** Text of a value of the invocation whose number differs in the bits of `mask`, which is below `togetherOf`. */
export function neighbour(writer: Writer, value: string, mask: number): string {
  writer.markSubgroups();
  return `subgroupShuffleXor(${value}, ${mask}u)`;
}

/** Lines that fold the variable `name` over `together` neighbouring invocations, in all of them. */
export function foldTogether(writer: Writer, op: Fold["op"], name: string, together: number): string[] {
  const lines: string[] = [];
  for (let mask = together / 2; mask >= 1; mask /= 2) {
    lines.push(`${name} = ${foldText(op, name, neighbour(writer, name, mask))};`);
  }
  return lines;
}

/** The function `(lane, value)` that folds one value per lane of a row and gives the result to the row's lanes. */
export function foldFunction(writer: Writer, { op, scalar, lanes, threads }: Fold): string {
  const together = togetherOf(writer, lanes),
    key = lanes === threads ? `${op}_over_row_${scalar}` : `${op}_of_lanes_${scalar}`;
  return writer.helper(key, (name) => {
    const head = `fn ${name}(lane: u32, value: ${scalar}) -> ${scalar} {`;
    const shuffled = ["var folded = value;", ...foldTogether(writer, op, "folded", together)];
    if (together === lanes) return [head, ...indent([...shuffled, "return folded;"]), "}"];
    const partial = writer.shared(`partial_${scalar}`, scalar, threads / together);
    const lines = together === 1
      ? [
        ...foldTree(partial, { op, lanes, threads }, "value"),
        `let result = ${partial}[${lanes === threads ? "0" : `lane / ${lanes}u * ${lanes}u`}];`,
        "workgroupBarrier();",
        "return result;",
      ]
      : [
        ...shuffled,
        `if (lane % ${together}u == 0u) { ${partial}[lane / ${together}u] = folded; }`,
        "workgroupBarrier();",
        ...(lanes === threads ? ["let first = 0u;"] : [`let first = lane / ${lanes}u * ${lanes / together}u;`]),
        `folded = ${partial}[first];`,
        `for (var i = 1u; i < ${lanes / together}u; i++) {`,
        `  folded = ${foldText(op, "folded", `${partial}[first + i]`)};`,
        "}",
        "workgroupBarrier();",
        "return folded;",
      ];
    return [head, ...indent(lines), "}"];
  });
}

/** Lines of a tree in workgroup memory, which leave what the lanes of a row come to in the place of its first one. */
export function foldTree(partial: string, { op, lanes, threads }: Omit<Fold, "scalar">, value: string): string[] {
  const share = lanes === threads ? "lane" : `lane % ${lanes}u`;
  return [
    `${partial}[lane] = ${value};`,
    "workgroupBarrier();",
    `for (var half = ${Math.floor(lanes / 2)}u; half > 0u; half /= 2u) {`,
    `  if (${share} < half) {`,
    `    ${partial}[lane] = ${foldText(op, `${partial}[lane]`, `${partial}[lane + half]`)};`,
    "  }",
    "  workgroupBarrier();",
    "}",
  ];
}
