/**
 * Attention as one operation, and its gradient. After autodiff the probabilities would have users on both sides and no
 * fuser would find flash attention again; as records they need no finding, know their causal bound (and window), and never store scores.
 *
 * Layout is token-major, `[batch, tokens, heads, width]`, so that projections feed it without a transpose.
 * Query head h reads key/value head floor(h · kvHeads / heads) (grouped-query attention).
 */
import { type Attrs, flagAttr, numberAttr, stringAttr } from "../node.ts";
import { concreteShape, sizeOf, type TensorType, tensorType, typeText } from "../types.ts";
import { operand, type OpRecord, shapeError, type Values } from "./record.ts";

/** The optional operands of attention, which follow the required ones in this order. */
export interface AttentionOperands<T> {
  /** Added to the scores: `[heads or 1, tokens, context]` or `[batch, heads or 1, tokens, context]`. */
  readonly bias: T | undefined;
  /** Position of each query in the context, `[batch, tokens]` of i32; query at p sees keys 0…p when causal. */
  readonly positions: T | undefined;
}

/** Finds the optional operands behind the first `required` ones. */
export function optionalOperands<T>(inputs: readonly T[], attrs: Attrs, required: number): AttentionOperands<T> {
  const bias = flagAttr(attrs, "bias") ? operand(inputs, required) : undefined;
  const positions = flagAttr(attrs, "positions") ? operand(inputs, required + (bias === undefined ? 0 : 1)) : undefined;
  return { bias, positions };
}

/** Keys that a causal query sees at most, its own included: at p, those s with p - window < s <= p. Undefined: all up to its own. */
export const windowOf = (attrs: Attrs): number | undefined =>
  attrs.window === undefined ? undefined : numberAttr(attrs, "window");

/** The part of all scores that is computed; a window's first queries are counted as if they saw a whole one. */
function visibleShare(attrs: Attrs, context: number): number {
  return flagAttr(attrs, "causal") ? Math.min(1 / 2, (windowOf(attrs) ?? context) / context) : 1;
}

const OPTIONAL = { "causal?": "flag", "window?": "number", "bias?": "flag", "positions?": "flag" } as const;

function check(op: string, inputs: readonly TensorType[], attrs: Attrs, required: number): void {
  const [q, k, v] = [operand(inputs, 0), operand(inputs, 1), operand(inputs, 2)];
  const { bias, positions } = optionalOperands(inputs, attrs, required);
  const count = required + (bias ? 1 : 0) + (positions ? 1 : 0);
  const fits = inputs.length === count && [q, k, v].every((t) => t.shape.length === 4 && t.dtype === "f32") &&
    q.shape[0] === k.shape[0] && q.shape[3] === k.shape[3] && k.shape[0] === v.shape[0] && k.shape[1] === v.shape[1] &&
    k.shape[2] === v.shape[2] && Number.isInteger(Number(q.shape[2]) / Number(k.shape[2]));
  if (!fits) throw shapeError(op, "q [B,T,H,d], k [B,S,G,d], v [B,S,G,e] of f32 with G dividing H", inputs);
  if (
    positions && (positions.dtype !== "i32" || positions.shape[0] !== q.shape[0] || positions.shape[1] !== q.shape[1])
  ) {
    throw shapeError(op, "positions i32[B,T]", inputs);
  }
  const window = windowOf(attrs);
  if (window !== undefined && !(flagAttr(attrs, "causal") && Number.isInteger(window) && window > 0)) {
    throw shapeError(op, `a window only where it is causal, of at least one key, not ${window} keys,`, inputs);
  }
  if (flagAttr(attrs, "causal") && !positions && q.shape[1] !== k.shape[1]) {
    throw shapeError(op, "positions where queries and keys differ in number", inputs);
  }
  if (bias) {
    const [heads, tokens, context] = bias.shape.slice(-3), lead = bias.shape.length === 4 ? bias.shape[0] : q.shape[0];
    const planes = bias.dtype === "f32" && (bias.shape.length === 3 || bias.shape.length === 4);
    if (
      !planes || tokens !== q.shape[1] || context !== k.shape[1] || (heads !== 1 && heads !== q.shape[2]) ||
      lead !== q.shape[0]
    ) {
      throw shapeError(op, "bias [H,T,S] or [B,H,T,S] of f32", inputs);
    }
  }
}

/** Calls `row` for every (batch, head, query) with its probabilities over the keys it sees, `first` on, and their log-sum-exp. */
function forEachQuery(
  inputs: readonly Values[],
  attrs: Attrs,
  required: number,
  row: (
    at: { b: number; t: number; h: number; g: number; first: number },
    probabilities: Float64Array,
    logSumExp: number,
  ) => void,
): void {
  const q = operand(inputs, 0), k = operand(inputs, 1), scale = numberAttr(attrs, "scale");
  const window = windowOf(attrs) ?? Infinity;
  const { bias, positions } = optionalOperands(inputs, attrs, required);
  const [B = 1, T = 1, H = 1, d = 1] = concreteShape(q.type.shape), [, S = 1, G = 1] = concreteShape(k.type.shape);
  const biasHeads = Number(bias?.type.shape.at(-3) ?? 1), biasBatches = bias?.type.shape.length === 4;
  for (let b = 0; b < B; b++) {
    for (let t = 0; t < T; t++) {
      const last = flagAttr(attrs, "causal") ? positions?.data[b * T + t] ?? t : S - 1;
      const first = Math.max(0, last - window + 1), seen = Math.max(0, Math.min(last + 1, S) - first);
      for (let h = 0; h < H; h++) {
        const g = Math.floor(h * G / H), scores = new Float64Array(seen);
        for (let i = 0; i < seen; i++) {
          const s = first + i;
          let score = 0;
          for (let j = 0; j < d; j++) {
            score += (q.data[((b * T + t) * H + h) * d + j] ?? 0) * (k.data[((b * S + s) * G + g) * d + j] ?? 0);
          }
          const head = biasHeads === 1 ? 0 : h, plane = biasBatches ? b * biasHeads + head : head;
          scores[i] = score * scale + (bias?.data[(plane * T + t) * S + s] ?? 0);
        }
        const top = scores.reduce((a, x) => Math.max(a, x), -Infinity);
        const total = scores.reduce((sum, x) => sum + Math.exp(x - top), 0);
        const logSumExp = seen > 0 ? top + Math.log(total) : -Infinity;
        row({ b, t, h, g, first }, scores.map((x) => Math.exp(x - logSumExp)), logSumExp);
      }
    }
  }
}

const attention: OpRecord = {
  doc: "softmax(scale · q kᵀ + bias) v per head (of = output), or the log-sum-exp of the scores (of = logSumExp)",
  class: "attention",
  arity: [3, 5],
  attrs: { of: "text", scale: "number", ...OPTIONAL },
  infer: (inputs, attrs) => {
    check("attention", inputs, attrs, 3);
    const [B, T, H] = operand(inputs, 0).shape, of = stringAttr(attrs, "of"), width = operand(inputs, 2).shape[3];
    if (of !== "output" && of !== "logSumExp") {
      throw shapeError("attention", `of = output or logSumExp, not "${of}",`, inputs);
    }
    return tensorType("f32", of === "output" ? [B ?? 1, T ?? 1, H ?? 1, width ?? 1] : [B ?? 1, T ?? 1, H ?? 1]);
  },
  evaluate: (inputs, attrs, type) => {
    const v = operand(inputs, 2),
      [, T = 1, H = 1] = concreteShape(type.shape),
      [, S = 1, G = 1, e = 1] = concreteShape(v.type.shape);
    const result = new Float64Array(sizeOf(type.shape)), of = stringAttr(attrs, "of");
    forEachQuery(inputs, attrs, 3, ({ b, t, h, g, first }, probabilities, logSumExp) => {
      const at = (b * T + t) * H + h;
      if (of === "logSumExp") result[at] = logSumExp;
      else {
        for (let i = 0; i < e; i++) {
          result[at * e + i] = probabilities.reduce(
            (sum, p, s) => sum + p * (v.data[((b * S + first + s) * G + g) * e + i] ?? 0),
            0,
          );
        }
      }
    });
    return result;
  },
  vjp: (b, node, dy) => {
    if (node.attrs.of !== "output") throw new TypeError("Cannot differentiate attention with of = logSumExp");
    const logSumExp = b.make("attention", node.inputs, { ...node.attrs, of: "logSumExp" });
    const operands = [...node.inputs.slice(0, 3), node, logSumExp, dy, ...node.inputs.slice(3)];
    const gradient = (of: string) => b.make("attentionGrad", operands, { ...node.attrs, of });
    return [gradient("q"), gradient("k"), gradient("v"), ...node.inputs.slice(3).map(() => undefined)];
  },
  operations: (inputs, attrs, type) => {
    const q = operand(inputs, 0), S = Number(operand(inputs, 1).shape[1]);
    const full = 2 * S * (sizeOf(q.shape) + (attrs.of === "output" ? sizeOf(type.shape) : 0));
    return full * visibleShare(attrs, S);
  },
};

const attentionGrad: OpRecord = {
  doc:
    "gradient of attention's output in its operand `of` (q, k or v), from q, k, v, output, logSumExp and dy; p is recomputed",
  class: "attention",
  arity: [6, 8],
  attrs: { of: "text", scale: "number", ...OPTIONAL },
  infer: (inputs, attrs) => {
    check("attentionGrad", inputs, attrs, 6);
    const index = ["q", "k", "v"].indexOf(stringAttr(attrs, "of"));
    if (index < 0) throw shapeError("attentionGrad", `of = q, k or v, not "${attrs.of}",`, inputs);
    const [B, T, H] = operand(inputs, 0).shape, e = operand(inputs, 2).shape[3];
    const wanted = tensorType("f32", [B ?? 1, T ?? 1, H ?? 1, e ?? 1]),
      perQuery = tensorType("f32", wanted.shape.slice(0, 3));
    if ([wanted, perQuery, wanted].some((type, i) => typeText(type) !== typeText(operand(inputs, 3 + i)))) {
      throw shapeError(
        "attentionGrad",
        "output [B,T,H,e], logSumExp [B,T,H] and dy [B,T,H,e] behind q, k and v",
        inputs,
      );
    }
    return operand(inputs, index);
  },
  evaluate: (inputs, attrs, type) => {
    const [q, k, v, out, , dy] = [0, 1, 2, 3, 4, 5].map((i) => operand(inputs, i)) as [
      Values,
      Values,
      Values,
      Values,
      Values,
      Values,
    ];
    const [, T = 1, H = 1, d = 1] = concreteShape(q.type.shape), [, S = 1, G = 1, e = 1] = concreteShape(v.type.shape);
    const result = new Float64Array(sizeOf(type.shape)),
      of = stringAttr(attrs, "of"),
      scale = numberAttr(attrs, "scale");
    const plus = (at: number, x: number) => result[at] = (result[at] ?? 0) + x;
    forEachQuery(inputs, attrs, 6, ({ b, t, h, g, first }, probabilities) => {
      const row = (b * T + t) * H + h;
      let delta = 0; // dy · output: the part of the softmax gradient that all keys share
      for (let i = 0; i < e; i++) delta += (dy.data[row * e + i] ?? 0) * (out.data[row * e + i] ?? 0);
      probabilities.forEach((p, s) => {
        const key = (b * S + first + s) * G + g;
        if (of === "v") {
          for (let i = 0; i < e; i++) plus(key * e + i, p * (dy.data[row * e + i] ?? 0));
          return;
        }
        let dp = 0;
        for (let i = 0; i < e; i++) dp += (dy.data[row * e + i] ?? 0) * (v.data[key * e + i] ?? 0);
        const ds = p * (dp - delta) * scale;
        for (let i = 0; i < d; i++) {
          if (of === "q") plus(row * d + i, ds * (k.data[key * d + i] ?? 0));
          else plus(key * d + i, ds * (q.data[row * d + i] ?? 0));
        }
      });
    });
    return result;
  },
  operations: (inputs, attrs) => {
    const context = Number(operand(inputs, 1).shape[1]);
    return 6 * context * sizeOf(operand(inputs, 0).shape) * visibleShare(attrs, context);
  },
};

/** Attention and its gradient. */
export const ATTENTIONS = { attention, attentionGrad } satisfies Record<string, OpRecord>;
