/**
 * Attention, forward: a workgroup takes a few queries of one head and walks over the keys they see in chunks, with a running maximum,
 * total and weighted sum per query (the online softmax), so that scores never leave workgroup memory.
 */
import type { AttentionKernel } from "../kernel.ts";
import {
  attentionOperands,
  attentionShape,
  LOWEST,
  mostKeys,
  queryGroups,
  queryPlace,
  sees,
  storeFours,
  storeLogSumExp,
} from "./attention_parts.ts";
import { writeAttentionGradient } from "./attention_gradient.ts";
import { writeDecode } from "./attention_decode.ts";
import { writeAttentionTile } from "./attention_tile.ts";
import { attentionPlans } from "./variants.ts";
import { type Dispatch, entryHead, foldGrid } from "./entry.ts";
import { floatText, indent } from "./text.ts";
import type { Writer } from "./writer.ts";

/** Entry points of attention, in one of its variants, or of its gradients. */
export function writeAttention(
  writer: Writer,
  spec: AttentionKernel,
  variant: string,
): { lines: string[]; dispatches: Dispatch[] } {
  const plan = attentionPlans(spec, writer.traits).get(variant);
  if (plan?.kind === "decode") return writeDecode(writer, spec, plan.plan);
  if (plan?.kind === "tile") return writeAttentionTile(writer, spec, plan.plan);
  return spec.dy ? writeAttentionGradient(writer, spec) : writeForward(writer, spec);
}

function writeForward(writer: Writer, spec: AttentionKernel): { lines: string[]; dispatches: Dispatch[] } {
  const { tokens, heads, valueWidth } = spec;
  const { rows, lanes, threads, chunk, widthFours, valueFours, slots } = attentionShape(
    spec,
    tokens,
    Math.ceil(spec.width / 4),
  );
  const { query, key, value, seen, firstSeen, bias } = attentionOperands(writer, spec);
  const queries = writer.workgroup("queries", "vec4<f32>", rows * widthFours);
  const scores = writer.workgroup("scores", "f32", rows * chunk),
    weights = writer.workgroup("weights", "f32", rows * chunk);
  const place = { spec, rows, lanes, seen, firstSeen }, count = queryGroups(spec, rows);
  const mine = `row_here * ${chunk}u`;
  const lines = [
    ...queryPlace(place),
    `for (var at = lane; at < ${rows * widthFours}u; at += ${threads}u) {`,
    `  let row = min(first_token + at / ${widthFours}u, ${tokens - 1}u);`,
    `  ${queries}[at] = ${query}(batch, row, head, at % ${widthFours}u * 4u);`,
    "}",
    ...mostKeys(writer, place),
    `var top = ${LOWEST};`,
    "var total = 0.0;",
    `var sums: array<vec4<f32>, ${slots}>;`,
    `for (var first = ${firstSeen ? "least_key" : "0u"}; first < most_keys; first += ${chunk}u) {`,
    ...indent([
      `let here = min(${chunk}u, most_keys - first);`,
      `for (var at = share; at < here; at += ${lanes}u) {`,
      `  var score = ${LOWEST};`,
      `  if (${sees(place, "first + at")}) {`,
      "    var four = vec4<f32>();",
      `    for (var quad = 0u; quad < ${widthFours}u; quad++) {`,
      `      four += ${queries}[row_here * ${widthFours}u + quad] * ${key}(batch, first + at, kv_head, quad * 4u);`,
      "    }",
      `    score = dot(four, vec4<f32>(1.0)) * ${floatText(spec.scale)} + ${bias("token", "first + at")};`,
      "  }",
      `  ${scores}[${mine} + at] = score;`,
      "}",
      "workgroupBarrier();",
      "var highest = top;",
      `for (var at = 0u; at < here; at++) { highest = max(highest, ${scores}[${mine} + at]); }`,
      `for (var at = share; at < here; at += ${lanes}u) {`,
      `  ${weights}[${mine} + at] = select(0.0, exp(${scores}[${mine} + at] - highest), ${sees(place, "first + at")});`,
      "}",
      "workgroupBarrier();",
      "let shrink = exp(top - highest);",
      "top = highest;",
      "total *= shrink;",
      `for (var slot = 0u; slot < ${slots}u; slot++) { sums[slot] *= shrink; }`,
      "for (var at = 0u; at < here; at++) {",
      `  let weight = ${weights}[${mine} + at];`,
      "  total += weight;",
      `  for (var slot = 0u; slot < ${slots}u; slot++) {`,
      `    let quad = slot * ${lanes}u + share;`,
      `    if (quad < ${valueFours}u) { sums[slot] += weight * ${value}(batch, first + at, kv_head, quad * 4u); }`,
      "  }",
      "}",
    ]),
    "}",
    `if (first_token + row_here < ${tokens}u) {`,
    `  let row = (batch * ${tokens}u + token) * ${heads}u + head;`,
    ...indent(
      spec.results.flatMap(({ of, buffer }) =>
        of === "logSumExp" ? storeLogSumExp(writer, buffer, "share == 0u") : [
          `for (var slot = 0u; slot < ${slots}u; slot++) {`,
          `  let quad = slot * ${lanes}u + share;`,
          "  let four = select(sums[slot] / total, vec4<f32>(), total == 0.0);",
          `  if (quad < ${valueFours}u) {`,
          ...indent(storeFours(writer, buffer, { row: "row", quad: "quad", extent: valueWidth, four: "four" }), 4),
          "  }",
          "}",
        ]
      ),
    ),
    "}",
  ];
  return {
    lines: [...entryHead("main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(count) }],
  };
}
