/** Kernel specifications as decoders have them, for timing variants of kernels on a device. */
import type { AttentionKernel, DotKernel, Expr, KernelBuffer } from "../../backends/kernel.ts";
import { type DType, tensorType, unsignedType, type Width } from "../../ir/types.ts";

/** A linear layer y = x · Wᵀ. */
export interface LinearShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Bits of a weight; 16 and 32 are floats. */
  readonly bits: number;
  /** Columns that share a scale and a zero point. */
  readonly group: number;
  /** Floats, or codes of eight bits that the previous kernel wrote, or floats to be quantized here. */
  readonly activations: "f32" | "i8" | "quantized";
}

const load = (buffer: number, strides: readonly number[], scalar: "f32" | "i32" = "f32"): Expr => ({
  kind: "load",
  buffer,
  access: { offset: 0, strides },
  scalar,
});
const map = (op: "mul" | "sub" | "div" | "round", ...args: Expr[]): Expr => ({
  kind: "map",
  op,
  args,
  scalar: args[0]?.scalar ?? "f32",
});
const cast = (x: Expr, scalar: "f32" | "i32", range?: readonly [number, number]): Expr => ({
  kind: "map",
  op: "cast",
  args: [x],
  scalar,
  ...(range ? { range } : {}),
});
const value = (id: number, scalar: "f32" | "i32"): Expr => ({ kind: "value", id, scalar });

/** The kernel of a linear layer. */
export function linear({ m, n, k, bits, group, activations }: LinearShape): DotKernel {
  const groups = k / group, buffers: KernelBuffer[] = [];
  const buffer = (name: string, dtype: DType, shape: readonly number[], use: KernelBuffer["use"] = "read") =>
    buffers.push({ name, type: tensorType(dtype, shape), use }) - 1;
  const common = { kind: "dot", name: `linear_${bits}_${activations}`, fuses: "", buffers, batch: 1, m, n } as const;
  const result = (sum: Expr) => ({
    accumulator: 0,
    stores: [{
      buffer: buffer("y", "f32", [m, n], "write"),
      access: { offset: 0, strides: [m * n, n, 1] },
      value: sum,
    }],
  });
  if (bits >= 16) {
    const x = load(buffer("x", "f32", [m, k]), [m * k, k, 1]);
    const w = load(buffer("w", bits === 16 ? "f16" : "f32", [n, k]), [n * k, k, 1]);
    return { ...common, k: [k], scalar: "f32", lhs: x, rhs: w, ...result(value(0, "f32")) };
  }
  const x = buffer("x", activations === "i8" ? "i8" : "f32", [m, groups, group]);
  const codes = buffer("w.codes", unsignedType(bits as Width), [n, groups, group]);
  const zero = buffer("w.zero", "f32", [n, groups, 1]), scale = buffer("w.scale", "f32", [n, groups, 1]);
  const w = load(codes, [n * k, k, group, 1], "i32");
  if (activations === "f32") {
    const centred = map("sub", cast(w, "f32"), load(zero, [0, groups, 1, 0]));
    return {
      ...common,
      k: [groups, group],
      scalar: "f32",
      lhs: load(x, [m * k, k, group, 1]),
      rhs: map("mul", centred, load(scale, [0, groups, 1, 0])),
      ...result(value(0, "f32")),
    };
  }
  const sums = buffer("x.sums", "i32", [m, groups]);
  const lhs = activations === "i8" ? load(x, [0, k, group, 1], "i32") : cast(
    map("round", map("div", load(x, [0, k, group, 1]), { kind: "constant", value: 0.02, scalar: "f32" })),
    "i32",
    [
      -128,
      127,
    ],
  );
  const shift = map("mul", cast(load(zero, [0, 0, groups, 1]), "i32"), load(sums, [0, groups, 0, 1], "i32"));
  const term = map("mul", cast(map("sub", value(1, "i32"), shift), "f32"), load(scale, [0, 0, groups, 1]));
  return {
    ...common,
    k: [groups, group],
    scalar: "i32",
    lhs,
    rhs: w,
    groups: { inner: 1, term },
    ...result(value(0, "f32")),
  };
}

/** Attention over a cache. */
export interface AttentionShape {
  readonly tokens: number;
  readonly context: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly width: number;
  /** Bits of a cached element, with a scale and a zero point per token and head; 32 are floats. */
  readonly cache: 32 | Width;
  readonly window?: number;
}

/** The kernel of attention over a cache; positions are its last buffer but one. */
export function attention({ tokens, context, heads, kvHeads, width, cache, window }: AttentionShape): AttentionKernel {
  const buffers: KernelBuffer[] = [];
  const buffer = (name: string, dtype: DType, shape: readonly number[], use: KernelBuffer["use"] = "read") =>
    buffers.push({ name, type: tensorType(dtype, shape), use }) - 1;
  const strides = [context * kvHeads * width, kvHeads * width, width, 1];
  const q = load(buffer("q", "f32", [1, tokens, heads, width]), [tokens * heads * width, heads * width, width, 1]);
  // Keys and values share the factors here: with their own, attention would bind more buffers than every device has.
  const factors = cache === 32
    ? []
    : ["zero", "scale"].map((name) =>
      load(buffer(`cache.${name}`, "f32", [1, context, kvHeads]), [context * kvHeads, kvHeads, 1, 0])
    );
  const cached = (name: string): Expr => {
    if (cache === 32) return load(buffer(name, "f32", [1, context, kvHeads, width]), strides);
    const codes = load(buffer(name, unsignedType(cache), [1, context, kvHeads, width]), strides, "i32");
    const [zero, scale] = factors as [Expr, Expr];
    return map("mul", map("sub", cast(codes, "f32"), zero), scale);
  };
  return {
    kind: "attention",
    name: `attention_${cache}`,
    fuses: "",
    buffers,
    batch: 1,
    tokens,
    context,
    heads,
    kvHeads,
    width,
    valueWidth: width,
    scale: width ** -0.5,
    causal: true,
    ...(window === undefined ? {} : { window }),
    q,
    k: cached("cache.key"),
    v: cached("cache.value"),
    positions: load(buffer("positions", "i32", [1, tokens]), [tokens, 1], "i32"),
    results: [{ of: "output", buffer: buffer("y", "f32", [1, tokens, heads, width], "write") }],
  };
}

/** Extents of a model of seven thousand million parameters. */
export const LLAMA = { hidden: 4096, intermediate: 11008, vocabulary: 32000 } as const;

/** What decoding it spends its time on, then a few rows, then prefill. */
export const LINEARS: readonly LinearShape[] = [
  ...([2, 3, 4, 8] as const).flatMap((bits) =>
    (["f32", "i8", "quantized"] as const).map((activations) => ({
      m: 1,
      n: LLAMA.intermediate,
      k: LLAMA.hidden,
      bits,
      group: 128,
      activations,
    }))
  ),
  ...([4, 8] as const).flatMap((bits) =>
    (["f32", "i8"] as const).flatMap((activations) => [
      { m: 1, n: LLAMA.hidden, k: LLAMA.hidden, bits, group: 128, activations },
      { m: 1, n: LLAMA.hidden, k: LLAMA.intermediate, bits, group: 128, activations },
    ])
  ),
  { m: 1, n: LLAMA.vocabulary, k: LLAMA.hidden, bits: 16, group: 128, activations: "f32" },
  { m: 1, n: LLAMA.vocabulary, k: LLAMA.hidden, bits: 8, group: 128, activations: "f32" },
  { m: 8, n: LLAMA.intermediate, k: LLAMA.hidden, bits: 4, group: 128, activations: "f32" },
  { m: 8, n: LLAMA.intermediate, k: LLAMA.hidden, bits: 4, group: 128, activations: "i8" },
  { m: 512, n: LLAMA.hidden, k: LLAMA.hidden, bits: 32, group: 128, activations: "f32" },
  { m: 512, n: LLAMA.hidden, k: LLAMA.hidden, bits: 4, group: 128, activations: "f32" },
  { m: 512, n: LLAMA.hidden, k: LLAMA.hidden, bits: 4, group: 128, activations: "i8" },
];

const HEADS = { heads: 32, kvHeads: 32, width: 128 } as const;

/** Decoding with a short and a long cache, of floats and of codes, and prefill. */
export const ATTENTIONS: readonly AttentionShape[] = [
  { tokens: 1, context: 512, ...HEADS, cache: 32 },
  { tokens: 1, context: 512, ...HEADS, cache: 8 },
  { tokens: 1, context: 4096, ...HEADS, cache: 32 },
  { tokens: 1, context: 4096, ...HEADS, cache: 8 },
  { tokens: 1, context: 4096, ...HEADS, cache: 4 },
  { tokens: 1, context: 4096, ...HEADS, kvHeads: 8, cache: 8 },
  { tokens: 512, context: 512, ...HEADS, cache: 32 },
  { tokens: 512, context: 512, ...HEADS, cache: 8 },
];
