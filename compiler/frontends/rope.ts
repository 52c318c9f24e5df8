/**
 * @file Rotary position embeddings (Su et al., "RoFormer", 2021) in the half-split layout of Hugging Face checkpoints: value j
 * of a head is paired with value j + d/2, and the pair turns by `position · frequency[j]`.
 */
import type { Builder } from "../../ir/builder.ts";
import type { Node } from "../../ir/node.ts";
import type { RopeConfig } from "./rope_config.ts";

/** The tables of a rotary embedding, row-major `[positions, headDim]`. */
export interface RopeTables {
  cos(): Float32Array;
  sin(): Float32Array;
}

/** The turn per position of each pair of a head, in radians, after scaling: `headDim / 2` doubles. */
export function inverseFrequencies({ ropeTheta, ropeScaling: scaling }: RopeConfig, headDim: number): Float64Array {
  const base = Float64Array.from({ length: headDim / 2 }, (_, j) => ropeTheta ** (-2 * j / headDim));
  if (scaling === null) return base;
  if (scaling.type === "linear") return base.map((frequency) => frequency / scaling.factor);
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPosition } = scaling;
  return base.map((frequency) => {
    // Whole turns within the original context: few turns are slowed by `factor`, many are kept, and the rest is blended.
    const turns = originalMaxPosition * frequency / (2 * Math.PI);
    const kept = Math.min(Math.max((turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor), 0), 1);
    return kept * frequency + (1 - kept) * frequency / factor;
  });
}

/**
 * Tables for positions 0 … positions-1. The first half of a row of sines carries the minus sign of the rotation, so that
 * `applyRope` needs no negation.
 */
export function ropeTables(config: RopeConfig, headDim: number, positions: number): RopeTables {
  const frequencies = inverseFrequencies(config, headDim), half = headDim / 2;
  const table = (entry: (angle: number, j: number) => number) => {
    const values = new Float32Array(positions * headDim);
    for (let at = 0; at < values.length; at++) {
      const j = at % headDim;
      values[at] = entry(Math.floor(at / headDim) * (frequencies[j % half] ?? 0), j);
    }
    return values;
  };
  return {
    cos: () => table(Math.cos),
    sin: () => table((angle, j) => j < half ? -Math.sin(angle) : Math.sin(angle)),
  };
}

/**
 * Rotates heads: `x · cos + swapHalves(x) · sin`.
 *
 * @param x f32[B,T,heads,d]
 * @param cos rows of the table of cosines at the tokens' positions, f32[B,T,d]
 * @param sin rows of the table of sines, f32[B,T,d]
 */
export function applyRope(b: Builder, x: Node, cos: Node, sin: Node): Node {
  const [batch = 1, tokens = 1, heads = 1, width = 1] = x.type.shape;
  const halves = [batch, tokens, heads, 2, Number(width) / 2];
  const swapped = b.slice(b.reshape(x, halves), [0, 0, 0, 1, 0], halves, [1, 1, 1, -1, 1]);
  const perHead = (table: Node) => b.reshape(table, [batch, tokens, 1, width]);
  return b.add(b.mul(x, perHead(cos)), b.mul(b.reshape(swapped, x.type.shape), perHead(sin)));
}
