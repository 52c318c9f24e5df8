/**
 * Rotates the values of attention within every head (the R2 of SpinQuant; quept-method.md 6.1): attention mixes tokens, not
 * channels, so `attention(q, k, R v) = R attention(q, k, v)`. The value projection takes R, the output projection R⁻¹; what a
 * cache stores and what the output projection reads have their outliers spread at no cost per token.
 */
import { createBuilder } from "../../../ir/builder.ts";
import { hadamardFactor } from "../../../ir/hadamard.ts";
import type { Graph, Node } from "../../../ir/node.ts";
import { mapFunctions } from "../../../ir/module.ts";
import { rewrite, rewriteToFixpoint } from "../../../ir/rewrite.ts";
import { tensorType } from "../../../ir/types.ts";
import type { NamedPass, PassContext } from "../pass.ts";
import { inverse, rotate, ROTATION_RULES } from "./rotation_rules.ts";
import { declareSigns } from "./signs.ts";
import { tokenTime } from "./values.ts";

/** Local name of the signs in every function with attention. */
export const HEAD_SIGNS = "rotation.heads.signs";

const AXIS = 3;

/** The pass; `seed` draws the signs. Attention whose neighbours cannot take the rotation stays as it is, with a note. */
export const rotateHeads = ({ seed }: { readonly seed: number }): NamedPass => ({
  name: "rotate_heads",
  run: (module, context) => {
    const changed = mapFunctions(module, (graph, name) => rotateValues(graph, name, context));
    return declareSigns(changed, HEAD_SIGNS, seed);
  },
});

function rotateValues(graph: Graph, name: string, { note }: PassContext): Graph {
  const sizes = new Set(graph.nodes.filter(isAttention).map((node) => node.type.shape[AXIS]));
  if (sizes.size === 0) return graph;
  const [size] = sizes;
  const keep = (reason: string): Graph => {
    note(`the heads of "${name}" keep their basis: ${reason}`);
    return graph;
  };
  if (sizes.size > 1 || typeof size !== "number") return keep(`heads differ in size, ${[...sizes].join(" and ")}`);
  if (!hadamardFactor(size)) return keep(`no Hadamard matrix of order ${size} is known here`);
  const b = createBuilder();
  const rotation = {
    axis: AXIS,
    signs: b.param(HEAD_SIGNS, tensorType("f32", [size]), "checkpoint"),
    transposed: false,
  };
  // Only nodes of the graph as it was given are wrapped; the wrapped attention is a new node and is not visited.
  const wrapped = rewrite(graph, (node) => {
    const values = node.inputs[2];
    if (!isAttention(node) || !values) return undefined;
    const rotated = b.make(
      "attention",
      node.inputs.map((x, i) => i === 2 ? rotate(b, values, rotation) : x),
      node.attrs,
    );
    return rotate(b, rotated, inverse(rotation));
  }, b);
  const result = rewriteToFixpoint(wrapped, ROTATION_RULES);
  const visible = tokenTime(result, "hadamard").length - tokenTime(graph, "hadamard").length;
  return visible > 0 ? keep("its neighbours are not linear layers, which could take the rotation") : result;
}

const isAttention = (node: Node): boolean => node.op === "attention" && node.attrs.of === "output";
