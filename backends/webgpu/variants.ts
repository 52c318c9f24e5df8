/**
 * Variants of a kernel: different divisions of the same work, of which a device runs one fastest. Which one is a question for a clock
 * (the backend asks it once per device); which ones there are depends on the specification and the traits alone.
 */
import type { DotKernel, KernelSpec } from "../kernel.ts";
import { planStream, type StreamPlan, type StreamShape } from "./stream_mat_vec.ts";
import { type KernelTraits, PORTABLE } from "./traits.ts";

/** The variant that every kernel has. */
export const GENERAL = "general";

/** Divisions of a contraction of a stream with few rows, likely ones first; see stream_mat_vec.ts. */
const STREAM_SHAPES: readonly StreamShape[] = [
  { lanes: 32, rows: 2, units: 1 },
  { lanes: 32, rows: 2, units: 2 },
  { lanes: 32, rows: 1, units: 2 },
  { lanes: 32, rows: 1, units: 4 },
  { lanes: 32, rows: 4, units: 1 },
  { lanes: 16, rows: 2, units: 2 },
  { lanes: 16, rows: 4, units: 1 },
  { lanes: 8, rows: 4, units: 1 },
  { lanes: 1, rows: 1, units: 2 },
];

/** Names of a kernel's variants; the first one is the default. */
export function kernelVariants(spec: KernelSpec, traits: KernelTraits = PORTABLE): readonly string[] {
  return spec.kind === "dot" ? [...streamPlans(spec, traits).keys(), GENERAL] : [GENERAL];
}

/** The plans of a contraction that can be streamed, by the names of their variants. */
export function streamPlans(spec: DotKernel, traits: KernelTraits): ReadonlyMap<string, StreamPlan> {
  const plans = new Map<string, StreamPlan>();
  for (const shape of STREAM_SHAPES) {
    const plan = planStream(spec, traits, shape);
    if (plan) plans.set(`lanes${plan.lanes}_rows${plan.rows}_units${plan.units}`, plan);
  }
  return plans;
}
