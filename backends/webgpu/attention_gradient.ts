/**
 * Gradients of attention. With p = e^(score - logSumExp) and δ = dy · output, the gradient of a score is p (dy · v - δ); queries add up
 * over the keys they see, keys and values over the queries that see them, always in the same order. Probabilities are recomputed.
 */
import type { AttentionKernel } from "../kernel.ts";
import {
  attentionOperands,
  attentionShape,
  mostKeys,
  queryGroups,
  queryPlace,
  sees,
  storeFours,
} from "./attention_parts.ts";
import { type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { floatText, indent } from "./text.ts";
import type { Writer } from "./writer.ts";

/** One entry point for the gradient of the queries, one for those of keys and values. */
export function writeAttentionGradient(
  writer: Writer,
  spec: AttentionKernel,
): { lines: string[]; dispatches: Dispatch[] } {
  const of = (name: "q" | "k" | "v") => spec.results.find((result) => result.of === name)?.buffer;
  const q = of("q"), k = of("k"), v = of("v"), parts: { lines: string[]; dispatches: Dispatch[] }[] = [];
  if (q !== undefined) parts.push(queryGradient(writer, spec, q));
  if (k !== undefined || v !== undefined) parts.push(keyGradient(writer, spec, k, v));
  return {
    lines: parts.flatMap(({ lines }, i) => i > 0 ? ["", ...lines] : lines),
    dispatches: parts.flatMap(({ dispatches }) => dispatches),
  };
}

/** The function `delta(batch, token, head)` = dy · output. */
function deltaFunction(writer: Writer, spec: AttentionKernel): string {
  const { dy, output } = attentionOperands(writer, spec);
  return writer.helper("delta", (name) => [
    `fn ${name}(batch: u32, token: u32, head: u32) -> f32 {`,
    "  var four = vec4<f32>();",
    `  for (var quad = 0u; quad < ${Math.ceil(spec.valueWidth / 4)}u; quad++) {`,
    `    four += ${dy}(batch, token, head, quad * 4u) * ${output}(batch, token, head, quad * 4u);`,
    "  }",
    "  return dot(four, vec4<f32>(1.0));",
    "}",
  ]);
}

function queryGradient(
  writer: Writer,
  spec: AttentionKernel,
  result: number,
): { lines: string[]; dispatches: Dispatch[] } {
  const { tokens, heads, width, valueWidth } = spec,
    fours = Math.ceil(width / 4) + Math.ceil(valueWidth / 4);
  const { rows, lanes, threads, chunk, widthFours, valueFours, slots } = attentionShape(spec, tokens, fours);
  const { query, key, value, dy, seen, firstSeen, bias, logSumExp } = attentionOperands(writer, spec),
    delta = deltaFunction(writer, spec);
  const queries = writer.shared("row_tile", "vec4<f32>", rows * widthFours),
    dys = writer.shared("value_tile", "vec4<f32>", rows * valueFours);
  const slopes = writer.shared("slopes", "f32", rows * chunk);
  const place = { spec, rows, lanes, seen, firstSeen }, count = queryGroups(spec, rows);
  const fill = (tile: string, of: string, size: number) => [
    `for (var at = lane; at < ${rows * size}u; at += ${threads}u) {`,
    `  ${tile}[at] = ${of}(batch, min(first_token + at / ${size}u, ${tokens - 1}u), head, at % ${size}u * 4u);`,
    "}",
  ];
  const lines = [
    ...queryPlace(place),
    `let log_total = ${logSumExp("token")};`,
    `let shared_part = ${delta}(batch, token, head);`,
    ...fill(queries, query, widthFours),
    ...fill(dys, dy, valueFours),
    ...mostKeys(writer, place),
    `var sums: array<vec4<f32>, ${slots}>;`,
    `for (var first = ${firstSeen ? "least_key" : "0u"}; first < most_keys; first += ${chunk}u) {`,
    ...indent([
      `let here = min(${chunk}u, most_keys - first);`,
      `for (var at = share; at < here; at += ${lanes}u) {`,
      "  var slope = 0.0;",
      `  if (${sees(place, "first + at")}) {`,
      "    var score = vec4<f32>();",
      `    for (var quad = 0u; quad < ${widthFours}u; quad++) {`,
      `      score += ${queries}[row_here * ${widthFours}u + quad] * ${key}(batch, first + at, kv_head, quad * 4u);`,
      "    }",
      "    var pull = vec4<f32>();",
      `    for (var quad = 0u; quad < ${valueFours}u; quad++) {`,
      `      pull += ${dys}[row_here * ${valueFours}u + quad] * ${value}(batch, first + at, kv_head, quad * 4u);`,
      "    }",
      `    let p = exp(dot(score, vec4<f32>(1.0)) * ${floatText(spec.scale)} + ${
        bias("token", "first + at")
      } - log_total);`,
      `    slope = p * (dot(pull, vec4<f32>(1.0)) - shared_part) * ${floatText(spec.scale)};`,
      "  }",
      `  ${slopes}[row_here * ${chunk}u + at] = slope;`,
      "}",
      "workgroupBarrier();",
      "for (var at = 0u; at < here; at++) {",
      `  let slope = ${slopes}[row_here * ${chunk}u + at];`,
      `  for (var slot = 0u; slot < ${slots}u; slot++) {`,
      `    let quad = slot * ${lanes}u + share;`,
      `    if (quad < ${widthFours}u) { sums[slot] += slope * ${key}(batch, first + at, kv_head, quad * 4u); }`,
      "  }",
      "}",
      "workgroupBarrier();",
    ]),
    "}",
    `if (first_token + row_here < ${tokens}u) {`,
    `  let row = (batch * ${tokens}u + token) * ${heads}u + head;`,
    ...indent(storeSums(writer, result, { slots, lanes, fours: widthFours, extent: width, sums: "sums" })),
    "}",
  ];
  return {
    lines: [...entryHead("queries_main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "queries_main", grid: foldGrid(count) }],
  };
}

function keyGradient(
  writer: Writer,
  spec: AttentionKernel,
  k: number | undefined,
  v: number | undefined,
): { lines: string[]; dispatches: Dispatch[] } {
  const { batch, tokens, context, heads, kvHeads, width, valueWidth, causal, window, positions } = spec,
    perKey = heads / kvHeads;
  const fours = Math.ceil(width / 4) + Math.ceil(valueWidth / 4);
  const { rows, lanes, threads, chunk, widthFours, valueFours, slots } = attentionShape(spec, context, fours);
  const { query, key, value, dy, seen, firstSeen, bias, logSumExp } = attentionOperands(writer, spec),
    delta = deltaFunction(writer, spec);
  const keys = writer.shared("row_tile", "vec4<f32>", rows * widthFours),
    values = writer.shared("value_tile", "vec4<f32>", rows * valueFours);
  const chances = writer.workgroup("chances", "f32", rows * chunk),
    slopes = writer.shared("slopes", "f32", rows * chunk);
  const deltas = writer.workgroup("deltas", "f32", chunk), logs = writer.workgroup("logs", "f32", chunk);
  const sight = writer.workgroup("sight", "u32", chunk),
    windowStarts = firstSeen ? writer.workgroup("window_starts", "u32", chunk) : "",
    blocks = Math.ceil(context / rows),
    count = batch * kvHeads * blocks;
  const fill = (tile: string, of: string, size: number) => [
    `for (var at = lane; at < ${rows * size}u; at += ${threads}u) {`,
    `  ${tile}[at] = ${of}(batch, min(first_key + at / ${size}u, ${context - 1}u), kv_head, at % ${size}u * 4u);`,
    "}",
  ];
  // Without positions the queries before the first key of the block see none of its keys, nor do those a window behind its last.
  const start = causal && !positions ? `first_key / ${chunk}u * ${chunk}u` : "0u";
  const end = window !== undefined && !positions ? `min(first_key + ${rows - 1 + window}u, ${tokens}u)` : `${tokens}u`;
  const lines = [
    ...groupNumber(count, "group"),
    `let batch = group / ${kvHeads * blocks}u;`,
    `let kv_head = group / ${blocks}u % ${kvHeads}u;`,
    `let first_key = group % ${blocks}u * ${rows}u;`,
    `let row_here = lane / ${lanes}u;`,
    `let share = lane % ${lanes}u;`,
    `let key = min(first_key + row_here, ${context - 1}u);`,
    ...fill(keys, key, widthFours),
    ...fill(values, value, valueFours),
    ...(k === undefined ? [] : [`var key_sums: array<vec4<f32>, ${slots}>;`]),
    ...(v === undefined ? [] : [`var value_sums: array<vec4<f32>, ${slots}>;`]),
    `for (var head = kv_head * ${perKey}u; head < (kv_head + 1u) * ${perKey}u; head++) {`,
    `  for (var first = ${start}; first < ${end}; first += ${chunk}u) {`,
    ...indent([
      `let here = min(${chunk}u, ${end} - first);`,
      `for (var at = lane; at < here; at += ${threads}u) {`,
      `  ${deltas}[at] = ${delta}(batch, first + at, head);`,
      `  ${logs}[at] = ${logSumExp("first + at")};`,
      `  ${sight}[at] = ${seen}(batch, first + at);`,
      ...(firstSeen ? [`  ${windowStarts}[at] = ${firstSeen}(batch, first + at);`] : []),
      "}",
      "workgroupBarrier();",
      `for (var at = share; at < here; at += ${lanes}u) {`,
      "  var p = 0.0;",
      "  var slope = 0.0;",
      `  if (key < ${sight}[at]${firstSeen ? ` && key >= ${windowStarts}[at]` : ""}) {`,
      "    var score = vec4<f32>();",
      `    for (var quad = 0u; quad < ${widthFours}u; quad++) {`,
      `      score += ${keys}[row_here * ${widthFours}u + quad] * ${query}(batch, first + at, head, quad * 4u);`,
      "    }",
      "    var pull = vec4<f32>();",
      `    for (var quad = 0u; quad < ${valueFours}u; quad++) {`,
      `      pull += ${values}[row_here * ${valueFours}u + quad] * ${dy}(batch, first + at, head, quad * 4u);`,
      "    }",
      `    p = exp(dot(score, vec4<f32>(1.0)) * ${floatText(spec.scale)} + ${
        bias("first + at", "key")
      } - ${logs}[at]);`,
      `    slope = p * (dot(pull, vec4<f32>(1.0)) - ${deltas}[at]) * ${floatText(spec.scale)};`,
      "  }",
      `  ${chances}[row_here * ${chunk}u + at] = p;`,
      `  ${slopes}[row_here * ${chunk}u + at] = slope;`,
      "}",
      "workgroupBarrier();",
      "for (var at = 0u; at < here; at++) {",
      `  for (var slot = 0u; slot < ${slots}u; slot++) {`,
      `    let quad = slot * ${lanes}u + share;`,
      ...(k === undefined ? [] : [
        `    if (quad < ${widthFours}u) { key_sums[slot] += ${slopes}[row_here * ${chunk}u + at] * ${query}(batch, first + at, head, quad * 4u); }`,
      ]),
      ...(v === undefined ? [] : [
        `    if (quad < ${valueFours}u) { value_sums[slot] += ${chances}[row_here * ${chunk}u + at] * ${dy}(batch, first + at, head, quad * 4u); }`,
      ]),
      "  }",
      "}",
      "workgroupBarrier();",
    ], 4),
    "  }",
    "}",
    `if (first_key + row_here < ${context}u) {`,
    `  let row = (batch * ${context}u + key) * ${kvHeads}u + kv_head;`,
    ...indent([
      ...(k === undefined
        ? []
        : storeSums(writer, k, { slots, lanes, fours: widthFours, extent: width, sums: "key_sums" })),
      ...(v === undefined
        ? []
        : storeSums(writer, v, { slots, lanes, fours: valueFours, extent: valueWidth, sums: "value_sums" })),
    ]),
    "}",
  ];
  return {
    lines: [...entryHead("keys_main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "keys_main", grid: foldGrid(count) }],
  };
}

interface Sums {
  readonly slots: number;
  readonly lanes: number;
  readonly fours: number;
  readonly extent: number;
  readonly sums: string;
}

/** Lines that write the sums of an invocation to row `row` of a result. */
function storeSums(writer: Writer, buffer: number, { slots, lanes, fours, extent, sums }: Sums): string[] {
  return [
    `for (var slot = 0u; slot < ${slots}u; slot++) {`,
    `  let quad = slot * ${lanes}u + share;`,
    `  if (quad < ${fours}u) {`,
    ...indent(storeFours(writer, buffer, { row: "row", quad: "quad", extent, four: `${sums}[slot]` }), 4),
    "  }",
    "}",
  ];
}
