/**
 * The k largest values of a row, one workgroup per row. Every invocation keeps the best of its share that is not taken yet; the best
 * of those, found in a tree, is taken k times, and only its owner looks through its share again.
 */
import type { TopKKernel } from "../kernel.ts";
import { writeOne } from "./access.ts";
import { type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { startBlock } from "./expressions.ts";
import { constantText, floatText, indent, powerAbove } from "./text.ts";
import type { Writer } from "./writer.ts";

/** Entry points of a ranking. */
export function writeTopK(writer: Writer, spec: TopKKernel): { lines: string[]; dispatches: Dispatch[] } {
  const { outer, n, k, source, buffer } = spec, threads = Math.min(256, Math.max(32, powerAbove(n / 8)));
  const scalar = source.scalar === "f32" ? "f32" : "i32",
    lowest = scalar === "f32" ? floatText(-Infinity) : constantText(-(2 ** 31) + 1, "i32");
  const best = writer.workgroup("best", scalar, threads), places = writer.workgroup("places", "u32", threads);
  const winners = writer.workgroup("winners", "u32", threads);
  const block = startBlock(writer, { vars: ["row", "i"], extents: [outer, n] }, [source]),
    value = block.emit(source).text;
  const ranked = writer.helper(
    "ranked",
    (name) => [`fn ${name}(row: u32, i: u32) -> ${scalar} {`, ...indent([...block.lines, `return ${value};`]), "}"],
  );
  // Of equal values the lower index comes first; the last one taken bounds what is left.
  const lines = [
    ...groupNumber(outer, "row"),
    `var last = ${lowest};`,
    `var last_place = 0u;`,
    "var stale = true;",
    `for (var taken = 0u; taken < ${k}u; taken++) {`,
    ...indent([
      "if (stale) {",
      `  var mine = ${lowest};`,
      `  var place = ${n}u;`,
      `  for (var i = lane; i < ${n}u; i += ${threads}u) {`,
      `    let x = ${ranked}(row, i);`,
      "    let left = taken == 0u || x < last || (x == last && i > last_place);",
      `    if (left && (place == ${n}u || x > mine)) {`,
      "      mine = x;",
      "      place = i;",
      "    }",
      "  }",
      `  ${best}[lane] = mine;`,
      `  ${places}[lane] = place;`,
      "}",
      `${winners}[lane] = lane;`,
      "workgroupBarrier();",
      `for (var half = ${threads / 2}u; half > 0u; half /= 2u) {`,
      "  if (lane < half) {",
      `    let one = ${winners}[lane];`,
      `    let other = ${winners}[lane + half];`,
      `    let better = ${places}[other] < ${n}u && (${places}[one] == ${n}u || ${best}[other] > ${best}[one] ||`,
      `      (${best}[other] == ${best}[one] && ${places}[other] < ${places}[one]));`,
      `    ${winners}[lane] = select(one, other, better);`,
      "  }",
      "  workgroupBarrier();",
      "}",
      `let owner = ${winners}[0];`,
      `last = ${best}[owner];`,
      `last_place = ${places}[owner];`,
      "stale = lane == owner;",
      "workgroupBarrier();",
      "if (stale) {",
      ...indent(
        writeOne(writer, buffer, { flat: `row * ${k}u + taken`, row: "row", column: "taken" }, "i32(last_place)"),
      ),
      "}",
    ]),
    "}",
  ];
  return {
    lines: [...entryHead("main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(outer) }],
  };
}
