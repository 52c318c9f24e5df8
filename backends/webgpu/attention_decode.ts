/**
 * Attention of few queries over many keys, as in decoding: a workgroup takes one query of one head and walks over the keys in chunks of
 * as many as it has invocations. A few lanes share a key, so that they read it as one stretch; then each invocation has the score of one
 * key; then a row of lanes takes a value's fours, several rows at a time. Only maximum, total and weighted sum go from chunk to chunk.
 *
 * Split over several workgroups, each takes every so many-th chunk and leaves those three as scratch, and a second dispatch combines them,
 * always in the same order.
 */
import type { AttentionKernel } from "../kernel.ts";
import { attentionOperands, LOWEST, storeFours, storeLogSumExp } from "./attention_parts.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { foldFunction, foldTree, togetherOf } from "./fold.ts";
import { floatText, indent, powerAbove, powerBelow } from "./text.ts";
import type { KernelTraits } from "./traits.ts";
import type { Writer } from "./writer.ts";

/** How the work on one query is divided. */
export interface DecodeShape {
  readonly threads: number;
  /** Workgroups per query and head. */
  readonly splits: number;
}

/** What the division of one attention comes to. */
export interface DecodePlan extends DecodeShape {
  readonly widthFours: number;
  readonly valueFours: number;
  /** Lanes that share a key, and those that share a value. */
  readonly keyLanes: number;
  readonly valueLanes: number;
}

/** More queries than these leave enough workgroups without. */
const FEW_QUERIES = 8;
/** Values that an invocation reads before it adds them up. */
const AHEAD = 4;

/** The plan for a division; undefined where there are many queries, or too few keys to divide. */
export function planDecode(
  spec: AttentionKernel,
  traits: KernelTraits,
  { threads, splits }: DecodeShape,
): DecodePlan | undefined {
  const widthFours = Math.ceil(spec.width / 4), valueFours = Math.ceil(spec.valueWidth / 4);
  const keyLanes = Math.min(8, powerBelow(widthFours)), valueLanes = powerAbove(valueFours);
  if (spec.dy || spec.tokens > FEW_QUERIES || valueLanes > threads) return undefined;
  // Scratch takes one of the eight storage buffers that every device binds.
  if (splits > 1 && ((splits - 1) * threads >= spec.context || spec.buffers.length > 7)) return undefined;
  const bytes = 4 * ((threads + 4) * keyLanes + 2 * threads) + 16 * (threads + widthFours) + 4 * threads;
  return bytes > traits.workgroupBytes ? undefined : { threads, splits, widthFours, valueFours, keyLanes, valueLanes };
}

/** Entry points for a plan. */
export function writeDecode(
  writer: Writer,
  spec: AttentionKernel,
  plan: DecodePlan,
): { lines: string[]; dispatches: Dispatch[] } {
  const { batch, tokens, heads, kvHeads } = spec, { threads, splits } = plan, queries = batch * tokens * heads;
  const lines = [
    ...groupNumber(queries * splits, "group"),
    ...coordinates("group", ["batch", "token", "head", "split"], [batch, tokens, heads, splits]),
    `let kv_head = head / ${heads / kvHeads}u;`,
    `let row = (batch * ${tokens}u + token) * ${heads}u + head;`,
    ...walk(writer, spec, plan),
    ...(splits === 1 ? finished(writer, spec, plan) : left(writer, plan)),
  ];
  const main = {
    lines: [...entryHead("main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(queries * splits) }],
  };
  if (splits === 1) return main;
  const second = [
    ...groupNumber(queries, "row"),
    ...combined(writer, plan),
    ...stores(writer, spec, plan),
  ];
  return {
    lines: [...main.lines, "", ...entryHead("combine", plan.valueLanes), ...indent(second), "}"],
    dispatches: [...main.dispatches, { entryPoint: "combine", grid: foldGrid(queries) }],
  };
}

/** Lines that leave `top`, and in every invocation `total` and `sum` over its part of the keys. */
function walk(writer: Writer, spec: AttentionKernel, plan: DecodePlan): string[] {
  const { query, key, value, seen, firstSeen, bias } = attentionOperands(writer, spec);
  const { threads, splits, widthFours, keyLanes, valueLanes, valueFours } = plan, stride = threads + 4;
  const queries = writer.workgroup("query_here", "vec4<f32>", widthFours);
  const products = writer.workgroup("products", "f32", stride * keyLanes);
  const weights = writer.workgroup("weights", "f32", threads);
  const perPass = threads / keyLanes,
    rows = threads / valueLanes,
    together = Math.min(AHEAD, valueLanes),
    step = threads * splits;
  const start = [...(firstSeen ? ["first_seen"] : []), ...(splits > 1 ? [`split * ${threads}u`] : [])].join(" + ");
  return [
    `let keys = ${seen}(batch, token);`,
    ...(firstSeen ? [`let first_seen = ${firstSeen}(batch, token);`] : []),
    `for (var at = lane; at < ${widthFours}u; at += ${threads}u) { ${queries}[at] = ${query}(batch, token, head, at * 4u); }`,
    "workgroupBarrier();",
    `let share = lane % ${keyLanes}u;`,
    `let quad = lane % ${valueLanes}u;`,
    `var top = ${LOWEST};`,
    "var total = 0.0;",
    "var sum = vec4<f32>();",
    `for (var first = ${start || "0u"}; first < keys; first += ${step}u) {`,
    ...indent([
      `let here = min(${threads}u, keys - first);`,
      `for (var at = lane / ${keyLanes}u; at < here; at += ${perPass}u) {`,
      "  var four = vec4<f32>();",
      `  for (var i = share; i < ${widthFours}u; i += ${keyLanes}u) { four += ${queries}[i] * ${key}(batch, first + at, kv_head, i * 4u); }`,
      `  ${products}[share * ${stride}u + at] = dot(four, vec4<f32>(1.0));`,
      "}",
      "workgroupBarrier();",
      `var score = ${LOWEST};`,
      "if (lane < here) {",
      `  score = ${products}[lane];`,
      `  for (var i = 1u; i < ${keyLanes}u; i++) { score += ${products}[i * ${stride}u + lane]; }`,
      `  score = score * ${floatText(spec.scale)} + ${bias("token", "first + lane")};`,
      "}",
      ...highestScore(writer, threads),
      `${weights}[lane] = select(0.0, exp(score - top_here), lane < here);`,
      "workgroupBarrier();",
      "let shrink = exp(top - top_here);",
      "top = top_here;",
      "total *= shrink;",
      "sum *= shrink;",
      `if (quad < ${valueFours}u) {`,
      `  for (var at = lane / ${valueLanes}u; at < here; at += ${rows * together}u) {`,
      ...indent(
        ahead(together, rows, (offset, i) => [
          `let value${i} = ${value}(batch, min(first + at${offset}, keys - 1u), kv_head, quad * 4u);`,
        ]),
        4,
      ),
      ...indent(
        ahead(together, rows, (offset, i) => [
          `let weight${i} = ${weights}[at${offset}];`,
          `total += weight${i};`,
          `sum += weight${i} * value${i};`,
        ]),
        4,
      ),
      "  }",
      "}",
    ]),
    "}",
  ];
}

/** Lines that leave `top_here`, the highest of `top` and the scores of all invocations. */
function highestScore(writer: Writer, threads: number): string[] {
  const fold = { op: "max", lanes: threads, threads } as const;
  if (togetherOf(writer, threads) > 1) {
    return [`let top_here = max(top, ${foldFunction(writer, { ...fold, scalar: "f32" })}(lane, score));`];
  }
  // Without the function's barrier behind: there is another one before the memory is written again.
  const highest = writer.workgroup("highest", "f32", threads);
  return [...foldTree(highest, fold, "score"), `let top_here = max(top, ${highest}[0]);`];
}

/** Lines for several values ahead; the weights of those behind the last key are 0. */
const ahead = (count: number, rows: number, lines: (offset: string, i: number) => string[]): string[] =>
  Array.from({ length: count }, (_, i) => lines(i === 0 ? "" : ` + ${i * rows}u`, i)).flat();

/** Lines that leave the whole `total` and `sum` in the invocations of the first row of lanes. */
function gathered(writer: Writer, { threads, valueLanes }: DecodePlan): string[] {
  const rows = threads / valueLanes;
  const sums = writer.workgroup("sums", "vec4<f32>", threads), totals = writer.workgroup("totals", "f32", threads);
  return [
    "",
    "// rows of lanes have taken different keys; they add up in order",
    `${sums}[lane] = sum;`,
    `${totals}[lane] = total;`,
    "workgroupBarrier();",
    `if (lane >= ${valueLanes}u) { return; }`,
    `for (var i = 1u; i < ${rows}u; i++) {`,
    `  sum += ${sums}[i * ${valueLanes}u + lane];`,
    `  total += ${totals}[i * ${valueLanes}u + lane];`,
    "}",
  ];
}

const finished = (writer: Writer, spec: AttentionKernel, plan: DecodePlan): string[] => [
  ...gathered(writer, plan),
  ...stores(writer, spec, plan),
];

/** Lines that write results from `top`, `total` and `sum`. */
function stores(writer: Writer, spec: AttentionKernel, { valueFours }: DecodePlan): string[] {
  return spec.results.flatMap(({ of, buffer }) =>
    of === "logSumExp" ? storeLogSumExp(writer, buffer, "lane == 0u") : [
      `if (lane < ${valueFours}u) {`,
      "  let four = select(sum / total, vec4<f32>(), total == 0.0);",
      ...indent(storeFours(writer, buffer, { row: "row", quad: "lane", extent: spec.valueWidth, four: "four" })),
      "}",
    ]
  );
}

/** Vectors that a split leaves: the sums, then maximum and total. */
const recordOf = ({ valueFours }: DecodePlan): number => valueFours + 1;

/** Lines that leave what a split has found. */
function left(writer: Writer, plan: DecodePlan): string[] {
  const scratch = writer.scratch("found", "vec4<f32>", queriesOf(writer) * plan.splits * recordOf(plan));
  const record = `(row * ${plan.splits}u + split) * ${recordOf(plan)}u`;
  return [
    ...gathered(writer, plan),
    `if (lane < ${plan.valueFours}u) { ${scratch}[${record} + lane] = sum; }`,
    `if (lane == 0u) { ${scratch}[${record} + ${plan.valueFours}u] = vec4<f32>(top, total, 0.0, 0.0); }`,
  ];
}

const queriesOf = ({ spec }: Writer): number => spec.kind === "attention" ? spec.batch * spec.tokens * spec.heads : 0;

/** Lines that combine what the splits of row `row` have left. */
function combined(writer: Writer, plan: DecodePlan): string[] {
  const { splits, valueFours } = plan, record = `(row * ${splits}u + split) * ${recordOf(plan)}u`;
  const scratch = writer.scratch("found", "vec4<f32>", queriesOf(writer) * splits * recordOf(plan));
  return [
    `var top = ${LOWEST};`,
    `for (var split = 0u; split < ${splits}u; split++) { top = max(top, ${scratch}[${record} + ${valueFours}u].x); }`,
    "var total = 0.0;",
    "var sum = vec4<f32>();",
    `for (var split = 0u; split < ${splits}u; split++) {`,
    `  let found_here = ${scratch}[${record} + ${valueFours}u];`,
    "  let shrink = exp(found_here.x - top);",
    "  total += shrink * found_here.y;",
    `  sum += shrink * ${scratch}[${record} + min(lane, ${valueFours - 1}u)];`,
    "}",
  ];
}
