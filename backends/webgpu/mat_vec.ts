/**
 * Contractions with few rows on one side: a workgroup computes several rows of the other side, some lanes each. The lanes of a row
 * split the contracted axis, or take whole groups where the contraction is a scaled sum over many of them; their sums meet in a tree.
 */
import type { DotKernel } from "../kernel.ts";
import { finishFunction, sumScalar, termFunction } from "./epilogue.ts";
import { foldFunction } from "./fold.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { operandFunction } from "./operands.ts";
import { constantText, indent, powerAbove, powerBelow, typeText } from "./text.ts";
import type { Writer } from "./writer.ts";

const THREADS = 128;
/** With so many groups each lane takes whole ones; with fewer all lanes share each. */
const MANY_GROUPS = 8;

/** Entry points of a contraction with few rows in `lhs` or `rhs`. */
export function writeMatVec(writer: Writer, spec: DotKernel): { lines: string[]; dispatches: Dispatch[] } {
  const { batch, m, n, k, scalar, groups } = spec, fewIsM = m <= n, few = Math.min(m, n), many = Math.max(m, n);
  const groupCount = groups ? k[0] ?? 1 : 1,
    inner = groups ? k.slice(1) : k,
    length = inner.reduce((size, dim) => size * dim, 1);
  const byGroup = groupCount >= MANY_GROUPS, shares = byGroup ? groupCount : Math.ceil(length / 4);
  const lanes = Math.min(lanesFor(batch * many), powerBelow(shares)), rows = THREADS / lanes;
  const sum = sumScalar(spec), counts = Array.from({ length: few }, (_, i) => i), vec = typeText(scalar, true);
  const side = (name: "lhs" | "rhs") => {
    const extent = name === "lhs" ? m : n;
    const lead: [string, number][] = [
      ["batch", batch],
      ["row", extent],
      ...(groups ? [["group", groupCount] as [string, number]] : []),
    ];
    return operandFunction(writer, { name, expr: spec[name], lead, k: inner, scalar });
  };
  const lhs = side("lhs"), rhs = side("rhs"), [manySide, fewSide] = fewIsM ? [rhs, lhs] : [lhs, rhs];
  const group = groups ? "group, " : "";
  const at = (i: number) => fewIsM ? `${i}u, row` : `row, ${i}u`;

  /** Adds up products for k from `start` in steps of `step` into fours. */
  const contract = (start: string, step: number) => [
    ...counts.map((i) => `var four${i} = ${vec}();`),
    `for (var k = ${start}; k < ${length}u; k += ${step}u) {`,
    `  let w = ${manySide}(batch, row, ${group}k);`,
    ...counts.map((i) => `  four${i} += w * ${fewSide}(batch, ${i}u, ${group}k);`),
    "}",
  ];
  const sumOfLanes = (scalar: "f32" | "i32") => foldFunction(writer, { op: "sum", scalar, lanes, threads: THREADS });
  const total = (i: number) => `dot(four${i}, ${vec}(${constantText(1, scalar)}))`;
  const body: string[] = counts.map((i) => `var sum${i} = ${constantText(0, sum)};`);
  if (!groups) {
    body.push(
      ...contract("share * 4u", lanes * 4),
      ...counts.map((i) => `sum${i} = ${sumOfLanes(scalar)}(lane, ${total(i)});`),
    );
  } else if (byGroup) {
    body.push(
      `for (var group = share; group < ${groupCount}u; group += ${lanes}u) {`,
      ...indent([
        ...contract("0u", 4),
        ...counts.map((i) => `sum${i} += ${termFunction(writer, spec)}(batch, ${at(i)}, group, ${total(i)});`),
      ]),
      "}",
      ...counts.map((i) => `sum${i} = ${sumOfLanes(sum)}(lane, sum${i});`),
    );
  } else {
    body.push(
      `for (var group = 0u; group < ${groupCount}u; group++) {`,
      ...indent([
        ...contract("share * 4u", lanes * 4),
        ...counts.map((i) => `let inner${i} = ${sumOfLanes(scalar)}(lane, ${total(i)});`),
        ...counts.map((i) => `sum${i} += ${termFunction(writer, spec)}(batch, ${at(i)}, group, inner${i});`),
      ]),
      "}",
    );
  }
  const blocks = Math.ceil(many / rows), count = batch * blocks, ragged = many % rows !== 0;
  const finish = counts.map((i) => `${finishFunction(writer, spec)}(batch, ${at(i)}, sum${i});`);
  const place = `part * ${rows}u + lane / ${lanes}u`;
  const lines = [
    ...groupNumber(count, "block"),
    ...coordinates("block", ["batch", "part"], [batch, blocks]),
    // Invocations beyond the last row compute it once more: all of them have to reach the barriers.
    ...(ragged ? [`let row_here = ${place};`, `let row = min(row_here, ${many - 1}u);`] : [`let row = ${place};`]),
    `let share = lane % ${lanes}u;`,
    ...body,
    `if (share == 0u${ragged ? ` && row_here < ${many}u` : ""}) {`,
    ...indent(finish),
    "}",
  ];
  return {
    lines: [...entryHead("main", THREADS), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(count) }],
  };
}

/** Lanes per row: 32 as long as there are rows enough to fill a device, more of them where rows are few. */
const lanesFor = (rows: number): number =>
  rows >= 1024 ? 32 : Math.min(THREADS, Math.max(32, powerAbove(32768 / rows)));
