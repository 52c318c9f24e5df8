/**
 * @file Decoders of the LLaMA family as modules: LLaMA, Mistral and Qwen2 differ by which biases there are, by head
 * counts and by the scaling of their rotary embeddings, all of which is data in `DecoderConfig`.
 *
 * Nothing outside the front-end knows these functions or names; passes work on structure.
 */
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { rmsNorm } from "../../ir/composites/norms.ts";
import { silu } from "../../ir/composites/activations.ts";
import type { Dim } from "../../ir/dim.ts";
import { quote, UserError } from "../../ir/errors.ts";
import type { Call, Derived, Module } from "../../ir/module.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import { type TensorType, tensorType } from "../../ir/types.ts";
import type { DecoderConfig } from "./config.ts";
import { applyRope, ropeTables } from "./rope.ts";

/**
 * The model as functions `embed`, `block` and `head` and their calls. It takes `ids` and `positions`, i32[B,T], and returns
 * `logits`, f32[B,T,vocabSize]. Parameters have the names that `decoderSource` knows, and the shapes of the checkpoint.
 */
export function decoderModule(config: DecoderConfig): Module {
  const blocks = Array.from({ length: config.layers }, (_, layer): Call => ({
    function: "block",
    prefix: `layers.${layer}.`,
    inputs: { h: "h", cos: "cos", sin: "sin" },
    outputs: { h: "h" },
  }));
  return {
    functions: { embed: embedFunction(config), block: blockFunction(config), head: headFunction(config) },
    calls: [
      {
        function: "embed",
        prefix: "",
        inputs: { ids: "ids", positions: "positions" },
        outputs: { h: "h", cos: "cos", sin: "sin" },
      },
      ...blocks,
      { function: "head", prefix: "", inputs: { h: "h" }, outputs: { logits: "logits" } },
    ],
    inputs: ["ids", "positions"],
    outputs: ["logits"],
    derived: ropeParameters(config),
  };
}

/** The longest context that the module computes, in tokens. */
export const contextLimit = ({ maxPositions }: DecoderConfig): number => maxPositions;

/**
 * Refuses contexts that the module would compute wrongly.
 *
 * @param tokens tokens of one sequence, prompt and generated ones together
 * @throws {UserError} if they exceed the model's positions
 */
export function checkContext(config: DecoderConfig, tokens: number): void {
  const limit = contextLimit(config);
  if (tokens <= limit) return;
  throw new UserError({
    what: `Expected at most ${limit} tokens, the model's context, but found ${quote(tokens)}`,
    mend: "use shorter texts",
  });
}

const TOKENS = ["B", "T"] as const satisfies readonly Dim[];
const f32 = (...shape: readonly Dim[]): TensorType => tensorType("f32", shape);
const weight = (b: Builder, name: string, ...shape: readonly Dim[]): Node => b.param(name, f32(...shape), "checkpoint");

function ropeParameters(config: DecoderConfig): Readonly<Record<string, Derived>> {
  const rows = contextLimit(config), type = f32(rows, config.headDim);
  const { cos, sin } = ropeTables(config, config.headDim, rows);
  return { "rope.cos": { type, generate: cos }, "rope.sin": { type, generate: sin } };
}

function embedFunction(config: DecoderConfig): Graph {
  const b = createBuilder(), rows = contextLimit(config);
  const ids = b.input("ids", tensorType("i32", TOKENS)), positions = b.input("positions", tensorType("i32", TOKENS));
  const table = (name: string) => b.gather(weight(b, name, rows, config.headDim), positions);
  return graphOf({ h: b.gather(embedding(b, config), ids), cos: table("rope.cos"), sin: table("rope.sin") });
}

function headFunction(config: DecoderConfig): Graph {
  const { vocabSize: V, hiddenSize: h } = config;
  const b = createBuilder();
  const x = rmsNorm(b, b.input("h", f32(...TOKENS, h)), config.rmsNormEps, weight(b, "final.norm.weight", h));
  const output = config.tieEmbeddings ? embedding(b, config) : weight(b, "head.weight", V, h);
  return graphOf({ logits: b.dot(x, output, { lhsContract: [2], rhsContract: [1] }) });
}

const embedding = (b: Builder, { vocabSize, hiddenSize }: DecoderConfig): Node =>
  weight(b, "embedding.weight", vocabSize, hiddenSize);

function blockFunction(config: DecoderConfig): Graph {
  const b = createBuilder(), width = config.hiddenSize;
  const residual = b.input("h", f32(...TOKENS, width));
  const norm = (x: Node, name: string) => rmsNorm(b, x, config.rmsNormEps, weight(b, name, width));
  const attended = b.add(residual, attention(b, config, norm(residual, "attention.norm.weight")));
  return graphOf({ h: b.add(attended, feedForward(b, config, norm(attended, "mlp.norm.weight"))) });
}

/**
 * Causal self-attention with rotary positions, within a window where the model has one. Projections split heads by the weights'
 * shape, without transposes.
 */
function attention(b: Builder, config: DecoderConfig, x: Node): Node {
  const { hiddenSize: h, heads, kvHeads, headDim: d, attentionBias, slidingWindow, maxPositions } = config;
  const cos = b.input("cos", f32(...TOKENS, d)), sin = b.input("sin", f32(...TOKENS, d));
  const project = (name: string, count: number) => {
    const matrix = b.reshape(weight(b, `${name}.weight`, count * d, h), [count, d, h]);
    const y = b.dot(x, matrix, { lhsContract: [2], rhsContract: [2] });
    return attentionBias.qkv ? b.add(y, b.reshape(weight(b, `${name}.bias`, count * d), [count, d])) : y;
  };
  const query = applyRope(b, project("attention.query", heads), cos, sin);
  const key = applyRope(b, project("attention.key", kvHeads), cos, sin);
  // A window as long as the context hides nothing.
  const window = slidingWindow !== null && slidingWindow < maxPositions ? slidingWindow : undefined;
  const value = project("attention.value", kvHeads);
  const mixed = b.attention(query, key, value, { scale: d ** -0.5, causal: true, window });
  const matrix = b.reshape(weight(b, "attention.output.weight", h, heads * d), [h, heads, d]);
  const y = b.dot(mixed, matrix, { lhsContract: [2, 3], rhsContract: [1, 2] });
  return attentionBias.output ? b.add(y, weight(b, "attention.output.bias", h)) : y;
}

/** The gated feed-forward network, `down(silu(gate(x)) · up(x))`. */
function feedForward(b: Builder, { hiddenSize: h, intermediateSize: f, mlpBias }: DecoderConfig, x: Node): Node {
  const linear = (name: string, input: Node, from: number, to: number) => {
    const y = b.dot(input, weight(b, `${name}.weight`, to, from), { lhsContract: [2], rhsContract: [1] });
    return mlpBias ? b.add(y, weight(b, `${name}.bias`, to)) : y;
  };
  return linear("mlp.down", b.mul(silu(b, linear("mlp.gate", x, h, f)), linear("mlp.up", x, h, f)), f, h);
}
