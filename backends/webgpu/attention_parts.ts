/** What the attention kernels share: shapes of their workgroups, operands as functions, the number of keys that a query sees. */
import type { AttentionKernel, Expr } from "../kernel.ts";
import { type Place, writeOne } from "./access.ts";
import { groupNumber } from "./entry.ts";
import { startBlock } from "./expressions.ts";
import { operandFunction } from "./operands.ts";
import { floatText, indent, powerAbove } from "./text.ts";
import type { Writer } from "./writer.ts";

/** Below every score: WGSL promises no infinities. */
export const LOWEST = floatText(-Infinity);

/** How a workgroup is divided. */
export interface AttentionShape {
  /** Rows (queries, or keys for their gradients) of a workgroup, and the invocations that share one. */
  readonly rows: number;
  readonly lanes: number;
  readonly threads: number;
  /** Partners (keys, or queries) that are visited at a time. */
  readonly chunk: number;
  /** Fours of a query or key, and of a value. */
  readonly widthFours: number;
  readonly valueFours: number;
  /** Fours of a result that one invocation adds up. */
  readonly slots: number;
}

/** Workgroup memory for the rows themselves, bytes. */
const TILE_BYTES = 8192;

/** The division for `rows` rows in all; the tile holds the rows' operands of `fours` vec4s each. */
export function attentionShape({ width, valueWidth }: AttentionKernel, rows: number, fours: number): AttentionShape {
  const widthFours = Math.ceil(width / 4),
    valueFours = Math.ceil(valueWidth / 4),
    most = Math.max(widthFours, valueFours);
  const here = rows === 1 ? 1 : Math.max(1, Math.min(8, 2 ** Math.floor(Math.log2(TILE_BYTES / (16 * fours)))));
  const lanes = here === 1 ? 64 : Math.min(32, Math.max(8, powerAbove(most)));
  return {
    rows: here,
    lanes,
    threads: here * lanes,
    chunk: Math.max(32, lanes),
    widthFours,
    valueFours,
    slots: Math.ceil(most / lanes),
  };
}

/** Names of the operands' functions. */
export interface AttentionOperands {
  /** `(batch, token, head, k)` -> vec4, k a multiple of 4. */
  readonly query: string;
  readonly dy: string;
  readonly output: string;
  /** `(batch, key, kv_head, k)` -> vec4. */
  readonly key: string;
  readonly value: string;
  /** `(batch, token)` -> number of keys up to the last that is seen. */
  readonly seen: string;
  /** `(batch, token)` -> the first key that is seen; undefined without a window, where it is key 0. */
  readonly firstSeen: string | undefined;
  /** Text of what is added to the score of a query and a key. */
  bias(token: string, key: string): string;
  /** Text of the log-sum-exp of a query. */
  logSumExp(token: string): string;
}

/** Operand functions; each is added when it is asked for. */
export function attentionOperands(writer: Writer, spec: AttentionKernel): AttentionOperands {
  const { batch, tokens, context, heads, kvHeads, width, valueWidth } = spec;
  const query = [["batch", batch], ["token", tokens], ["head", heads]] as const;
  const stored = [["batch", batch], ["key", context], ["kv_head", kvHeads]] as const;
  const operand = (name: string, expr: Expr | undefined, lead: typeof query | typeof stored, extent: number) => {
    if (!expr) throw new Error(`Internal error in kernel ${spec.name}: it lacks "${name}"`);
    return operandFunction(writer, { name, expr, lead, k: [extent], scalar: "f32" });
  };
  return {
    get query() {
      return operand("query", spec.q, query, width);
    },
    get dy() {
      return operand("dy", spec.dy, query, valueWidth);
    },
    get output() {
      return operand("attended", spec.output, query, valueWidth);
    },
    get key() {
      return operand("key_row", spec.k, stored, width);
    },
    get value() {
      return operand("value_row", spec.v, stored, valueWidth);
    },
    get seen() {
      return seenFunction(writer, spec);
    },
    get firstSeen() {
      return firstSeenFunction(writer, spec);
    },
    bias(token, key) {
      if (!spec.bias) return "0.0";
      const place: Place = { vars: ["batch", "head", "token", "key"], extents: [batch, heads, tokens, context] };
      return `${scalarFunction(writer, "bias_of", spec.bias, place)}(batch, head, ${token}, ${key})`;
    },
    logSumExp(token) {
      if (!spec.logSumExp) throw new Error(`Internal error in kernel ${spec.name}: it lacks "logSumExp"`);
      const place: Place = { vars: ["batch", "token", "head"], extents: [batch, tokens, heads] };
      return `${scalarFunction(writer, "log_sum_exp", spec.logSumExp, place)}(batch, ${token}, head)`;
    },
  };
}

function scalarFunction(writer: Writer, name: string, expr: Expr, place: Place): string {
  return writer.helper(name, (given) => {
    const block = startBlock(writer, place, [expr]), value = block.emit(expr);
    return [
      `fn ${given}(${place.vars.map((variable) => `${variable}: u32`).join(", ")}) -> ${value.scalar} {`,
      ...indent([...block.lines, `return ${value.text};`]),
      "}",
    ];
  });
}

function seenFunction(writer: Writer, { batch, tokens, context, causal, positions }: AttentionKernel): string {
  return writer.helper("keys_seen", (name) => {
    const head = `fn ${name}(batch: u32, token: u32) -> u32 {`;
    if (!causal) return [head, `  return ${context}u;`, "}"];
    if (!positions) return [head, `  return min(token + 1u, ${context}u);`, "}"];
    const block = startBlock(writer, { vars: ["batch", "token"], extents: [batch, tokens] }, [positions]);
    const at = block.emit(positions).text;
    return [head, ...indent([...block.lines, `return u32(clamp(${at} + 1i, 0i, ${context}i));`]), "}"];
  });
}

function firstSeenFunction(
  writer: Writer,
  { batch, tokens, context, window, positions }: AttentionKernel,
): string | undefined {
  if (window === undefined) return undefined;
  return writer.helper("window_start", (name) => {
    const head = `fn ${name}(batch: u32, token: u32) -> u32 {`;
    if (!positions) return [head, `  return max(token + 1u, ${window}u) - ${window}u;`, "}"];
    const block = startBlock(writer, { vars: ["batch", "token"], extents: [batch, tokens] }, [positions]);
    const at = block.emit(positions).text;
    return [head, ...indent([...block.lines, `return u32(clamp(${at} + 1i - ${window}i, 0i, ${context}i));`]), "}"];
  });
}

/** Lines that write four neighbours of a result, of which those below `extent` exist; `first` is the element of component 0. */
export function storeFours(
  writer: Writer,
  buffer: number,
  { row, quad, extent, four }: { row: string; quad: string; extent: number; four: string },
): string[] {
  const view = writer.view(buffer);
  if (extent % 4 === 0 && view.wide) return [`${view.name}[${row} * ${extent / 4}u + ${quad}] = ${four};`];
  return ["x", "y", "z", "w"].flatMap((part, j) => {
    const flat = `${row} * ${extent}u + ${quad} * 4u + ${j}u`;
    const lines = writeOne(writer, buffer, { flat, row: "0u", column: flat }, `${four}.${part}`);
    return extent % 4 === 0 ? lines : [`if (${quad} * 4u + ${j}u < ${extent}u) {`, ...indent(lines), "}"];
  });
}

/** Lines that write the log-sum-exp of query `row` from `top` and `total` where `condition` holds. */
export const storeLogSumExp = (writer: Writer, buffer: number, condition: string): string[] => [
  `if (${condition}) {`,
  ...indent(
    writeOne(
      writer,
      buffer,
      { flat: "row", row: "0u", column: "row" },
      `select(top + log(total), ${LOWEST}, total == 0.0)`,
    ),
  ),
  "}",
];

/** What the start of a kernel over blocks of queries needs to know. */
export interface QueryBlocks {
  readonly spec: AttentionKernel;
  readonly rows: number;
  readonly lanes: number;
  /** Functions of the number of keys up to the last that a query sees, and of the first one. */
  readonly seen: string;
  readonly firstSeen: string | undefined;
}

/** Workgroups of a kernel over blocks of `rows` queries. */
export const queryGroups = ({ batch, heads, tokens }: AttentionKernel, rows: number): number =>
  batch * heads * Math.ceil(tokens / rows);

/** Lines that name the batch, heads, token, keys (from `first_seen` on, with a window), row and share of an invocation. */
export function queryPlace({ spec, rows, lanes, seen, firstSeen }: QueryBlocks): string[] {
  const { tokens, heads, kvHeads } = spec, blocks = Math.ceil(tokens / rows);
  return [
    ...groupNumber(queryGroups(spec, rows), "group"),
    `let batch = group / ${heads * blocks}u;`,
    `let head = group / ${blocks}u % ${heads}u;`,
    `let kv_head = head / ${heads / kvHeads}u;`,
    `let first_token = group % ${blocks}u * ${rows}u;`,
    `let row_here = lane / ${lanes}u;`,
    `let share = lane % ${lanes}u;`,
    `let token = min(first_token + row_here, ${tokens - 1}u);`,
    `let keys = ${seen}(batch, token);`,
    ...(firstSeen ? [`let first_seen = ${firstSeen}(batch, token);`] : []),
  ];
}

/** Text of whether a query of `queryPlace` sees a key. */
export const sees = ({ firstSeen }: QueryBlocks, key: string): string =>
  firstSeen ? `${key} >= first_seen && ${key} < keys` : `${key} < keys`;

/**
 * Lines that find `most_keys`, behind the last key that a query of the block sees, and with a window `least_key`, the first one: the
 * same for the whole workgroup.
 */
export function mostKeys(writer: Writer, { spec: { tokens }, rows, seen, firstSeen }: QueryBlocks): string[] {
  const bound = writer.workgroup("keys_bound", "u32", firstSeen ? 2 : 1);
  if (firstSeen) {
    return [
      "if (lane == 0u) {",
      "  var most = 0u;",
      `  var least = ${firstSeen}(batch, first_token);`,
      `  for (var row = first_token; row < min(first_token + ${rows}u, ${tokens}u); row++) {`,
      `    most = max(most, ${seen}(batch, row));`,
      `    least = min(least, ${firstSeen}(batch, row));`,
      "  }",
      `  ${bound}[0] = most;`,
      `  ${bound}[1] = least;`,
      "}",
      `let bounds = workgroupUniformLoad(&${bound});`,
      "let most_keys = bounds[0];",
      "let least_key = bounds[1];",
    ];
  }
  return [
    "if (lane == 0u) {",
    "  var most = 0u;",
    `  for (var row = first_token; row < min(first_token + ${rows}u, ${tokens}u); row++) { most = max(most, ${seen}(batch, row)); }`,
    `  ${bound}[0] = most;`,
    "}",
    `let most_keys = workgroupUniformLoad(&${bound})[0];`,
  ];
}
