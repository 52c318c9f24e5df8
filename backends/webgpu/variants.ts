/**
 * Variants of a kernel: different divisions of the same work, of which a device runs one fastest. Which one is a question for a clock
 * (the backend asks it once per device); which ones there are depends on the specification and the traits alone.
 */
import type { AttentionKernel, DotKernel, KernelSpec } from "../kernel.ts";
import { type DecodePlan, type DecodeShape, planDecode } from "./attention_decode.ts";
import { type AttentionTilePlan, planAttentionTile } from "./attention_tile.ts";
import { planStream, type StreamPlan, type StreamShape } from "./stream_mat_vec.ts";
import { planTile, type TilePlan, type TileShape, usualTile } from "./tile.ts";
import { type KernelTraits, PORTABLE } from "./traits.ts";

/** The variant that every kernel has. */
export const GENERAL = "general";

/** Divisions of a contraction of a stream with few rows, likely ones first; see stream_mat_vec.ts. */
const STREAM_SHAPES: readonly StreamShape[] = [
  { lanes: 32, rows: 2, units: 1, ahead: false, threads: 128 },
  { lanes: 32, rows: 2, units: 2, ahead: false, threads: 128 },
  { lanes: 32, rows: 1, units: 2, ahead: false, threads: 128 },
  { lanes: 32, rows: 1, units: 4, ahead: false, threads: 128 },
  { lanes: 32, rows: 4, units: 1, ahead: false, threads: 128 },
  { lanes: 16, rows: 2, units: 2, ahead: false, threads: 128 },
  { lanes: 16, rows: 4, units: 1, ahead: false, threads: 128 },
  { lanes: 8, rows: 4, units: 1, ahead: false, threads: 128 },
  { lanes: 32, rows: 1, units: 2, ahead: true, threads: 128 },
  { lanes: 32, rows: 2, units: 1, ahead: true, threads: 128 },
  { lanes: 32, rows: 4, units: 1, ahead: true, threads: 128 },
  { lanes: 16, rows: 4, units: 1, ahead: true, threads: 128 },
  { lanes: 32, rows: 2, units: 1, ahead: true, threads: 256 },
  { lanes: 32, rows: 4, units: 1, ahead: true, threads: 256 },
  { lanes: 1, rows: 1, units: 2, ahead: false, threads: 128 },
];

/** Divisions of tiles by registers per invocation, for contractions with enough rows on both sides; see tile.ts. */
const TILE_SHAPES: readonly TileShape[] = [
  { tileM: 64, tileN: 128, perM: 4, perN: 8 },
  { tileM: 128, tileN: 128, perM: 8, perN: 8 },
];

/** Divisions of attention with few queries; see attention_decode.ts. */
const DECODE_SHAPES: readonly DecodeShape[] = [
  { threads: 256, splits: 1 },
  { threads: 128, splits: 1 },
  { threads: 128, splits: 4 },
  { threads: 128, splits: 8 },
  { threads: 128, splits: 16 },
];

/** How one contraction is written. */
export type DotPlan =
  | { readonly kind: "stream"; readonly plan: StreamPlan }
  | { readonly kind: "tile"; readonly plan: TilePlan }
  | { readonly kind: "mat-vec" };

/** Names of a kernel's variants; the first one is the default. */
export const kernelVariants = (spec: KernelSpec, traits: KernelTraits = PORTABLE): readonly string[] =>
  spec.kind === "dot"
    ? [...dotPlans(spec, traits).keys()]
    : spec.kind === "attention"
    ? [...attentionPlans(spec, traits).keys()]
    : [GENERAL];

/** How one attention is written. */
export type AttentionPlan =
  | { readonly kind: "decode"; readonly plan: DecodePlan }
  | { readonly kind: "tile"; readonly plan: AttentionTilePlan }
  | { readonly kind: "general" };

/** The plans of attention by the names of their variants. */
export function attentionPlans(spec: AttentionKernel, traits: KernelTraits): ReadonlyMap<string, AttentionPlan> {
  const plans = new Map<string, AttentionPlan>();
  for (const shape of DECODE_SHAPES) {
    const plan = shape.splits > 1 && !traits.scratch ? undefined : planDecode(spec, traits, shape);
    if (plan) plans.set(`threads${plan.threads}_splits${plan.splits}`, { kind: "decode", plan });
  }
  const tile = planAttentionTile(spec, traits);
  if (tile) plans.set("tile", { kind: "tile", plan: tile });
  return plans.set(GENERAL, { kind: "general" });
}

/** At most so many rows on one side count as few where nothing is known of the other. */
const FEW = 4;

const streamName = ({ lanes, rows, units, ahead, threads }: StreamPlan): string =>
  `lanes${lanes}_rows${rows}_units${units}${ahead ? "_ahead" : ""}${threads === 128 ? "" : `_of${threads}`}`;

/** The plans of a contraction by the names of their variants. */
export function dotPlans(spec: DotKernel, traits: KernelTraits): ReadonlyMap<string, DotPlan> {
  const plans = new Map<string, DotPlan>(), fewest = Math.min(spec.m, spec.n);
  for (const shape of STREAM_SHAPES) {
    const plan = planStream(spec, traits, shape);
    if (plan) plans.set(streamName(plan), { kind: "stream", plan });
  }
  if (fewest <= FEW) return plans.set(GENERAL, { kind: "mat-vec" });
  const usual = usualTile(spec);
  const add = (shape: TileShape, packed: boolean, name: string) => {
    const plan = planTile(spec, traits, shape, packed);
    if (plan) plans.set(name, { kind: "tile", plan });
  };
  const named = ({ tileM, tileN }: TileShape) => `tile${tileM}x${tileN}`;
  add(usual, true, `${named(usual)}_bytes`);
  const bytes = plans.has(`${named(usual)}_bytes`);
  add(usual, false, GENERAL);
  for (const shape of TILE_SHAPES.filter(({ tileM, tileN }) => spec.m > tileM / 2 && spec.n > tileN / 2)) {
    if (bytes) add(shape, true, `${named(shape)}_bytes`);
    else add(shape, false, named(shape));
  }
  return plans;
}
