/**
 * Attention of many queries, as in prefill and training: a workgroup takes 64 queries of one head and walks over the keys they see, 32 at
 * a time. Scores are a product of tiles, brought to workgroup memory strip by strip as in tile.ts; maximum and total of a query go from
 * chunk to chunk (the online softmax); the weighted sum stays in registers, four queries by a few fours of the value per invocation.
 */
import type { AttentionKernel } from "../kernel.ts";
import { attentionOperands, LOWEST, queryGroups, storeFours, storeLogSumExp } from "./attention_parts.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { floatText, indent } from "./text.ts";
import type { KernelTraits } from "./traits.ts";
import type { Writer } from "./writer.ts";

const QUERIES = 64;
const KEYS = 32;
const THREADS = 256;
/** Invocations side by side: each has four queries, and every 16th key or value four. */
const SIDE = 16;
/** Fours of queries and keys in a strip, and keys in a strip of values. */
const STRIP = 4;
const VALUES = 8;
/** Vectors from one to the next in a strip or in the scores: padded against bank conflicts. */
const QUERY_STRIDE = QUERIES + 1;
const KEY_STRIDE = KEYS + 1;
const SCORE_STRIDE = QUERIES / 4 + 1;
/** Queries that are worth a tile; below, attention_decode.ts. */
const LEAST_QUERIES = 9;

/** What the division of one attention comes to. */
export interface AttentionTilePlan {
  readonly widthFours: number;
  readonly valueFours: number;
  /** Fours of a value that one invocation adds up, for four queries. */
  readonly slots: number;
  /** Vectors of workgroup memory for strips. */
  readonly strip: number;
}

/** The plan; undefined for gradients, few queries, and heads that are too wide for workgroup memory or registers. */
export function planAttentionTile(spec: AttentionKernel, traits: KernelTraits): AttentionTilePlan | undefined {
  const widthFours = Math.ceil(spec.width / 4), valueFours = Math.ceil(spec.valueWidth / 4);
  const slots = Math.ceil(valueFours / SIDE);
  const strip = Math.max(STRIP * (QUERY_STRIDE + KEY_STRIDE), VALUES * slots * SIDE);
  const bytes = 16 * (strip + KEYS * SCORE_STRIDE) + 4 * (THREADS + QUERIES + 4);
  if (spec.dy || spec.tokens < LEAST_QUERIES || slots > 4 || bytes > traits.workgroupBytes) return undefined;
  return { widthFours, valueFours, slots, strip };
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const FOUR = range(4);

/** Entry points for a plan. */
export function writeAttentionTile(
  writer: Writer,
  spec: AttentionKernel,
  plan: AttentionTilePlan,
): { lines: string[]; dispatches: Dispatch[] } {
  const { batch, tokens, heads, kvHeads } = spec, blocks = Math.ceil(tokens / QUERIES);
  const { seen, firstSeen } = attentionOperands(writer, spec), count = queryGroups(spec, QUERIES), { slots } = plan;
  const memory = {
    strip: writer.workgroup("strip", "vec4<f32>", plan.strip),
    scores: writer.workgroup("scores", "vec4<f32>", KEYS * SCORE_STRIDE),
    totals: writer.workgroup("totals", "f32", THREADS),
    shrinks: writer.workgroup("shrinks", "f32", QUERIES),
  };
  const lines = [
    ...groupNumber(count, "group"),
    ...coordinates("group", ["batch", "head", "query_block"], [batch, heads, blocks]),
    `let kv_head = head / ${heads / kvHeads}u;`,
    `let first_token = query_block * ${QUERIES}u;`,
    `let lane_m = lane / ${SIDE}u;`,
    `let lane_n = lane % ${SIDE}u;`,
    ...FOUR.map((i) => `let token${i} = min(first_token + lane_m * 4u + ${i}u, ${tokens - 1}u);`),
    ...FOUR.map((i) => `let keys${i} = ${seen}(batch, token${i});`),
    ...(firstSeen ? FOUR.map((i) => `let first_seen${i} = ${firstSeen}(batch, token${i});`) : []),
    ...bounds(writer, spec, firstSeen !== undefined),
    `var top = ${LOWEST};`,
    "var total = 0.0;",
    ...range(slots).flatMap((h) => FOUR.map((i) => `var sum${i}_${h} = vec4<f32>();`)),
    `for (var first = ${firstSeen ? "least_key" : "0u"}; first < most_keys; first += ${KEYS}u) {`,
    ...indent([
      ...scores(writer, spec, plan, memory),
      ...softmax(memory),
      ...values(writer, spec, plan, memory),
    ]),
    "}",
    ...results(writer, spec, plan, memory),
  ];
  return {
    lines: [...entryHead("main", THREADS), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(count) }],
  };
}

interface Memory {
  readonly strip: string;
  readonly scores: string;
  readonly totals: string;
  readonly shrinks: string;
}

/** Lines that find `most_keys`, behind the last key that a query of the block sees, and with a window `least_key`. */
function bounds(writer: Writer, { context }: AttentionKernel, window: boolean): string[] {
  // What a query does not see in front counts from the end, since atomics start at 0.
  const found = writer.workgroup("found", "atomic<u32>", 2), bound = writer.workgroup("keys_bound", "u32", 2);
  const most = (text: (i: number) => string) => FOUR.map(text).reduce((a, b) => `max(${a}, ${b})`);
  return [
    "if (lane_n == 0u) {",
    `  atomicMax(&${found}[0], ${most((i) => `keys${i}`)});`,
    ...(window ? [`  atomicMax(&${found}[1], ${most((i) => `${context}u - min(first_seen${i}, ${context}u)`)});`] : []),
    "}",
    "workgroupBarrier();",
    "if (lane == 0u) {",
    `  ${bound}[0] = atomicLoad(&${found}[0]);`,
    ...(window ? [`  ${bound}[1] = ${context}u - atomicLoad(&${found}[1]);`] : []),
    "}",
    `let bounds = workgroupUniformLoad(&${bound});`,
    "let most_keys = bounds[0];",
    ...(window ? ["let least_key = bounds[1];"] : []),
  ];
}

/** Lines that leave the chunk's scores in workgroup memory: for every key, those of all queries in fours. */
function scores(writer: Writer, spec: AttentionKernel, { widthFours }: AttentionTilePlan, memory: Memory): string[] {
  const { query, key, firstSeen, bias } = attentionOperands(writer, spec),
    { strip } = memory,
    offset = STRIP * QUERY_STRIDE;
  const ragged = widthFours % STRIP !== 0,
    inside = (text: string, line: string) => ragged ? `if (${text}) { ${line} }` : line;
  const keysHere = range(KEYS / SIDE), { tokens, context } = spec;
  const score = (i: number, j: number) => {
    const at = `key${j}`, sees = firstSeen ? `${at} >= first_seen${i} && ${at} < keys${i}` : `${at} < keys${i}`;
    return `select(${LOWEST}, score${i}_${j} * ${floatText(spec.scale)} + ${
      bias(`token${i}`, `min(${at}, ${context - 1}u)`)
    }, ${sees})`;
  };
  return [
    ...FOUR.flatMap((i) => keysHere.map((j) => `var score${i}_${j} = 0.0;`)),
    `for (var quad = 0u; quad < ${widthFours}u; quad += ${STRIP}u) {`,
    ...indent([
      `let here = quad + lane % ${STRIP}u;`,
      "var four = vec4<f32>();",
      inside(
        `here < ${widthFours}u`,
        `four = ${query}(batch, min(first_token + lane / ${STRIP}u, ${tokens - 1}u), head, here * 4u);`,
      ),
      `${strip}[lane % ${STRIP}u * ${QUERY_STRIDE}u + lane / ${STRIP}u] = four;`,
      `if (lane < ${KEYS * STRIP}u) {`,
      ...(ragged ? ["  four = vec4<f32>();"] : []),
      `  ${
        inside(
          `here < ${widthFours}u`,
          `four = ${key}(batch, min(first + lane / ${STRIP}u, ${context - 1}u), kv_head, here * 4u);`,
        )
      }`,
      `  ${strip}[${offset}u + lane % ${STRIP}u * ${KEY_STRIDE}u + lane / ${STRIP}u] = four;`,
      "}",
      "workgroupBarrier();",
      `for (var at = 0u; at < ${STRIP}u; at++) {`,
      ...indent([
        ...keysHere.map((j) => `let b${j} = ${strip}[${offset}u + at * ${KEY_STRIDE}u + lane_n + ${j * SIDE}u];`),
        ...FOUR.flatMap((i) => [
          `let a${i} = ${strip}[at * ${QUERY_STRIDE}u + lane_m * 4u + ${i}u];`,
          ...keysHere.map((j) => `score${i}_${j} += dot(a${i}, b${j});`),
        ]),
      ]),
      "}",
      "workgroupBarrier();",
    ]),
    "}",
    ...keysHere.flatMap((j) => [
      `let key${j} = first + lane_n + ${j * SIDE}u;`,
      `${memory.scores}[(lane_n + ${j * SIDE}u) * ${SCORE_STRIDE}u + lane_m] = vec4<f32>(${
        FOUR.map((i) => score(i, j)).join(", ")
      });`,
    ]),
    "workgroupBarrier();",
  ];
}

/** Lines that turn scores to weights: four invocations share a query, and hold its `top` and `total`. */
function softmax({ strip, scores, totals, shrinks }: Memory): string[] {
  const mine = KEYS / 4, at = `${scores}[(lane % 4u * ${mine}u + i) * ${SCORE_STRIDE}u + lane / 16u][lane / 4u % 4u]`;
  const ofFour = (memory: string) => FOUR.map((i) => `${memory}[lane / 4u * 4u${i > 0 ? ` + ${i}u` : ""}]`);
  const highest = ofFour(strip).map((vector) => `${vector}.x`);
  return [
    `var highest_here = ${LOWEST};`,
    `for (var i = 0u; i < ${mine}u; i++) { highest_here = max(highest_here, ${at}); }`,
    // Between a strip of keys and one of values, its memory is free.
    `${strip}[lane].x = highest_here;`,
    "workgroupBarrier();",
    `let top_here = max(top, ${highest.reduce((a, b) => `max(${a}, ${b})`)});`,
    "let shrink = exp(top - top_here);",
    "top = top_here;",
    "var total_here = 0.0;",
    `for (var i = 0u; i < ${mine}u; i++) {`,
    // Not seen is the lowest score, which is nothing also where no key has been seen.
    `  let weight = select(exp(${at} - top_here), 0.0, ${at} == ${LOWEST});`,
    `  ${at} = weight;`,
    "  total_here += weight;",
    "}",
    `${totals}[lane] = total_here;`,
    `${shrinks}[lane / 4u] = shrink;`,
    "workgroupBarrier();",
    `total = total * shrink + ${ofFour(totals).join(" + ")};`,
  ];
}

/** Lines that add the chunk's weighted values. */
function values(
  writer: Writer,
  spec: AttentionKernel,
  { valueFours, slots }: AttentionTilePlan,
  { strip, scores, shrinks }: Memory,
): string[] {
  const { value } = attentionOperands(writer, spec),
    wide = slots * SIDE,
    pieces = range(Math.max(1, VALUES * wide / THREADS));
  const ragged = VALUES * wide < THREADS;
  const load = pieces.flatMap((i) => {
    const at = i === 0 ? "lane" : `(lane + ${i * THREADS}u)`;
    const line = `${strip}[${at}] = ${value}(batch, min(first + row + ${at} / ${wide}u, ${
      spec.context - 1
    }u), kv_head, min(${at} % ${wide}u, ${valueFours - 1}u) * 4u);`;
    return ragged ? [`if (lane < ${VALUES * wide}u) { ${line} }`] : [line];
  });
  return [
    ...FOUR.flatMap((i) => [
      `let shrink${i} = ${shrinks}[lane_m * 4u + ${i}u];`,
      ...range(slots).map((h) => `sum${i}_${h} *= shrink${i};`),
    ]),
    `for (var row = 0u; row < ${KEYS}u; row += ${VALUES}u) {`,
    ...indent([
      ...load,
      "workgroupBarrier();",
      `for (var at = 0u; at < ${VALUES}u; at++) {`,
      ...indent([
        `let weights = ${scores}[(row + at) * ${SCORE_STRIDE}u + lane_m];`,
        ...range(slots).flatMap((h) => [
          `let value${h} = ${strip}[at * ${wide}u + lane_n + ${h * SIDE}u];`,
          ...FOUR.map((i) => `sum${i}_${h} += weights.${"xyzw"[i]} * value${h};`),
        ]),
      ]),
      "}",
      "workgroupBarrier();",
    ]),
    "}",
  ];
}

/** Lines that write results. */
function results(
  writer: Writer,
  spec: AttentionKernel,
  { valueFours, slots }: AttentionTilePlan,
  { totals }: Memory,
): string[] {
  const { tokens, heads, valueWidth } = spec;
  const row = (token: string) => `(batch * ${tokens}u + ${token}) * ${heads}u + head`;
  const outputs = spec.results.filter(({ of }) => of === "output"),
    logs = spec.results.filter(({ of }) => of !== "output");
  return [
    `if (lane % 4u == 0u) { ${totals}[lane / 4u] = total; }`,
    "workgroupBarrier();",
    ...logs.flatMap(({ buffer }) => [
      "{",
      `  let row = ${row("first_token + lane / 4u")};`,
      ...indent(storeLogSumExp(writer, buffer, `lane % 4u == 0u && first_token + lane / 4u < ${tokens}u`)),
      "}",
    ]),
    ...outputs.flatMap(({ buffer }) =>
      FOUR.flatMap((i) => [
        `if (first_token + lane_m * 4u + ${i}u < ${tokens}u) {`,
        `  let row = ${row(`token${i}`)};`,
        `  let whole = ${totals}[lane_m * 4u + ${i}u];`,
        ...range(slots).flatMap((h) => [
          `  let quad${h} = lane_n + ${h * SIDE}u;`,
          `  let four${h} = select(sum${i}_${h} / whole, vec4<f32>(), whole == 0.0);`,
          `  if (quad${h} < ${valueFours}u) {`,
          ...indent(
            storeFours(writer, buffer, { row: "row", quad: `quad${h}`, extent: valueWidth, four: `four${h}` }),
            4,
          ),
          "  }",
        ]),
        "}",
      ])
    ),
  ];
}
